"""A short causal convolution of every channel with its own past."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from quire.backends.torch.registry import body
from quire.backends.torch.segments import Int64, Segments, rounds
from quire.backends.torch.step import Step
from quire.ops.convolution import ShortConvolution

__all__ = ["short_convolution"]


@body(ShortConvolution, captured="decode")
def short_convolution(
    step: Step, op: ShortConvolution, x: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """silu(bias + the sum over taps), in which every tap picks its rows of the past or of x."""
    channels, past = x.shape[1], op.taps - 1
    matrices = [step.weights.matrix(name).widened(slice(None))[:, 0] for name in op.weights]
    taps = torch.cat(matrices).float().T  # [taps, C]
    out = torch.zeros_like(x)
    if op.biases:
        out += torch.cat([step.weights.vector(name) for name in op.biases])
    for index, segments in enumerate(rounds(step)):
        before = step.states.read(segments.read, op.state, (past, channels))
        line = torch.cat([before.flatten(0, 1), x])
        find = partial(_places, step, segments, past)
        of_taps, last = step.once(("taps", index, past), find)
        for weight, places in zip(taps, of_taps, strict=True):
            out[segments.rows] += weight * line[places]
        step.states.write(segments.write, op.state, line[last])
    return (torch.nn.functional.silu(out),)


def _places(step: Step, segments: Segments, past: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[taps, N], what each tap reads for each token; [R, past], what a run leaves."""
    if step.is_decoding:
        count = len(segments.rows)
        pasts = torch.arange(count * past, device=segments.rows.device).view(count, past)
        line = torch.cat([pasts, count * past + segments.rows[:, None]], dim=1)
        return line.T, line[:, 1:]
    runs, lags = np.arange(len(segments.counts)), np.arange(-past, 1)
    of_taps = _place(segments, segments.run, segments.offset + lags[:, None], past)
    last = _place(segments, runs[:, None], segments.counts[:, None] + lags[:-1], past)
    return step.put(of_taps), step.put(last)


def _place(segments: Segments, run: Int64, offset: Int64, past: int) -> Int64:
    """Where the input at an offset of a run stands: the pasts of all runs come before all of x."""
    in_past = (run + 1) * past + offset
    return np.where(
        offset < 0, in_past, len(segments.counts) * past + segments.starts[run] + offset
    )
