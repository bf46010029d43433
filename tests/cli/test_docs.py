"""The command lines that the documentation shows name commands and options that exist."""

from __future__ import annotations

import re
from pathlib import Path

from quire.cli.commands import parsers
from quire.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("examples/*.md"), *ROOT.glob("docs/**/*.md")]
OPTION = re.compile(r"(?<!\S)--?[a-z][\w-]*")


def test_command_lines_of_the_documentation() -> None:
    options = {
        name: {*parser._option_string_actions} for name, parser in parsers(COMMANDS, "quire")
    }
    command = re.compile(rf"\b({'|'.join(options)})\b([^`\n|#]*)")
    seen, unknown = 0, []
    for page in PAGES:
        for name, rest in command.findall(page.read_text(encoding="utf-8")):
            given = OPTION.findall(rest)
            seen += len(given)
            unknown += [f"{page.name}: {name} {each}" for each in {*given} - options[name]]
    assert seen > 50
    assert not unknown, unknown
