"""A table of commands, each in a module that is imported only when it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from quire.cli.usage import UsageError

if TYPE_CHECKING:
    from quire.cli.parser import CommandParser

__all__ = ["Command", "parsers", "run_one_of"]


class Command(NamedTuple):
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
    if argv[0] not in commands:
        raise UsageError(_unknown(commands, program, argv[0]))
    return _run(commands[argv[0]], f"{program} {argv[0]}", argv[1:])


def parsers(commands: Mapping[str, Command], program: str) -> Iterator[tuple[str, CommandParser]]:
    """The parser of every command, and of its own commands, by name."""
    for name, command in commands.items():
        module, full_name = _load(command), f"{program} {name}"
        if hasattr(module, "COMMANDS"):
            yield from parsers(module.COMMANDS, full_name)
        else:
            yield full_name, _parser(command, full_name)


def _run(command: Command, program: str, argv: Sequence[str]) -> int:
    module = _load(command)
    if hasattr(module, "COMMANDS"):
        return run_one_of(module.COMMANDS, program, argv)
    namespace = _parser(command, program).parse(argv)
    import logging

    logging.basicConfig(format="quire: %(levelname)s: %(message)s")
    code: int = module.run(namespace)
    return code


def _load(command: Command) -> Any:
    # Imported here, as are the commands: together they would double the time of `quire --help`.
    import importlib

    return importlib.import_module(command.module)


def _parser(command: Command, program: str) -> CommandParser:
    from quire.cli.parser import CommandParser

    parser = CommandParser(program, command.summary)
    _load(command).add_arguments(parser)
    return parser


def _overview(commands: Mapping[str, Command], program: str) -> str:
    width = max(map(len, commands))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in commands.items()]
    usage = f"usage: {program} COMMAND [options]"
    return "\n".join([usage, "", *lines, "", f"'{program} COMMAND --help' shows its options."])


def _unknown(commands: Mapping[str, Command], program: str, name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, commands, 1)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(commands)}"
    return f"there is no command '{program} {name}'; {hint}"
