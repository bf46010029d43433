"""`quire doctor`: what this machine has, what will be used, and how to get what is missing."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from quire.cli.parser import CommandParser

if TYPE_CHECKING:
    from quire.cli.checkup import Finding

__all__ = ["add_arguments", "run"]


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("--network", action="store_true", help="ask the model hub as well")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(namespace: argparse.Namespace) -> int:
    """Print the findings; 1 when something is missing without which no model runs."""
    from quire import __version__
    from quire.cli.checkup import check_hub, findings

    found = list(findings())
    if getattr(namespace, "network", False):
        found.append(check_hub())
    if getattr(namespace, "json", False):
        print(json.dumps([asdict(each) for each in found], indent=2, ensure_ascii=False))
    else:
        print(f"Quire {__version__}\n" + "\n".join(map(_line, found)))
        print("\n" + _verdict(found))
    return 1 if any(each.cure and each.required for each in found) else 0


def _line(finding: Finding) -> str:
    mark = "  " if finding.cure is None else "! "
    text = f"{mark}{finding.topic:10} {finding.fact}"
    return text if finding.cure is None else f"{text}\n{'':13}→ {finding.cure}"


def _verdict(found: list[Finding]) -> str:
    missing = [each.topic for each in found if each.cure and each.required]
    if missing:
        return f"No model can run until this is cured: {', '.join(missing)}."
    return "Ready: try 'quire generate demo --prompt \"Once upon a time\"'."
