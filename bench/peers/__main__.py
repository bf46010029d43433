"""`python -m bench.peers run`: Quire beside its peers; see `--help` and docs/performance.md."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from pathlib import Path

from bench.page import replace_between_marks
from bench.peers.checkpoints import Checkpoint, cache
from bench.peers.install import install, names
from bench.peers.machine import MachineRates, describe
from bench.peers.peer import Case, Peer
from bench.peers.registry import DEFAULT_PEERS, known_peers, select
from bench.peers.results import Results
from bench.peers.runner import Runner
from bench.peers.shapes import PRECISIONS, Precision, Shape, shape_names
from bench.peers.table import render
from bench.peers.workloads import WORKLOADS, chosen

__all__ = ["main"]


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_run(commands.add_parser("run", help="measure, and add to the results"))
    making = commands.add_parser("install", help="make a peer's environment (needs the network)")
    making.add_argument("names", nargs="+", choices=names())
    making.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    showing = commands.add_parser("table", help="print the results, or write them into a page")
    showing.add_argument("--results", type=Path, default=cache() / "results.json")
    showing.add_argument("--page", type=Path, help="a page with <!-- MARK --> and <!-- end -->")
    showing.add_argument("--mark", default="peers", help="of this machine's tables in the page")
    commands.add_parser("list", help="peers, shapes and workloads")
    options = parser.parse_args()
    try:
        {"run": _run, "install": _install, "table": _table, "list": _list}[options.command](options)
    except ValueError as error:
        parser.error(str(error))
    return 0


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--only", default="prefill,decode,start", help="workloads, by prefix or kind")
    add("--peers", default="", help=f"names or all; default: {', '.join(DEFAULT_PEERS)}")
    add("--shapes", default="qwen2.5-0.5b", help=f"of {', '.join(shape_names())}")
    add("--precisions", default=",".join(PRECISIONS), help="bf16, int8, int4")
    add("--repeats", type=int, default=3)
    add("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add("--limit", type=float, default=180.0, help="seconds for one measurement")
    add("--results", type=Path, default=cache() / "results.json")
    text = "another build of llama.cpp or of a fork: the folder of its programs"
    add("--llama", action="append", default=[], metavar="'NAME=FOLDER [FLAGS]'", help=text)
    text = "another installation of Quire, by its Python"
    add("--quire", action="append", default=[], metavar="NAME=PYTHON", help=text)


def _run(options: argparse.Namespace) -> None:
    """Measure; what was measured is kept even if this is interrupted."""
    workloads = chosen(options.only.split(","))
    peers = select(
        known_peers(options.quire, options.llama), options.peers, options.quire + options.llama
    )
    cases = [
        Case(Checkpoint(Shape(shape)), _precision(each), options.threads)
        for shape in options.shapes.split(",")
        for each in options.precisions.split(",")
    ]
    command = shlex.join(["python", "-m", "bench.peers", *sys.argv[1:]])
    results = Results([command], describe(options.threads))
    here = _available(peers, results)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    running, rates = options.results.with_suffix(".running.json"), MachineRates(options.threads)
    runner = Runner(here, results, running, rates, options.repeats, options.limit)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the engine under way, too
    try:
        for case in cases:
            runner.measure(case, workloads)
    finally:
        everything = Results.load(options.results)
        everything.merge(results)
        everything.save(options.results)
        running.unlink(missing_ok=True)
        print(render(results))


def _precision(text: str) -> Precision:
    if text not in PRECISIONS:
        raise ValueError(f"there is no precision {text!r}; there are {', '.join(PRECISIONS)}")
    return text


def _available(peers: list[Peer], results: Results) -> list[Peer]:
    """The peers that are installed; the others are noted, with the cure."""
    for peer in peers:
        reason = peer.unavailable()
        if reason is None:
            results.versions[peer.name] = peer.version()
        else:
            results.absent[peer.name] = reason
            print(f"{peer.name} is skipped: {reason}", file=sys.stderr)
    return [peer for peer in peers if peer.name in results.versions]


def _install(options: argparse.Namespace) -> None:
    for name in options.names:
        install(name, options.jobs)


def _table(options: argparse.Namespace) -> None:
    results = Results.load(options.results)
    if options.page is None:
        print(render(results))
    else:
        replace_between_marks(options.page, options.mark, render(results))


def _list(_: argparse.Namespace) -> None:
    for name, peer in known_peers().items():
        print(f"{name:16s} {peer.unavailable() or peer.version()}")
    print("shapes:", ", ".join(shape_names()))
    print("workloads:", ", ".join(each.name for each in WORKLOADS))


if __name__ == "__main__":
    raise SystemExit(main())
