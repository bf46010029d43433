"""The seam between the runtime and what computes: a bound Program, or what acts like one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from quire.graph.ir import Node
from quire.ops.batch import Batch
from quire.ops.quantize import RowFormat
from quire.sampling.state import SampledRows, SamplingState

__all__ = [
    "Backend",
    "Executable",
    "Launched",
    "LaunchingExecutable",
    "LoadedWeights",
    "StoredWeight",
]


class StoredWeight(Protocol):
    """A tensor in memory: `data` carries the dtype "F32", "F16", "BF16" or one of BITS."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def data(self) -> npt.NDArray[Any]: ...

    def float32(self) -> npt.NDArray[np.float32]:
        """A float32 copy."""
        ...


LoadedWeights = Mapping[str, StoredWeight]


class Executable(Protocol):
    """A model bound to its weights, its KV cache and a machine; one step at a time."""

    @property
    def summary(self) -> str:
        """The backend, instruction set and threads, in words."""
        ...

    @property
    def expert_usage(self) -> Mapping[int, npt.NDArray[np.int64]]:
        """Layer with experts → how many tokens each of them has met so far."""
        ...

    def admit(self, slot: int, state: SamplingState) -> None:
        """From now on, sample for the requests of batches that have this slot as `state` says.

        Slots are small numbers, used again when a request is over.
        """
        ...

    def run(self, batch: Batch) -> SampledRows:
        """Compute every token of the batch, then sample one token for each logit row.

        Keys and values go to the KV cache.  Without logit rows only the cache changes.
        A row before the last position of its request's prompt draws nothing, but reports on the
        prompt's next token.
        """
        ...

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Compute every token of the batch; return the logits of its logit rows, [S, V]."""
        ...


class Launched(Protocol):
    """A step that a device has been given."""

    def wait(self) -> SampledRows:
        """What came of its logit rows, once that is on the host."""
        ...


@runtime_checkable
class LaunchingExecutable(Executable, Protocol):
    """An executable whose device computes while the host goes on; others need not know of it."""

    @property
    def overlaps(self) -> bool:
        """Whether that gains time: on a CPU, which is the host, it does not."""
        ...

    def launch(self, batch: Batch) -> Launched:
        """As `run`, but returns before the step is computed; steps are computed in order.

        A token id UNKNOWN_TOKEN stands for what the step before sampled for the request, found by
        its slot.  The batch may be filled anew as soon as this returns.
        """
        ...


class Backend(Protocol):
    """A set of op bodies for one kind of machine."""

    name: str

    @property
    def build(self) -> str:
        """The code that computes: the same build gives the same bits."""
        ...

    def row_format(self, weight_dtype: str) -> RowFormat:
        """What its kernels multiply weights of a dtype with: activations are rounded to it."""
        ...

    def declines(self, node: Node) -> str | None:
        """Why this backend has no body for the node; None when it has one."""
        ...

    def body(self, node: Node) -> str:
        """The name of the body it would run, for people."""
        ...

    def passed_over(self, node: Node) -> str | None:
        """Why a faster body does not run the node; None when there is none."""
        ...
