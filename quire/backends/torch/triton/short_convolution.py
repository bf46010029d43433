"""A causal convolution of every channel with its last inputs, and the state that it leaves.

Tokens are computed side by side: what stands before a request's first token of the step is in its
record.  A second kernel then writes records, which may be those that the first one read.

Shapes: x and out [T, C] with any stride of rows, weight [C, taps], records [any, floats] float32;
request_of [T], starts [R + 1] and states [R, 4] int32, the last two as quire.ops.batch says.
Source: arXiv:2312.00752.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.tiles import Tile

__all__ = ["RecurrentStep", "convolve", "convolve_rows", "keep_inputs"]

ROWS, CHANNELS = 8, 128


@dataclass(frozen=True)
class RecurrentStep:
    """What layers with a state read of a step; see above.  start: where an op's begins in records.

    records is changed.
    """

    records: torch.Tensor
    start: int
    request_of: torch.Tensor
    starts: torch.Tensor
    states: torch.Tensor


def convolve(
    gpu: Launcher,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    step: RecurrentStep,
    out: torch.Tensor,
) -> None:
    """out = silu(bias + the sum over taps of weight * input)."""
    rows, channels = x.shape
    columns = -(-channels // CHANNELS)
    shared = {
        "x": x,
        "records": step.records,
        "starts": step.starts,
        "states": step.states,
        "state_start": step.start,
        "channels": channels,
        "x_stride": x.stride(0),
        "record_stride": step.records.stride(0),
        "TAPS": weight.shape[1],
        "BLOCK": CHANNELS,
    }
    gpu.run(
        convolve_rows, (-(-rows // ROWS), columns), Tile(ROWS, CHANNELS, 4, 1), **shared,
        weight=weight, bias=bias, out=out, request_of=step.request_of, rows=rows,
        out_stride=out.stride(0), ROWS=ROWS,
    )  # fmt: skip
    gpu.run(keep_inputs, (len(step.states), columns), Tile(1, CHANNELS, 4, 1), **shared)


@triton.jit(do_not_specialize=["rows"])
def convolve_rows(
    x, weight, bias, out, records, request_of, starts, states, state_start, rows, channels,
    x_stride, out_stride, record_stride, TAPS: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Tokens from program_id(0) * ROWS on, channels from program_id(1) * BLOCK on."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_row, is_channel = row < rows, channel < channels
    request = tl.load(request_of + row, mask=is_row, other=0)
    first = tl.load(starts + request, mask=is_row, other=0)
    record = tl.load(states + 4 * request, mask=is_row, other=-1)
    state = records + record.to(tl.int64) * record_stride + state_start
    sums = tl.zeros([ROWS, BLOCK], tl.float32)
    if bias is not None:
        sums += tl.load(bias + channel, mask=is_channel, other=0.0)[None, :]
    for tap in tl.static_range(TAPS):
        source = row - (TAPS - 1 - tap)
        is_new = (is_row & (source >= first))[:, None] & is_channel[None, :]
        is_old = (is_row & (source < first) & (record >= 0))[:, None] & is_channel[None, :]
        new = tl.load(
            x + (source.to(tl.int64) * x_stride)[:, None] + channel[None, :], mask=is_new, other=0.0
        )
        place = source - first + (TAPS - 1)
        old = tl.load(
            state[:, None] + (place * channels)[:, None] + channel[None, :], mask=is_old, other=0.0
        )
        factor = tl.load(weight + channel * TAPS + tap, mask=is_channel, other=0.0)
        sums += factor[None, :] * tl.where(is_new, new.to(tl.float32), old)
    tl.store(
        out + (row.to(tl.int64) * out_stride)[:, None] + channel[None, :],
        sums / (1.0 + tl.exp(-sums)), mask=is_row[:, None] & is_channel[None, :],
    )  # fmt: skip


@triton.jit
def _keep(
    x, records, read, write, start, end, state_start, channel, is_channel, channels, x_stride,
    record_stride, TAPS: tl.constexpr,
):  # fmt: skip
    """The last inputs before row `end` of tokens from `start` on, behind those of a record.

    In ascending order, so that a record may be read and written: a thread has its channels' own.
    A request that pads a step leaves no record.
    """
    old = records + read.to(tl.int64) * record_stride + state_start + channel
    kept = records + write.to(tl.int64) * record_stride + state_start + channel
    for place in tl.static_range(TAPS - 1):
        source = end - (TAPS - 1) + place
        is_new = is_channel & (source >= start)
        is_old = is_channel & (source < start) & (read >= 0)
        new = tl.load(x + source.to(tl.int64) * x_stride + channel, mask=is_new, other=0.0)
        before = source - start + (TAPS - 1)
        past = tl.load(old + before * channels, mask=is_old, other=0.0)
        numbers = tl.where(source >= start, new.to(tl.float32), past)
        tl.store(kept + place * channels, numbers, mask=is_channel & (write >= 0))


@triton.jit
def keep_inputs(
    x, records, starts, states, state_start, channels, x_stride, record_stride,
    TAPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Request program_id(0), channels from program_id(1) * BLOCK on."""
    request = tl.program_id(0)
    start, end = tl.load(starts + request), tl.load(starts + request + 1)
    read, write = tl.load(states + 4 * request), tl.load(states + 4 * request + 1)
    mark, kept = tl.load(states + 4 * request + 2), tl.load(states + 4 * request + 3)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_channel = channel < channels
    if mark > 0:
        _keep(
            x, records, read, kept, start, start + mark, state_start, channel, is_channel, channels,
            x_stride, record_stride, TAPS,
        )  # fmt: skip
        start += mark
        read = kept
    _keep(
        x, records, read, write, start, end, state_start, channel, is_channel, channels, x_stride,
        record_stride, TAPS,
    )  # fmt: skip
