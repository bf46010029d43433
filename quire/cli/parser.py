"""A parser that takes --config files and --debug, and names the nearest option on a typo."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn

from quire.cli.usage import UsageError

__all__ = ["CommandParser"]


class CommandParser(argparse.ArgumentParser):
    """Parses one command's options; those that were not given are absent from the namespace."""

    def __init__(self, program: str, summary: str) -> None:
        super().__init__(
            prog=program,
            description=summary[0].upper() + summary[1:] + ".",
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
            formatter_class=_Formatter,
        )
        self.add_argument("--debug", action="store_true", help="show a traceback when it fails")

    def accept_config_file(self) -> None:
        """Add --config; its values count where the command line says nothing."""
        self.add_argument(
            "--config",
            metavar="FILE",
            help="YAML, JSON or TOML file of options by their long names",
        )

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse the arguments over those of a --config file.  Raises UsageError."""
        given = self._parse_strictly(argv)
        path = getattr(given, "config", None)
        if path is None:
            return given
        from quire.cli.config_file import read_arguments

        try:
            found = self._parse_strictly(read_arguments(path))
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
        return argparse.Namespace(**{**vars(found), **vars(given)})

    def error(self, message: str) -> NoReturn:
        """Raise UsageError where argparse would print its usage and exit."""
        raise UsageError(f"{message.removeprefix('argument ')} (see {self.prog} --help)")

    def _parse_strictly(self, argv: Sequence[str]) -> argparse.Namespace:
        given, unknown = self.parse_known_args([_with_dashes(each) for each in argv])
        if unknown:
            self._refuse(unknown[0])
        return given

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        """argparse would take -t for -tp, and -hf for -h; only -n4 is -n 4."""
        found = super()._get_option_tuples(option_string)
        takes_value = [each for each in found if each[0] is not None and each[0].nargs != 0]
        return [each for each in takes_value if option_string.startswith(each[1] or "")]

    def _refuse(self, argument: str) -> NoReturn:
        if not argument.startswith("-"):
            raise UsageError(f"unexpected argument {argument!r} (see {self.prog} --help)")
        name = argument.partition("=")[0]
        near = difflib.get_close_matches(name, self._option_string_actions, 1)
        hint = f"did you mean {near[0]}?" if near else f"see {self.prog} --help"
        raise UsageError(f"there is no option {name}; {hint}")


class _Formatter(argparse.HelpFormatter):
    """Options in one column, their help in another."""

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, max_help_position=34, width=100)

    def _format_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any) -> str:
        names = [action.metavar or action.dest for action in actions if not action.option_strings]
        return f"usage: {' '.join([self._prog, *names])} [options]\n\n"


def _with_dashes(argument: str) -> str:
    """--max_model_len is --max-model-len."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value
