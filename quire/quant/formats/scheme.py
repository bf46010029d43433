"""How one matrix stands in a checkpoint: which tensors it is made of, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from quire.errors import CheckpointError
from quire.quant.matrix import QuantizedMatrix

__all__ = ["Meaning", "ModuleSchemes", "Scheme", "StoredTensor", "Tensors", "whole_rows"]

Meaning = Literal["symmetric", "zeros", "minimums", "table"]
"""Which part of a QuantizedMatrix says what a code means."""


class StoredTensor(Protocol):
    """A tensor as its file stores it; see quire.weights.tensor.RawTensor."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def data(self) -> npt.NDArray[Any]: ...


class Tensors:
    """The tensors of one linear layer by the end of their names; each is checked when taken."""

    def __init__(self, module: str, shape: tuple[int, int], found: Mapping[str, StoredTensor]):
        self.module = module
        self.shape = shape
        self._found = found

    def __contains__(self, part: str) -> bool:
        return part in self._found

    def dtype(self, part: str) -> str:
        """The stored type of a tensor, "" if it is not there."""
        return self._found[part].dtype if part in self._found else ""

    def take(self, part: str, dtypes: tuple[str, ...], *shapes: tuple[int, ...]) -> Any:
        """The data of one tensor of these types and one of these shapes, () being any number.

        Raises CheckpointError that names the tensor, what it is and what it should be.
        """
        if part not in self._found:
            raise self.error(f"there is no {self.module}.{part}")
        tensor = self._found[part]
        if tensor.dtype not in dtypes:
            raise self.error(f".{part} is {tensor.dtype}, not {' or '.join(dtypes)}")
        if shapes and tensor.shape not in shapes:
            wanted = " or ".join(str(list(shape)) for shape in shapes)
            raise self.error(f".{part} has the shape {list(tensor.shape)}, not {wanted}")
        return tensor.data

    def floats(self, part: str, *shapes: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """A tensor of finite plain floats, as float32."""
        from quire.ops.number_formats import float32_from_bfloat16

        data = self.take(part, ("F32", "F16", "BF16"), *shapes)
        wide = (
            float32_from_bfloat16(data) if self.dtype(part) == "BF16" else data.astype(np.float32)
        )
        return self.finite(part, wide)

    def finite(self, part: str, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The values, if all of them are finite."""
        if not np.isfinite(values).all():
            wrong = int((~np.isfinite(values)).sum())
            raise self.error(f".{part} has {wrong} numbers that are not finite")
        return values

    def error(self, fault: str) -> CheckpointError:
        """What is wrong with this layer, and the cure."""
        rows, cols = self.shape
        return CheckpointError(
            f"{self.module!r} ({rows} × {cols}): {fault}; download the checkpoint again, or "
            "quantize the original anew"
        )


@dataclass(frozen=True, slots=True)
class Scheme:
    """How one matrix [rows, cols] is stored.

    label: for people, "awq 4 bits, groups of 128".  parts: ends of the names of its tensors.
    optional: tensors that may be missing.  unused: tensors that say nothing about the weight, left
    unread on purpose.  group_size: None for whole rows.  meaning, reordered: which arrays the
    QuantizedMatrix has.  read: makes it.  stacked: tensors hold a matrix [out, in] of every expert,
    [experts, ...], and the parts stand behind an underscore.
    """

    label: str
    bits: int
    group_size: int | None
    meaning: Meaning
    parts: tuple[str, ...]
    read: Callable[[Tensors], QuantizedMatrix]
    optional: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    reordered: bool = False
    stacked: bool = False

    def blank(self, rows: int, cols: int) -> QuantizedMatrix:
        """A matrix as this scheme stores it, with nothing in it: shows what kernels make of it."""
        size = whole_rows(self.group_size, cols)
        groups = (rows, -(-cols // size))
        codes, scales = np.zeros((rows, cols), np.uint8), np.ones(groups, np.float32)
        return QuantizedMatrix(
            self.label,
            self.bits,
            size,
            codes,
            scales,
            zeros=np.zeros(groups, np.uint8) if self.meaning == "zeros" else None,
            minimums=scales if self.meaning == "minimums" else None,
            table=np.arange(1 << self.bits, dtype=np.float32) if self.meaning == "table" else None,
            order=np.arange(cols, dtype=np.int32)[::-1].copy() if self.reordered else None,
        )

    @property
    def joint(self) -> str:
        """What stands between the layer's name and a part's."""
        return "_" if self.stacked else "."

    @property
    def marks(self) -> tuple[str, ...]:
        """Ends of names that only a quantized layer has."""
        return tuple(part for part in self.parts if part != "weight")


ModuleSchemes = Callable[[str], Scheme | None]
"""The name of a linear layer → how the config says it is stored; None: as plain floats."""


def whole_rows(group_size: int | None, cols: int) -> int:
    """The number of columns that share a scale, None being all of them."""
    return cols if group_size is None else group_size
