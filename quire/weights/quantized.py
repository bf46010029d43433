"""Finds the matrices of linear layers that a checkpoint holds quantized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from quire.weights.tensor import RawTensor

__all__ = ["StoredMatrix", "find_matrices"]

WEIGHT = ".weight"


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """A matrix as a checkpoint has it: which of its tensors make it, and how.

    name: of the weight in the spec.  place: the part of the stored matrix that it is, or of one in
    a stack.  module: the layer's own name in the checkpoint.  parts: ends of the names of the
    tensors to read.  left: names of tensors that are left unread on purpose.
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
        return (*(self._source(part) for part in self.parts), *self.left)

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
        rows, cols = self.place.shape[-2:]
        expert = self.place.expert
        try:
            found = {part: self._tensor(part) for part in self.parts}
            name = self.module if expert is None else f"{self.module}[{expert}]"
            whole = self.scheme.read(Tensors(name, (rows, cols), found))
        except CheckpointError as error:
            raise CheckpointError(f"{self.checkpoint.origin}: {error}") from None
        return part_of_matrix(whole, self.place)

    def _source(self, part: str) -> str:
        return f"{self.module}{self.scheme.joint}{part}"

    def _tensor(self, part: str) -> RawTensor:
        """A tensor of its own, or its expert's share of the stack's."""
        tensor = self.checkpoint.tensor(self._source(part))
        if self.place.expert is None:
            return tensor
        count = self.place.shape[0]
        if tensor.shape[:1] != (count,):
            raise CheckpointError(
                f"{tensor.name!r} has the shape {list(tensor.shape)}, the config says {count} "
                "experts; do config.json and the weights belong together?"
            )
        data = tensor.data[self.place.expert]
        return replace(tensor, shape=tensor.shape[1:], data=data)


def find_matrices(
    checkpoint: Checkpoint, linears: Mapping[str, Linear], scheme_of: ModuleSchemes
) -> dict[str, StoredMatrix]:
    """The linear layers that are stored as their scheme says, by the name of their weight.

    linears: by the name of their weight.  A layer with a scheme and none of the tensors that only
    the scheme has is a plain one; those are left out.  Raises CheckpointError for a layer that has
    some of its tensors only, or tensors that nobody knows.
    """
    modules = _modules(checkpoint, linears, scheme_of)
    found = {}
    for name, (place, parts) in modules.items():
        scheme = scheme_of(place.name)
        if scheme is None or not any(mark in parts for mark in scheme.marks):
            continue
        found[name] = _matrix(checkpoint, linears[name], place, parts, scheme)
    return found


def _modules(
    checkpoint: Checkpoint, linears: Mapping[str, Linear], scheme_of: ModuleSchemes
) -> dict[str, tuple[Place, set[str]]]:
    """Weight → its place, named as the layer there, and the ends of the layer's tensors' names."""
    parts: dict[str, set[str]] = {}
    for name in checkpoint.names:
        pieces = name.split(".")
        for at in range(1, len(pieces)):
            parts.setdefault(".".join(pieces[:at]), set()).add(".".join(pieces[at:]))
    parts |= _stacks(checkpoint, linears, scheme_of)
    found = {}
    for name, linear in linears.items():
        for place in linear.weight.places:
            modules = [each for each in spellings(place.name.removesuffix(WEIGHT)) if each in parts]
            if modules:
                found[name] = (replace(place, name=modules[0]), parts[modules[0]])
                break
    return found


def _stacks(
    checkpoint: Checkpoint, linears: Mapping[str, Linear], scheme_of: ModuleSchemes
) -> dict[str, set[str]]:
    """The stacks of experts with a scheme, and the ends of their tensors' names."""
    places = {place for linear in linears.values() for place in linear.weight.places}
    names = {place.name.removesuffix(WEIGHT) for place in places if place.expert is not None}
    stacks: dict[str, set[str]] = {}
    for stack in (spelling for name in names for spelling in spellings(name)):
        scheme = scheme_of(stack)
        if scheme is not None and scheme.stacked:
            ends = {name.removeprefix(f"{stack}_") for name in checkpoint.names}
            stacks[stack] = ends - set(checkpoint.names)
    return {stack: ends for stack, ends in stacks.items() if ends}


def _matrix(
    checkpoint: Checkpoint, linear: Linear, place: Place, parts: set[str], scheme: Scheme
) -> StoredMatrix:
    module = place.name
    origin = f"{checkpoint.origin}: {module!r} is stored as {scheme.label}"
    if scheme.stacked:
        place = _as_in_a_stack(place)
    else:
        refuse_part(place, origin)
    missing = [part for part in scheme.parts if part not in parts]
    if missing:
        raise CheckpointError(
            f"{origin} and lacks {_ends(scheme, missing)}; it has {_ends(scheme, sorted(parts))}; "
            "download the checkpoint again"
        )
    known = {*scheme.parts, *scheme.optional, *scheme.unused, "bias"}
    unknown = sorted(parts - known)
    if unknown:
        what = "plain weights beside" if unknown == ["weight"] else "tensors that are no part of"
        raise CheckpointError(
            f"{origin} and has {what} it: {_ends(scheme, unknown)}; "
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


def _as_in_a_stack(place: Place) -> Place:
    """A quantized stack holds matrices [out, in], even where one of floats has them turned."""
    count, *matrix = place.shape
    shape = (count, *(matrix[::-1] if place.transposed else matrix))
    return replace(place, shape=shape, transposed=False)


def _ends(scheme: Scheme, parts: Sequence[str]) -> str:
    return ", ".join(f"{scheme.joint}{part}" for part in parts)


def _check_zero(checkpoint: Checkpoint, name: str) -> None:
    """Some writers give every layer a bias; where the model has none it must say nothing."""
    if np.any(checkpoint.tensor(name).float32()):
        raise CheckpointError(
            f"{checkpoint.origin}: {name!r} is a bias that the config does not know, and is not "
            "zero; do config.json and the weights belong together?"
        )
