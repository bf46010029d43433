"""A short causal convolution of every channel with its own past, which a request's state holds.

Source: arXiv:2312.00752 (before the scan of Mamba), arXiv:2412.06464.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quire.ops.op import Cost, Environment, Float32

__all__ = ["ShortConvolution"]


@dataclass(frozen=True, slots=True)
class ShortConvolution:
    """[T, C]: y[t] = silu(bias + sum over taps j of weight[j] * x[t - taps + 1 + j]), by channel.

    What stands before a request's first token is 0; what stands before this step's first token is
    in its state, at `state`: the last taps - 1 inputs, [taps - 1, C].
    weights: [c, 1, taps] each, side by side C channels.  biases: [c] each, or none at all.
    """

    state: int
    taps: int
    weights: tuple[str, ...]
    biases: tuple[str, ...] = ()

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """As the input."""
        return inputs

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """Request by request, over its past and its new inputs."""
        (x,) = inputs
        channels, past = x.shape[1], self.taps - 1
        weight = np.concatenate([env.weights[name] for name in self.weights])[:, 0].T  # [taps, C]
        bias = np.concatenate([env.weights[name] for name in self.biases]) if self.biases else 0
        out = np.empty_like(x)
        for start, end, read, write in env.batch.state_segments():
            before = env.states.read(read, self.state, (past, channels))
            line = np.concatenate([before, x[start:end]])
            env.states.write(write, self.state, line[len(line) - past :])
            for at in range(end - start):
                out[start + at] = (weight * line[at : at + self.taps]).sum(axis=0) + bias
        with np.errstate(over="ignore"):
            return ((out / (1 + np.exp(-out))).astype(np.float32),)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """A product for each tap; the state is read and written."""
        channels = inputs[0]
        state = 2 * (self.taps - 1) * channels
        return Cost(
            flops=rows * channels * (2 * self.taps + 4),
            weights=self.taps * channels,
            activations=2 * rows * channels + state,
        )

    @property
    def weight_names(self) -> tuple[str, ...]:
        """Weights and biases."""
        return self.weights + self.biases
