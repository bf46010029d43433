"""Finds each weight that a model wants in a checkpoint and checks its shape and type."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from quire.errors import CheckpointError
from quire.weights.checkpoint import Checkpoint
from quire.weights.tensor import RawTensor

__all__ = ["load_weights", "spellings"]

logger = logging.getLogger(__name__)

# What different exports of one model put before the same name, most specific first.
PREFIXES = (
    "model.language_model.",
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
    r"|(self_attn|attn)\.([qkv]|prob)_scale|[kv]_proj\.(output_scale|[kv]_scale)"
    r")$"
)


def load_weights(
    checkpoint: Checkpoint,
    wanted: Mapping[str, tuple[int, ...]],
    aliases: Mapping[str, Sequence[str]] | None = None,
    used: Collection[str] = (),
) -> dict[str, RawTensor]:
    """Return every wanted tensor under its wanted name, as F32, F16 or BF16.

    wanted: name → shape.  aliases: wanted name → other names to look for, in order.  Each name
    is also looked for under the prefixes that exports of one model differ by.  The data are
    views of the files, except F64, which is narrowed to F32, and tensors at an address that is
    no multiple of 4, which are copied.  used: tensors that are read elsewhere.  What nobody wanted
    is reported in one warning.
    Raises CheckpointError for what is missing, has another shape or is not a plain float.
    """
    aliases = aliases or {}
    found = {name: _find(checkpoint, (name, *aliases.get(name, ()))) for name in wanted}
    missing = [name for name, source in found.items() if source is None]
    if missing:
        raise CheckpointError(_missing(checkpoint, missing, wanted))
    sources = {name: source for name, source in found.items() if source is not None}
    _report_unwanted(checkpoint, {*sources.values(), *used})
    return {
        name: _load(checkpoint, source, name, tuple(wanted[name]))
        for name, source in sources.items()
    }


def spellings(name: str) -> Iterator[str]:
    """Give the name as it is, then with each other prefix in place of its own."""
    yield name
    stem = next(name[len(prefix) :] for prefix in PREFIXES if name.startswith(prefix))
    for prefix in reversed(PREFIXES):
        yield prefix + stem


def _find(checkpoint: Checkpoint, names: Iterable[str]) -> str | None:
    """Return the checkpoint's own name for the first of these names that it has."""
    for name in names:
        for spelling in spellings(name):
            if checkpoint.has(spelling):
                return spelling
    return None


def _missing(
    checkpoint: Checkpoint, missing: Sequence[str], wanted: Mapping[str, tuple[int, ...]]
) -> str:
    """Say what is missing, and what the checkpoint has that looks like it."""
    first, *others = missing
    text = f"{checkpoint.origin}: has no tensor {first!r} {list(wanted[first])}"
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


def _load(checkpoint: Checkpoint, source: str, name: str, shape: tuple[int, ...]) -> RawTensor:
    """Read one tensor and check it against what the config says."""
    tensor = checkpoint.tensor(source)
    if tensor.shape != shape:
        raise CheckpointError(
            f"{checkpoint.origin}: {source!r} has the shape {list(tensor.shape)}, the config says "
            f"{list(shape)}; {MISMATCH}"
        )
    if tensor.dtype not in LOADABLE:
        raise CheckpointError(
            f"{checkpoint.origin}: {source!r} is stored as {tensor.dtype}, a plain weight as one "
            f"of {', '.join(LOADABLE)}; does config.json lack its quantization_config?"
        )
    return replace(_native(tensor), name=name)


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
