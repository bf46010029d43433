"""Which tuning the native kernels run with: a file's, what was measured here, or the default.

`quire tune` measures and keeps the result in the user's cache, under a name that changes with all
that it depends on; a start only reads it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from quire.backends.native.abi import ISA_NAMES
from quire.backends.native.library import library_path
from quire.backends.native.tuning import Tuning, Tunings, check_tunings, default_tunings
from quire.config import cache_directory
from quire.errors import ConfigError, QuireError
from quire.runtime.machine import Machine
from quire.weights.strict_json import parse_json
from quire.whole_file import whole_file

__all__ = ["ChosenTunings", "choose_tunings", "read_tunings", "tuning_path", "write_tunings"]

logger = logging.getLogger(__name__)

VERSION = 1


@dataclass(frozen=True, slots=True)
class ChosenTunings:
    """Tunings by format of weights, and in words where they come from."""

    tunings: Tunings
    source: str


def choose_tunings(choice: str, isa: int, threads: int, machine: Machine) -> ChosenTunings:
    """What `tuning` asks for: "auto" for what was measured here, "off" for the default, or a file.

    Raises ConfigError for a file that does not hold tunings for this instruction set.
    """
    if choice not in ("auto", "off"):
        return ChosenTunings(read_tunings(Path(choice), isa), f"from {choice}")
    level2 = machine.level2_bytes
    caches = "" if level2 is None else f" for {level2 // 1024} KiB of second-level cache"
    default = ChosenTunings(default_tunings(isa, level2), f"the default{caches}")
    if choice == "off":
        return default
    path = tuning_path(isa, threads, machine)
    try:
        if path.is_file():
            measured = time.strftime("%Y-%m-%d", time.localtime(path.stat().st_mtime))
            return ChosenTunings(read_tunings(path, isa), f"measured {measured}, {path}")
    except (OSError, QuireError) as error:
        logger.warning("%s: not used: %s; `quire tune` measures again", path, error)
    return ChosenTunings(default.tunings, f"{default.source}; `quire tune` measures")


def tuning_path(isa: int, threads: int, machine: Machine) -> Path:
    """Where the tunings of this machine, with these threads and kernels, are kept."""
    library = library_path().stat()
    facts = [VERSION, machine.processor, machine.features, machine.level2_bytes, threads]
    facts += [ISA_NAMES[isa], library.st_size, library.st_mtime_ns]
    digest = hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()
    return cache_directory() / "tuning" / f"{digest}.json"


def read_tunings(path: Path, isa: int) -> dict[str, Tuning]:
    """The tunings in a file.  Raises ConfigError, which names the file."""
    try:
        content = parse_json(path.read_bytes())
        tunings = _from_json(content)
        check_tunings(tunings, isa)
    except (OSError, ValueError, QuireError) as error:
        raise ConfigError(f"tuning file {path}: {error}") from error
    return tunings


def write_tunings(path: Path, tunings: Tunings) -> None:
    """Write tunings to a file in one move.  Raises ConfigError where that cannot be done."""
    content = {"version": VERSION, "tunings": {name: asdict(t) for name, t in tunings.items()}}
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with whole_file(path) as file:
            file.write(json.dumps(content, indent=2).encode() + b"\n")
    except OSError as error:
        raise ConfigError(f"{path}: the tuning cannot be kept: {error}") from error


def _from_json(content: Any) -> dict[str, Tuning]:
    given = content.get("tunings") if isinstance(content, Mapping) else None
    if not isinstance(given, Mapping) or content.get("version") != VERSION:
        raise ConfigError(f"this is no tuning of version {VERSION}; `quire tune` makes one")
    found, names = {}, {each.name for each in fields(Tuning)}
    for dtype, numbers in given.items():
        if not isinstance(numbers, Mapping) or set(numbers) != names:
            raise ConfigError(f"{dtype} needs the fields {', '.join(sorted(names))}, and no others")
        found[dtype] = Tuning(**numbers)
    return found
