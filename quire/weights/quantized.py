"""Finds the matrices of linear layers that a checkpoint holds quantized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from quire.errors import CheckpointError
from quire.models.places import Place
from quire.models.spec import Linear
from quire.quant.formats.scheme import ModuleSchemes, Scheme, Tensors
from quire.quant.matrix import QuantizedMatrix
from quire.weights.checkpoint import Checkpoint
from quire.weights.loader import spellings
from quire.weights.part_of_tensor import part_of_matrix, refuse_part

__all__ = ["StoredMatrix", "find_matrices"]

WEIGHT = ".weight"


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """A matrix as a checkpoint has it: which of its tensors make it, and how.

    name: of the weight in the spec.  place: the part of the stored matrix that it is.  module: the
    layer's own name in the checkpoint.  parts: ends of the names of the tensors to read.  left:
    names of tensors that are left unread on purpose.
    """

    name: str
    place: Place
    module: str
    scheme: Scheme
    parts: tuple[str, ...]
    left: tuple[str, ...]
    checkpoint: Checkpoint

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, cols) of the weight."""
        return self.place.part_shape

    @property
    def sources(self) -> tuple[str, ...]:
        """The checkpoint's tensors that belong to it."""
        return (*(f"{self.module}.{part}" for part in self.parts), *self.left)

    @property
    def label(self) -> str:
        """How it is stored, for people."""
        return self.scheme.label

    def sample(self, rows: int) -> QuantizedMatrix:
        """So many rows of its kind, without a weight in them."""
        return self.scheme.blank(rows, self.place.shape[-1])

    def read(self) -> QuantizedMatrix:
        """Unpack it; raises CheckpointError, naming the layer, for tensors that do not fit.

        What shares its tensors with others is unpacked with them.
        """
        rows, cols = self.place.shape
        found = {part: self.checkpoint.tensor(f"{self.module}.{part}") for part in self.parts}
        try:
            whole = self.scheme.read(Tensors(self.module, (rows, cols), found))
        except CheckpointError as error:
            raise CheckpointError(f"{self.checkpoint.origin}: {error}") from None
        return part_of_matrix(whole, self.place)


def find_matrices(
    checkpoint: Checkpoint, linears: Mapping[str, Linear], scheme_of: ModuleSchemes
) -> dict[str, StoredMatrix]:
    """The linear layers that are stored as their scheme says, by the name of their weight.

    linears: by the name of their weight.  A layer with a scheme and none of the tensors that only
    the scheme has is a plain one; those are left out.  Raises CheckpointError for a layer that has
    some of its tensors only, or tensors that nobody knows.
    """
    modules = _modules(checkpoint, linears)
    found = {}
    for name, (place, parts) in modules.items():
        scheme = scheme_of(place.name)
        if scheme is None or not any(mark in parts for mark in scheme.marks):
            continue
        found[name] = _matrix(checkpoint, linears[name], place, parts, scheme)
    return found


def _modules(
    checkpoint: Checkpoint, linears: Mapping[str, Linear]
) -> dict[str, tuple[Place, set[str]]]:
    """Weight → its place, named as the layer there, and the ends of the layer's tensors' names."""
    parts: dict[str, set[str]] = {}
    for name in checkpoint.names:
        pieces = name.split(".")
        for at in range(1, len(pieces)):
            parts.setdefault(".".join(pieces[:at]), set()).add(".".join(pieces[at:]))
    found = {}
    for name, linear in linears.items():
        for place in linear.weight.places:
            modules = [each for each in spellings(place.name.removesuffix(WEIGHT)) if each in parts]
            if modules:
                found[name] = (replace(place, name=modules[0]), parts[modules[0]])
                break
    return found


def _matrix(
    checkpoint: Checkpoint, linear: Linear, place: Place, parts: set[str], scheme: Scheme
) -> StoredMatrix:
    module = place.name
    origin = f"{checkpoint.origin}: {module!r} is stored as {scheme.label}"
    refuse_part(place, origin)
    missing = [part for part in scheme.parts if part not in parts]
    if missing:
        raise CheckpointError(
            f"{origin} and lacks {', '.join(f'.{part}' for part in missing)}; it has "
            f"{', '.join(f'.{part}' for part in sorted(parts))}; download the checkpoint again"
        )
    known = {*scheme.parts, *scheme.optional, *scheme.unused, "bias"}
    unknown = sorted(parts - known)
    if unknown:
        what = "plain weights beside" if unknown == ["weight"] else "tensors that are no part of"
        raise CheckpointError(
            f"{origin} and has {what} it: {', '.join(f'.{part}' for part in unknown)}; "
            "which of them count cannot be known, so use another checkpoint of this model"
        )
    left = [part for part in scheme.unused if part in parts]
    if linear.bias is None and "bias" in parts:
        _check_zero(checkpoint, f"{module}.bias")
        left.append("bias")
    return StoredMatrix(
        linear.weight.name,
        place,
        module,
        scheme,
        (*scheme.parts, *(part for part in scheme.optional if part in parts)),
        tuple(f"{module}.{part}" for part in left),
        checkpoint,
    )


def _check_zero(checkpoint: Checkpoint, name: str) -> None:
    """Some writers give every layer a bias; where the model has none it must say nothing."""
    if np.any(checkpoint.tensor(name).float32()):
        raise CheckpointError(
            f"{checkpoint.origin}: {name!r} is a bias that the config does not know, and is not "
            "zero; do config.json and the weights belong together?"
        )
