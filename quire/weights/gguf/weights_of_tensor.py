"""Says what a GGUF tensor is put together from, the reverse of tensor_of_weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from quire.errors import ModelError
from quire.models.spec import ModelSpec, Weight
from quire.weights.gguf.architectures import Architecture

__all__ = ["TensorContents", "tensors_of"]

ENDINGS = (".weight", ".bias")


@dataclass(frozen=True, slots=True)
class TensorContents:
    """What a tensor holds: the rows of several weights; of a stack, those of each expert in turn.

    shape: in C order.  weights: of each expert, or of the one there is.  turned: the setting that
    counts the heads whose rows are stored for rotations of neighbours.  offset: what is added to
    the numbers.
    """

    shape: tuple[int, ...]
    weights: tuple[tuple[str, ...], ...]
    turned: str | None = None
    offset: float = 0.0


def tensors_of(spec: ModelSpec, architecture: Architecture) -> dict[str, TensorContents]:
    """Tensor → what it is made of.

    Raises ModelError for a weight that the architecture has no name for.
    """
    left = dict(spec.weights())
    made: dict[str, TensorContents] = {}
    for own, module in architecture.tensors.items():
        for ending in ENDINGS:
            made.update(_made(f"{own}{ending}", (module + ending,), left))
    for layer in range(len(spec.blocks)):
        front, prefix = f"blk.{layer}.", f"{architecture.layers}.{layer}."
        for own, modules in architecture.tensors_of_layer.items():
            for ending in ("",) if own.endswith(ENDINGS) else ENDINGS:
                parts = (modules,) if isinstance(modules, str) else modules
                names = tuple(f"{prefix}{each}{ending}" for each in parts)
                turned = architecture.turned.get(own)
                made.update(_made(f"{front}{own}{ending}", names, left, turned))
    if left:
        raise ModelError(
            f"GGUF files of {spec.architecture} are not written: the weight {next(iter(left))!r} "
            "stands in them in another way"
        )
    return {own: _shifted(own, each, architecture) for own, each in made.items()}


def _made(
    own: str, names: tuple[str, ...], left: dict[str, Weight], turned: str | None = None
) -> Iterator[tuple[str, TensorContents]]:
    """The tensor, if all of its weights are left; they are no longer."""
    if "{}" not in names[0]:
        if all(name in left for name in names):
            yield own, TensorContents(_joined(names, left), (names,), turned)
        return
    experts: list[tuple[str, ...]] = []
    while all(each.format(len(experts)) in left for each in names):
        experts.append(tuple(each.format(len(experts)) for each in names))
    if experts:
        shapes = {_joined(each, left) for each in experts}
        assert len(shapes) == 1, "experts of a layer are alike"
        yield own, TensorContents((len(experts), *shapes.pop()), tuple(experts), turned)


def _joined(names: tuple[str, ...], left: dict[str, Weight]) -> tuple[int, ...]:
    """The shape of weights whose rows stand one after another."""
    shapes = [left.pop(name).shape for name in names]
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _shifted(own: str, contents: TensorContents, architecture: Architecture) -> TensorContents:
    offset = architecture.norm_offset if own.endswith("norm.weight") else 0.0
    return replace(contents, offset=offset)
