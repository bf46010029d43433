"""What captured steps take of a device's memory: an estimate before, and then what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from quire.backends.torch.padding import SIZES, size_for
from quire.graph.program import Program
from quire.models.spec import ModelSpec
from quire.ops.attention import PagedAttention
from quire.ops.convolution import ShortConvolution
from quire.ops.experts import MixtureOfExperts
from quire.ops.latent import LatentAttention
from quire.ops.recurrence import GatedDeltaRule, SelectiveScan

__all__ = ["NOTHING", "PARTIAL_BYTES", "GraphEstimate", "GraphMemory", "estimate"]

MIB = 1024**2
KERNEL_BYTES = 24 * 1024
"""Of a device, for each kernel of a graph.  Assumed: no device has been asked yet."""
KERNELS = {
    MixtureOfExperts: 30,
    PagedAttention: 5,
    LatentAttention: 5,
    ShortConvolution: 10,
    GatedDeltaRule: 30,
    SelectiveScan: 30,
}
"""Of an op; others have two on average."""
SAMPLER = 60
"""Kernels of a draw, at most: without Triton."""
ATTENTION = PagedAttention | LatentAttention
KINDS = 4
"""Mixed steps, decoding ones, and those that draw their tokens as well, as they are or changed."""
VALUES = 4
"""Times what a Program plans: three for what bodies make on the way, one for what crosses."""
PARTIAL_BYTES = 128 * MIB
"""Partial results of attention may take so much; see triton.bodies.attention_step."""


@dataclass(frozen=True, slots=True)
class GraphEstimate:
    """What captured steps take, if every size of step comes.

    kernels: in all graphs.  values: bytes of what they compute with, which the graphs share.
    """

    kernels: int
    values: int

    @property
    def num_bytes(self) -> int:
        """All of it."""
        return self.kernels * KERNEL_BYTES + self.values

    @property
    def line(self) -> str:
        """The arithmetic, for people."""
        return (
            f"{self.kernels} kernels in graphs of {KINDS * len(SIZES)} kinds of steps x "
            f"{KERNEL_BYTES // 1024} KiB + values {self.values / MIB:,.0f} MiB"
        )


NOTHING = GraphEstimate(0, 0)


def estimate(program: Program) -> GraphEstimate:
    """For steps of a Program."""
    spec = program.spec
    if not isinstance(spec, ModelSpec) or spec.bidirectional:
        return NOTHING
    ops = [node.op for node in program.body]
    most = min(program.limits.tokens, SIZES[-1])
    sizes = [size for size in SIZES if size <= (size_for(most) or most)]
    each = sum(KERNELS.get(type(op), 2) for op in ops)
    kernels = len(sizes) * (KINDS * each + 2 * SAMPLER)
    values = VALUES * 4 * program.buffers.arena_floats * most // program.limits.tokens
    values += (VALUES + 1) * 4 * program.limits.logit_rows * program.logits.width  # and counts
    tables = most * (program.limits.length or spec.max_length) // 4  # an int32 for 16 tokens
    chunks = PARTIAL_BYTES if any(isinstance(op, ATTENTION) for op in ops) else 0
    return GraphEstimate(kernels, values + tables + chunks)


@dataclass(slots=True)
class GraphMemory:
    """planned: bytes that captured steps may take; None: as many as they need.

    used: what they have taken, where the device tells; largest: for one size of step.
    """

    planned: int | None = None
    used: int = 0
    largest: int = 0

    @property
    def has_room(self) -> bool:
        """Whether one more size fits, if it takes no more than the largest so far."""
        return self.planned is None or self.used + self.largest < self.planned

    def note(self, num_bytes: int) -> None:
        """One more size was captured; what others free meanwhile does not count."""
        self.used += max(num_bytes, 0)
        self.largest = max(self.largest, num_bytes)

    def close(self) -> None:
        """The device refused: there is no more."""
        self.planned = 0
