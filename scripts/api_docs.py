"""Fills the tables of docs/api.md, metrics.md, options.md from the code; --check only compares."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec

from quire.cli.commands import parsers
from quire.cli.main import COMMANDS
from quire.cli.parser import CommandParser
from quire.server.metrics import ServerMetrics
from quire.server.protocol import chat, completions, embeddings, formats, sampling, tokens
from quire.server.protocol.support import field_support
from quire.server.routes import OPERATIONS

DOCS = Path(__file__).parent.parent / "docs"
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
MODULES = (chat, completions, embeddings, formats, sampling, tokens)


def main(argv: list[str]) -> int:
    """Rewrite the pages, or say which of them are stale."""
    stale = []
    for page in (DOCS / "api.md", DOCS / "metrics.md", DOCS / "options.md"):
        text = page.read_text(encoding="utf-8")
        fresh = MARKED.sub(lambda found: found[1] + table(found[2]) + found[3], text)
        if fresh != text and "--check" in argv:
            stale.append(page.name)
        elif fresh != text:
            page.write_text(fresh, encoding="utf-8")
    if stale:
        print(f"{', '.join(stale)}: run python scripts/api_docs.py", file=sys.stderr)
    return 1 if stale else 0


def table(name: str) -> str:
    """What a mark asks for: Routes, Metrics, Options, or a request type's fields."""
    if name == "Routes":
        rows = [f"| {each.method} `{each.path}` | {each.summary} |" for each in OPERATIONS]
        rows = [row.replace(":path", "") for row in rows]
        return _lines(["| Route | |", "|---|---|", *rows])
    if name == "Metrics":
        return _metrics()
    if name == "Options":
        return "\n".join(_options())
    return _fields(name)


def _fields(name: str) -> str:
    kind = next(found for module in MODULES if (found := getattr(module, name, None)))
    inherited: set[str] = set()
    if kind.__base__ is sampling.GenerationRequest:
        inherited = set(sampling.GenerationRequest.__struct_fields__)
    types = {field.name: field.type for field in msgspec.inspect.type_info(kind).fields}
    rows = [
        f"| `{field}` | {_type(types[field])} | {support.level} | {support.text} |"
        for field, support in field_support(kind).items()
        if field not in inherited
    ]
    return _lines(["| Field | Type | | |", "|---|---|---|---|", *rows])


def _type(kind: msgspec.inspect.Type) -> str:
    """A type in a reader's words."""
    if isinstance(kind, msgspec.inspect.Metadata):
        return _type(kind.type)
    if isinstance(kind, msgspec.inspect.UnionType):
        found = [_type(each) for each in kind.types]
        return " or ".join(name for name in found if name != "null")
    if isinstance(kind, msgspec.inspect.ListType):
        return f"list of {_type(kind.item_type)}"
    if isinstance(kind, msgspec.inspect.StructType):
        return kind.cls.__name__
    names = {"IntType": "integer", "FloatType": "number", "StrType": "string"}
    names |= {"BoolType": "boolean", "DictType": "object", "NoneType": "null", "AnyType": "any"}
    if isinstance(kind, msgspec.inspect.LiteralType):
        return " or ".join(f"`{value}`" for value in kind.values)
    return names[type(kind).__name__]


def _metrics() -> str:
    info = SimpleNamespace(max_model_len=1, block_tokens=16, num_kv_blocks=1)
    engine = SimpleNamespace(info=info, config=SimpleNamespace(enable_prefix_caching=True))
    rows = [
        f"| `{metric.name.partition(':')[2]}{metric.suffix}` | {metric.kind} | "
        f"{', '.join(f'`{label}`' for label in getattr(metric, 'labels', ()))} | {metric.text} |"
        for metric in ServerMetrics(engine, "vllm", "model").registry
    ]
    return _lines(["| Name | Kind | Labels | |", "|---|---|---|---|", *rows])


SHARED = ("engine", "sampling")
"""Groups of options that several commands have, or some of them."""


def _options() -> Iterator[str]:
    """A section for every command's own options, and one for each group that commands share."""
    every = dict(parsers(COMMANDS, "quire"))
    whole = {name: _groups(every["quire generate"])[name] for name in SHARED}
    for program, parser in every.items():
        groups = _groups(parser)
        own = [each for name, group in groups.items() if name not in SHARED for each in group]
        yield f"## `{program}`\n\n{parser.description}\n"
        yield _option_table(own) if own else ""
        for name in SHARED:
            if groups.get(name):
                yield _of_shared(name, groups[name], whole[name])
    for name, group in whole.items():
        yield f"## {name.capitalize()} options\n"
        yield _option_table(group)


def _groups(parser: CommandParser) -> dict[str, list[argparse.Action]]:
    """What --help shows by the first word of a group's title, but for what most commands have."""
    return {
        group.title.split()[0]: [
            action
            for action in group._group_actions
            if action.option_strings
            and action.help != argparse.SUPPRESS
            and action.option_strings[-1] not in ("--help", "--debug", "--config")
        ]
        for group in parser._action_groups
        if group.title
    }


def _option_table(actions: list[argparse.Action]) -> str:
    rows = []
    for action in actions:
        names = ", ".join(f"`{name}`" for name in action.option_strings)
        values = action.metavar or "{" + ",".join(action.choices or ()) + "}"
        values = "" if action.nargs == 0 else f" {values}"
        text = f"{action.help}".replace("%%", "%").replace("|", "\\|")
        rows.append(f"| {names}{values} | {text} |")
    return _lines(["| Option | |", "|---|---|", *rows])


def _of_shared(name: str, actions: list[argparse.Action], whole: list[argparse.Action]) -> str:
    """Which options of a shared group a command has."""
    link = f"[{name} options](#{name}-options)"
    names = [action.option_strings[0] for action in actions]
    every = [action.option_strings[0] for action in whole]
    if names == every:
        return f"And the {link}.\n"
    missing = [each for each in every if each not in names]
    some, those = ("but", missing) if len(missing) < len(names) else ("namely", names)
    return f"And the {link}, {some} {', '.join(f'`{each}`' for each in those)}.\n"


def _lines(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
