"""Which files make up a GGUF model, told by their names."""

from __future__ import annotations

import os
import re
from pathlib import Path

from quire.errors import CheckpointError

__all__ = ["SUFFIX", "find_gguf", "parts_of"]

SUFFIX = ".gguf"
PART = re.compile(r"(.*-)(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
MAX_PARTS = 4096


def parts_of(path: Path) -> list[Path]:
    """The files that make up the model, in order.  Raises CheckpointError if some are missing."""
    match = PART.fullmatch(path.name)
    if match is None:
        return [path]
    stem, number, count = match[1], int(match[2]), int(match[3])
    if number != 1:
        raise CheckpointError(
            f"{path}: this is part {number} of {count}; give {stem}00001-of-{match[3]}.gguf"
        )
    if not 1 <= count <= MAX_PARTS:
        raise CheckpointError(f"{path}: a model in {count} parts; at most {MAX_PARTS} are read")
    parts = [path.with_name(f"{stem}{i:05}-of-{match[3]}.gguf") for i in range(1, count + 1)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise CheckpointError(
            f"{path}: {len(missing)} of its {count} parts are missing: {', '.join(missing[:5])}; "
            "download them to the same folder"
        )
    return parts


def find_gguf(directory: Path) -> Path | None:
    """The one GGUF model in a directory; None unless there is just one, split or not."""
    names = sorted(name for name in os.listdir(directory) if name.endswith(SUFFIX))
    first = [name for name in names if not (part := PART.fullmatch(name)) or int(part[2]) == 1]
    return directory / first[0] if len(first) == 1 else None
