"""Finds each weight that a model wants in a checkpoint and checks its shape and type."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from quire.errors import CheckpointError
from quire.models.places import Place
from quire.models.spec import Weight
from quire.weights.checkpoint import Checkpoint
from quire.weights.part_of_tensor import part_of_tensor
from quire.weights.tensor import RawTensor

__all__ = ["find_place", "load_weights", "spellings"]

logger = logging.getLogger(__name__)

# What different exports of one model put before the same name, most specific first.
PREFIXES = (
    "model.language_model.",
    "model.text_model.",
    "language_model.model.",
    "language_model.",
    "transformer.",
    "model.",
    "",
)

LOADABLE = ("F32", "F16", "BF16", "F64")

MISMATCH = "do config.json and the weights belong together?"

# Constants that old exports stored beside the weights; the config determines them all.  Scales of a
# cache in float8 say nothing here: each token's keys and values bring their own.
HARMLESS = re.compile(
    r"(^|\.)("
    r"rotary_emb\.(inv_freq|cos_cached|sin_cached)|rotary_pos_emb\.inv_freq|rope\.freqs"
    r"|(attn|attention|self_attention)\.(bias|masked_bias)|attn\.attention\.(bias|masked_bias)"
    r"|position_ids|causal_mask|attn_bias|num_batches_tracked"
    r"|(self_attn|attn)\.([qkv]|kv|prob)_scale|[kv]_proj\.(output_scale|[kv]_scale)"
    r")$"
)


def load_weights(
    checkpoint: Checkpoint,
    wanted: Mapping[str, Weight],
    used: Collection[str] = (),
    unused: tuple[str, ...] = (),
) -> dict[str, RawTensor]:
    """Return every wanted weight by name, as F32, F16 or BF16.

    Each is looked for in all of its places, and there under the prefixes that exports of one model
    differ by.  The data are views of the files, except F64, which is narrowed to F32, tensors at an
    address that is no multiple of 4, and parts of a tensor that are not contiguous rows.
    used: tensors that are read elsewhere.  unused: what the names of tensors begin with that are
    left alone on purpose.  What nobody wanted is reported in one warning.
    Raises CheckpointError for what is missing, has another shape or is not a plain float.
    """
    found = {name: find_place(checkpoint, weight) for name, weight in wanted.items()}
    missing = [wanted[name] for name, place in found.items() if place is None]
    if missing:
        raise CheckpointError(_missing(checkpoint, missing))
    places = {name: place for name, place in found.items() if place is not None}
    spared = [name for name in checkpoint.names if name.startswith(unused)]
    if spared:
        logger.info("%d tensors only guess ahead, or only see images: not used", len(spared))
    read = {name for place in places.values() for name in place.tensors}
    _report_unwanted(checkpoint, {*read, *used, *spared})
    return {name: _load(checkpoint, place, name) for name, place in places.items()}


def find_place(checkpoint: Checkpoint, weight: Weight) -> Place | None:
    """The first of a weight's places that the checkpoint has, under its own name for it.

    Of places of one name, which differ in shape, it is the one that the tensor there has.
    """
    for place in weight.places:
        for spelling in spellings(place.name):
            if all(map(checkpoint.has, replace(place, name=spelling).tensors)):
                alike = [each for each in weight.places if each.name == place.name]
                if len(alike) > 1:
                    shape = checkpoint.tensor(spelling).shape
                    place = next((each for each in alike if each.shape == shape), place)
                return replace(place, name=spelling)
    return None


def spellings(name: str) -> Iterator[str]:
    """Give the name as it is, then with each other prefix in place of its own."""
    yield name
    stem = next(name[len(prefix) :] for prefix in PREFIXES if name.startswith(prefix))
    for prefix in reversed(PREFIXES):
        yield prefix + stem


def _missing(checkpoint: Checkpoint, missing: Sequence[Weight]) -> str:
    """Say what is missing, and what the checkpoint has that looks like it."""
    shapes = {weight.places[-1].name: weight.places[-1].shape for weight in missing}
    first, *others = shapes
    text = f"{checkpoint.origin}: has no tensor {first!r} {list(shapes[first])}"
    if others:
        shown = ", ".join(repr(name) for name in others[:5])
        text += f", nor {len(others)} more: {shown}{', …' if len(others) > 5 else ''}"
    near = ", ".join(repr(name) for name in _nearest(first, checkpoint.names))
    return f"{text}; nearest there: {near or 'nothing'}; {MISMATCH}"


def _nearest(name: str, names: Collection[str]) -> list[str]:
    """Return the three names that share the most at their start and end."""

    def shared(other: str) -> int:
        return _common_start(name, other) + _common_start(name[::-1], other[::-1])

    return sorted(names, key=shared, reverse=True)[:3]


def _common_start(left: str, right: str) -> int:
    """Count the characters that two texts start with alike."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(left), len(right)))


def _load(checkpoint: Checkpoint, place: Place, name: str) -> RawTensor:
    """Read what a place says, and take the weight out of it."""
    if not place.stack:
        return _read(checkpoint, place, name)
    read = [_read(checkpoint, replace(place, name=each, stack=0), name) for each in place.tensors]
    data = np.stack([each.data for each in read])
    return replace(read[0], shape=data.shape, data=data)


def _read(checkpoint: Checkpoint, place: Place, name: str) -> RawTensor:
    """Read one tensor, check it against what the config says, and take the weight out of it."""
    tensor = checkpoint.tensor(place.name)
    if tensor.shape != tuple(place.shape):
        raise CheckpointError(
            f"{checkpoint.origin}: {place.name!r} has the shape {list(tensor.shape)}, the config "
            f"says {list(place.shape)}; {MISMATCH}"
        )
    if tensor.dtype not in LOADABLE:
        raise CheckpointError(
            f"{checkpoint.origin}: {place.name!r} is stored as {tensor.dtype}, a plain weight as "
            f"one of {', '.join(LOADABLE)}; does config.json lack its quantization_config?"
        )
    return replace(_native(part_of_tensor(tensor, place)), name=name)


def _native(tensor: RawTensor) -> RawTensor:
    """Narrow float64, and move what the kernels could not address."""
    if tensor.dtype == "F64":
        return replace(tensor, dtype="F32", data=tensor.float32())
    if tensor.data.ctypes.data % 4:
        return replace(tensor, data=tensor.data.copy())
    return tensor


def _report_unwanted(checkpoint: Checkpoint, used: Collection[str]) -> None:
    """Warn once about tensors that no part of the model asked for."""
    unwanted = [name for name in checkpoint.names if name not in used]
    unwanted = [name for name in unwanted if not HARMLESS.search(name)]
    if unwanted:
        shown = ", ".join(repr(name) for name in unwanted[:5])
        logger.warning(
            "%s: %d tensors are not part of the model and stay unread: %s%s",
            checkpoint.origin,
            len(unwanted),
            shown,
            ", …" if len(unwanted) > 5 else "",
        )
