"""Ops that only pick: a range of columns, or the rows whose logits are wanted."""

from __future__ import annotations

from dataclasses import dataclass

from quire.ops.op import Cost, Environment, Float32, WithoutWeights

__all__ = ["Columns", "SelectRows"]


@dataclass(frozen=True, slots=True)
class Columns(WithoutWeights):
    """Columns start .. stop - 1 of the input: a view, which costs nothing."""

    start: int
    stop: int

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """The range's width."""
        return (self.stop - self.start,)

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """The slice."""
        return (inputs[0][:, self.start : self.stop],)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """Nothing."""
        return Cost()


@dataclass(frozen=True, slots=True)
class SelectRows(WithoutWeights):
    """[S, group * width] = x[logit_rows], where `group` rows of x side by side count as one."""

    group: int = 1

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """A group of the input's rows."""
        return (self.group * inputs[0],)

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """The rows."""
        x = inputs[0].reshape(-1, self.group * inputs[0].shape[1])
        return (x[env.batch.logit_rows],)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """A copy."""
        return Cost(activations=2 * rows * self.group * inputs[0])
