"""Makes Markdown of results: rates and their shares of the roofline, latencies, what is absent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

from bench.peers.machine import PEAKS
from bench.peers.peer import Metrics
from bench.peers.results import Cell, Results, Row
from bench.peers.roofline import roof
from bench.peers.shapes import PRECISIONS, Precision, Shape
from bench.peers.workloads import WORKLOADS, Workload

__all__ = ["render"]

WIDE_SPREAD = 0.1
OPERATIONS = {"bf16": "FLOP", "int8": "OP (int8)", "int4": "OP (int4 by int8)"}
SERVE_COLUMNS = (
    "tokens",
    "ttft_p50",
    "ttft_p99",
    "tpot_p50",
    "tpot_p99",
    "resident_mib",
    "client_cpu",
)
START_COLUMNS = ("ready_s", "first_token_s", "resident_mib")


def render(results: Results) -> str:
    """The whole report, ending in a newline."""
    parts = [_machine(results), _versions(results)]
    models = {(row.shape, row.precision) for _, row in results.cells}
    order = sorted(models, key=lambda each: (each[0], PRECISIONS.index(cast(Precision, each[1]))))
    for shape, precision in order:
        parts.append(f"### {shape}, {precision}")
        for build in (_offline, _start, _serve):
            lines = build(results, shape, precision)
            if len(lines) > 2:
                parts.append("\n".join(lines))
    parts += [_problems(results)] if _problems(results) else []
    return "\n\n".join(parts) + "\n"


def _machine(results: Results) -> str:
    m, rates = results.machine, results.rates
    speeds = [f"reads {rates['read'] / 1e9:.1f} GB/s"] if "read" in rates else []
    speeds += [f"{rates[each] / 1e9:.0f} G{OPERATIONS[each]}/s" for each in PEAKS if each in rates]
    words = (
        f"{m.get('processor')}, {m.get('cores')} cores ({', '.join(m.get('flags', ()))}), "
        f"{m.get('memory_gib')} GiB, {m.get('system')}, {m.get('threads')} threads; "
        f"{', '.join(speeds)}; {m.get('date')}, load before {m.get('load_before')}."
    )
    return "\n\n".join([words, *(f"    {each}" for each in results.command)])


def _versions(results: Results) -> str:
    return "\n".join(f"- **{name}**: {version}" for name, version in results.versions.items())


def _offline(results: Results, shape: str, precision: str) -> list[str]:
    """One row a workload, one column a peer: tokens per second, share of the roofline."""
    rows = _rows(results, shape, precision, ("prefill", "decode"))
    peers = _peers(results, [row for _, row in rows])
    lines = _head(["tokens/s", *peers])
    for workload, row in rows:
        share = _share_of_roof(results, row, workload)
        cells = [_rate(results.cells.get((peer, row)), workload, share) for peer in peers]
        lines.append(_line([workload.name, *cells]))
    return lines


def _share_of_roof(
    results: Results, row: Row, workload: Workload
) -> Callable[[Metrics], float | None]:
    """What a sample reaches of the roofline, memory read as fast as just before and after it."""

    def share(sample: Metrics) -> float | None:
        read = {"read": sample["read_rate"]} if "read_rate" in sample else {}
        best = roof(Shape(row.shape), row_precision(row), workload, {**results.rates, **read})
        return sample[workload.kind] / best if best and workload.kind in sample else None

    return share


def _start(results: Results, shape: str, precision: str) -> list[str]:
    rows = _rows(results, shape, precision, ("start",))
    titles = ["from exec", "ready, s", "first token, s", "resident then, MiB"]
    return _long(results, rows, titles, START_COLUMNS, with_workload=False)


def _serve(results: Results, shape: str, precision: str) -> list[str]:
    rows = _rows(results, shape, precision, ("serve",))
    titles = [
        "serving",
        "",
        "tokens/s",
        "TTFT p50",
        "p99, ms",
        "TPOT p50",
        "p99, ms",
        "MiB",
        "client CPU",
    ]
    return _long(results, rows, titles, SERVE_COLUMNS, with_workload=True)


def _long(
    results: Results, rows: list[tuple[Workload, Row]], titles: list[str],
    metrics: Iterable[str], with_workload: bool,
) -> list[str]:  # fmt: skip
    """One row for each workload and peer."""
    lines = _head(titles)
    for workload, row in rows:
        for peer in _peers(results, [row]):
            cell = results.cells[peer, row]
            names = [workload.name, peer] if with_workload else [peer]
            lines.append(_line([*names, *(_number(cell.median(each)) for each in metrics)]))
    return lines


def _rate(
    cell: Cell | None, workload: Workload, share_of_roof: Callable[[Metrics], float | None]
) -> str:
    value = cell.median(workload.kind) if cell else None
    if cell is None or value is None:
        return "–"
    median_share = cell.median_of(share_of_roof)
    share = f" ({median_share:.0%})" if median_share else ""
    spread = cell.spread(workload.kind)
    return _number(value) + share + (f" ±{spread / 2:.0%}" if spread > WIDE_SPREAD else "")


def _problems(results: Results) -> str:
    """Peers that are not here, and cells that are empty or incomplete, each reason once."""
    found: dict[str, list[str]] = {}
    for (peer, row), cell in results.cells.items():
        if cell.problem:
            where = f"{row.precision} {row.workload}"
            found.setdefault(f"{peer}: {cell.problem}", []).append(where)
    lines = [f"- {name}: {reason}" for name, reason in results.absent.items()]
    lines += [f"- {reason} ({', '.join(dict.fromkeys(w))})" for reason, w in found.items()]
    return "Not measured:\n\n" + "\n".join(lines) if lines else ""


def _rows(
    results: Results, shape: str, precision: str, kinds: tuple[str, ...]
) -> list[tuple[Workload, Row]]:
    present = {row for _, row in results.cells}
    rows = [(each, Row(shape, precision, each.name)) for each in WORKLOADS if each.kind in kinds]
    return [(workload, row) for workload, row in rows if row in present]


def _peers(results: Results, rows: list[Row]) -> list[str]:
    """Peers with a sample in one of the rows, in the order they were measured."""
    having = (peer for (peer, row), cell in results.cells.items() if row in rows and cell.samples)
    return list(dict.fromkeys(having))


def row_precision(row: Row) -> Precision:
    """The precision, as its type."""
    return cast(Precision, row.precision)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _head(titles: list[str]) -> list[str]:
    return [_line(titles), _line(["---"] + ["---:"] * (len(titles) - 1))]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
