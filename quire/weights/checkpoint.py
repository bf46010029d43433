"""Finds the weights of a checkpoint and presents one file or many shards alike."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

from quire.errors import CheckpointError
from quire.weights.safetensors import SafetensorsFile
from quire.weights.strict_json import parse_json
from quire.weights.tensor import RawTensor

__all__ = ["WEIGHT_FILES", "Checkpoint", "open_checkpoint"]

MAX_INDEX_BYTES = 100_000_000

# In order of preference; an index is the JSON of `weight_map: {tensor name: file name}`.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


class Checkpoint(Protocol):
    """Named tensors, wherever they come from; `origin` says where, for messages."""

    origin: str

    @property
    def names(self) -> Collection[str]:
        """Every tensor's name."""

    def has(self, name: str) -> bool:
        """Say whether there is a tensor of this name."""

    def tensor(self, name: str) -> RawTensor:
        """Return one tensor; raises CheckpointError if there is none of this name."""


def open_checkpoint(directory: str | Path) -> Checkpoint:
    """Open the weights in a directory, or a GGUF file; headers are checked, weights read when used.

    Raises CheckpointError if there are none, or they are damaged or not complete.
    """
    directory = Path(directory)
    if directory.suffix == ".gguf":
        from quire.weights.gguf.checkpoint import GgufCheckpoint  # here: few checkpoints need it
        from quire.weights.gguf.model import open_gguf

        return GgufCheckpoint(open_gguf(directory))
    for file_name in WEIGHT_FILES:
        path = directory / file_name
        if os.path.isfile(path):
            return _Shards(path) if path.suffix == ".json" else _open_file(path)
    raise CheckpointError(
        f"{directory}: no weights there; Quire reads {', '.join(WEIGHT_FILES)}; {_seen(directory)}"
    )


def _open_file(path: Path) -> Checkpoint:
    """Open one file of weights by its name."""
    if path.suffix != ".bin":
        return SafetensorsFile(path)
    from quire.weights.torch_pickle import TorchPickleFile  # here: few checkpoints need it

    return TorchPickleFile(path)


def _seen(directory: Path) -> str:
    """Say what a directory holds instead of weights."""
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        return f"it cannot be listed: {error.strerror}"
    return (
        f"it holds {', '.join(names[:12])}{', …' * (len(names) > 12)}" if names else "it is empty"
    )


class _Shards:
    """The tensors that an index spreads over several files of one directory."""

    def __init__(self, index: Path) -> None:
        self.origin = str(index)
        places = _read_index(index)
        files = sorted(set(places.values()))
        _check_present(index, files)
        shards = {file: _open_file(index.parent / file) for file in files}
        self._shard_of = {name: shards[file] for name, file in places.items()}
        for name, shard in self._shard_of.items():
            if not shard.has(name):
                raise CheckpointError(
                    f"{index}: places {name!r:.200} in {shard.origin}, which lacks it; "
                    "download both files again"
                )
        self.names = tuple(self._shard_of)

    def has(self, name: str) -> bool:
        return name in self._shard_of

    def tensor(self, name: str) -> RawTensor:
        if name not in self._shard_of:
            raise CheckpointError(f"{self.origin}: has no tensor {name!r:.200}")
        return self._shard_of[name].tensor(name)


def _read_index(index: Path) -> Mapping[str, str]:
    """Read which file holds each tensor; file names that leave the directory are refused."""
    try:
        if index.stat().st_size > MAX_INDEX_BYTES:
            raise ValueError(f"it has more than {MAX_INDEX_BYTES} bytes")
        content = parse_json(index.read_bytes())
        places = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(places, dict) or not places:
            raise ValueError("it has no weight_map from tensor names to file names")
        for name, file in places.items():
            if not _is_base_name(file):
                raise ValueError(f"it places {name!r:.200} in {file!r:.200}, not a file name here")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{index}: not an index of weights: {error}; download it again"
        ) from error
    return places


def _is_base_name(file: object) -> bool:
    """Say whether this names a file of the index's own directory, on every system."""
    if not isinstance(file, str) or file in ("", ".", ".."):
        return False
    return file.isprintable() and not set(file) & set("/\\:")


def _check_present(index: Path, files: list[str]) -> None:
    """Raise CheckpointError, naming the missing shards, unless all are there."""
    missing = [file for file in files if not os.path.isfile(index.parent / file)]
    if missing:
        shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise CheckpointError(
            f"{index}: {len(missing)} of its {len(files)} shards are missing: {shown}; "
            "download the checkpoint again"
        )
