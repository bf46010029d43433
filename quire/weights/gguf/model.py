"""One GGUF model: a file, or the parts that `NAME-00001-of-0000N.gguf` is the first of."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.errors import CheckpointError
from quire.weights.gguf.container import GgufFile, GgufTensor
from quire.weights.gguf.files import parts_of

__all__ = ["GgufModel", "open_gguf"]


class GgufModel:
    """All parts as one.

    metadata: the first part's.  tensors: of all parts, by name.  Raises CheckpointError for parts
    that are missing, in excess or out of order, and for names that two of them have.
    """

    def __init__(self, path: Path) -> None:
        self.origin = str(path)
        files = [GgufFile(part) for part in parts_of(path)]
        self.metadata: Mapping[str, Any] = files[0].metadata
        self.tensors: dict[str, GgufTensor] = {}
        self._file_of: dict[str, GgufFile] = {}
        for number, file in enumerate(files):
            _check_part(file, number, len(files))
            for name, tensor in file.tensors.items():
                if name in self.tensors:
                    raise CheckpointError(f"{file.origin}: another part also has {name!r:.200}")
                self.tensors[name], self._file_of[name] = tensor, file

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor, [bytes]: a view of the file."""
        return self._file_of[name].raw(self.tensors[name])


def open_gguf(path: Path) -> GgufModel:
    """The model at a path; while its files do not change, the same one for all who ask in turn.

    Its config, weights, tokenizer and sampling defaults are asked for one after the other, and a
    vocabulary takes a while to skip.  Raises CheckpointError for a damaged or missing file.
    """
    try:
        facts = tuple((part.stat().st_size, part.stat().st_mtime_ns) for part in parts_of(path))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    return _open(path.absolute(), facts)


@functools.lru_cache(maxsize=1)
def _open(path: Path, facts: tuple[tuple[int, int], ...]) -> GgufModel:
    return GgufModel(path)


def _check_part(file: GgufFile, number: int, count: int) -> None:
    """Compare what a file says of its place with its name."""
    says = file.metadata.get("split.count", 1), file.metadata.get("split.no", 0)
    if says not in ((count, number), (0, 0)) or (says == (0, 0) and count > 1):
        raise CheckpointError(
            f"{file.origin}: by its metadata it is part {says[1]!r:.20} (from 0) of "
            f"{says[0]!r:.20}, by its name part {number} of {count}"
        )
