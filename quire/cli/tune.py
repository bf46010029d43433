"""`quire tune`: measures which cut of the kernels' work is fastest here, and keeps it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from quire.cli.options import add_options, given_options
from quire.cli.parser import CommandParser
from quire.config import InstructionSet

if TYPE_CHECKING:
    from quire.backends.native.tuner import Gain
    from quire.backends.native.tuning import Tunings

__all__ = ["TuneOptions", "add_arguments", "run", "table"]


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """What is measured, and where the result goes."""

    threads: int | None = field(
        default=None, metadata={"help": "compute threads; default: the cores this process may use"}
    )
    instruction_set: InstructionSet = field(
        default="auto", metadata={"help": "instruction set of the native kernels"}
    )
    output: str | None = field(
        default=None, metadata={"help": "file for --tuning; default: kept where starts look for it"}
    )


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    add_options(parser, "tuning", TuneOptions)


def run(namespace: argparse.Namespace) -> int:
    """Measure, print what was chosen, and keep it."""
    options = TuneOptions(**given_options(namespace, TuneOptions))
    from quire.backends.native import abi as c
    from quire.backends.native import library
    from quire.backends.native.tuner import tune
    from quire.runtime.machine import inspect_machine
    from quire.runtime.tuning import choose_tunings, tuning_path, write_tunings

    machine, isa = inspect_machine(), library.choose_isa(options.instruction_set)
    threads = machine.cores if options.threads is None else options.threads
    default = choose_tunings("off", isa, threads, machine)
    start = time.perf_counter()
    with library.ThreadPool(threads) as pool:
        print(f"{c.ISA_NAMES[isa]}, {threads} threads; starting from {default.source}")
        tunings, gains = tune(pool, isa, default.tunings)
    print(*table(tunings), *_changes(gains), sep="\n")
    path = Path(options.output) if options.output else tuning_path(isa, threads, machine)
    write_tunings(path, tunings)
    print(f"measured in {time.perf_counter() - start:.2f} s, kept in {path}")
    return 0


def table(tunings: Tunings) -> Iterator[str]:
    """A line for each format of weights under headings."""
    rows = {dtype: asdict(tuning) for dtype, tuning in tunings.items()}
    headings = next(iter(rows.values()))
    yield "  weights " + "".join(f"{name:>13}" for name in headings)
    for dtype, numbers in rows.items():
        yield f"  {dtype:8}" + "".join(f"{number:13}" for number in numbers.values())


def _changes(gains: list[Gain]) -> Iterator[str]:
    """What differs from the default, and what that brought."""
    from quire.backends.native.tuner import BELIEVED

    changed = [gain for gain in gains if gain.before != gain.after]
    doubtful = sum(gain.share < BELIEVED for gain in gains)
    if doubtful:
        yield f"{doubtful} numbers left alone: other programs ran beside; run this when they do not"
    elif not changed:
        yield "nothing was clearly faster than the default"
    for gain in changed:
        change = f"{gain.dtype} {gain.parameter} {gain.before} → {gain.after}"
        yield f"  {change}: {1 - gain.share:.0%} less time"
