"""A table of commands, each in a module that is imported only when it runs."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quire.cli.parser import CommandParser, UsageError

__all__ = ["Command", "run_one_of"]


@dataclass(frozen=True, slots=True)
class Command:
    """A module with `add_arguments(parser)` and `run(namespace) -> int`, or with COMMANDS."""

    module: str
    summary: str


def run_one_of(commands: Mapping[str, Command], program: str, argv: Sequence[str]) -> int:
    """Run the command that the first argument names; print what there is if there is none.

    Raises UsageError for a name that is not in the table.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview(commands, program))
        return 0 if argv else 2
    if argv[0] == "--version":
        from quire import __version__

        print(f"quire {__version__}")
        return 0
    command = commands.get(argv[0])
    if command is None:
        near = difflib.get_close_matches(argv[0], commands, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(commands)}"
        raise UsageError(f"there is no command '{program} {argv[0]}'; {hint}")
    module = importlib.import_module(command.module)
    name = f"{program} {argv[0]}"
    if hasattr(module, "COMMANDS"):
        return run_one_of(module.COMMANDS, name, argv[1:])
    parser = CommandParser(name, command.summary)
    module.add_arguments(parser)
    code: int = module.run(parser.parse(argv[1:]))
    return code


def _overview(commands: Mapping[str, Command], program: str) -> str:
    width = max(map(len, commands))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in commands.items()]
    usage = f"usage: {program} COMMAND [options]"
    return "\n".join([usage, "", *lines, "", f"'{program} COMMAND --help' shows its options."])
