"""What is said of a model's graph: its ops, the body of each, their bytes and FLOPs."""

from __future__ import annotations

from dataclasses import dataclass

from quire.models.spec import ModelSpec

__all__ = ["BodyChoice", "Explanation", "Group", "OpLine", "PassRun", "Step", "Work"]


@dataclass(frozen=True, slots=True)
class BodyChoice:
    """The body that a backend runs for an op, or None; and why it has no other one."""

    op: str
    body: str | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one request: `tokens` new tokens, whose last one sees `context` positions."""

    tokens: int
    context: int


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations, and the fewest bytes that must move."""

    flops: int = 0
    bytes: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def times(self, count: int) -> Work:
        """This work `count` times."""
        return Work(self.flops * count, self.bytes * count)


@dataclass(frozen=True, slots=True)
class OpLine:
    """One op: its shapes in words, who runs it, and its work in a decode and a prefill step."""

    name: str
    detail: str
    choice: BodyChoice
    decode: Work
    prefill: Work


@dataclass(frozen=True, slots=True)
class Group:
    """Ops that `count` layers in a row have in common; count 1 and layer -1: outside the layers."""

    first_layer: int
    count: int
    lines: tuple[OpLine, ...]

    def work(self, step: str) -> Work:
        """The work of all its layers in the "decode" or the "prefill" step."""
        per_layer = sum((getattr(line, step) for line in self.lines), Work())
        return per_layer.times(self.count)


@dataclass(frozen=True, slots=True)
class PassRun:
    """One pass over the graph: how many ops stood there before and after; views are not counted."""

    name: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything about one model's graph on one backend.

    weight_format: of weights that are not quantized.  packed_bits: what an element of the others
    takes, its share of the scales included.  expert_bytes: those of the weight_bytes that only some
    tokens read.  declined: the fused ops that were taken apart again, and why.
    """

    spec: ModelSpec
    weight_format: str
    packed_bits: tuple[float, ...]
    weight_bytes: int
    expert_bytes: int
    kv_format: str
    kv_bytes_per_token: int
    decode_step: Step
    prefill_step: Step
    passes: tuple[PassRun, ...]
    declined: tuple[BodyChoice, ...]
    groups: tuple[Group, ...]

    @property
    def passed_over(self) -> tuple[BodyChoice, ...]:
        """The ops that a slower body computes, and why."""
        choices = [line.choice for group in self.groups for line in group.lines]
        return tuple(dict.fromkeys(each for each in choices if each.body and each.reason))

    def work(self, step: str) -> Work:
        """The work of the whole "decode" or "prefill" step."""
        return sum((group.work(step) for group in self.groups), Work())
