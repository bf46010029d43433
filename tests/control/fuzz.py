"""Runs many random worlds: python -m tests.control.fuzz --worlds 100000 --jobs 2."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import reduce
from operator import add

from tests.control.worlds import World


def run_worlds(first: int, count: int, ahead: bool = False) -> Counter[str]:
    """Run `count` worlds from seed `first` on; totals of what happened in them.

    ahead: see World.

    Raises AssertionError, naming the seed, for the first world that breaks a property.
    """
    totals: Counter[str] = Counter()
    for seed in range(first, first + count):
        try:
            world = World(seed, ahead).run()
        except Exception as error:
            raise AssertionError(f"world {seed} failed: {error!r}") from error
        stats = world.scheduler.stats()
        totals["worlds"] += 1
        totals["steps"] += world.steps
        totals["plans ahead"] += world.num_ahead
        totals["overshot chunks"] += world.num_overshot
        totals["chunks"] += world.num_chunks
        totals["requests"] += len(world.lives)
        totals["refused"] += world.refused
        totals["aborted"] += sum(life.ends[0][0] == "abort" for life in world.lives)
        totals["preemptions"] += stats.num_preemptions
        totals["wasted tokens"] += stats.num_wasted_tokens
        totals["computed tokens"] += sum(life.request.num_peak for life in world.lives)
        totals["drafted tokens"] += stats.num_draft_tokens
        totals["accepted tokens"] += stats.num_accepted_tokens
        totals["prefix hit tokens"] += stats.prefix_hit_tokens
        totals["blocks passed"] += world.num_passed
        totals["long requests"] += sum(
            len(life.request.tokens) > len(world.model.cells) for life in world.lives
        )
        totals["hits behind a window"] += sum(
            life.request.num_cached_tokens >= (world.window or 10**9) for life in world.lives
        )
        totals["store hit tokens"] += stats.store_hit_tokens
        if world.store is not None and not world.store.outlives_process:
            totals["evicted hit tokens"] += stats.store_hit_tokens
        totals["failed loads"] += 0 if world.store is None else world.store.num_failed
        recurrent = world.num_records is not None
        totals["state hit tokens"] += recurrent * stats.prefix_hit_tokens
        totals["state preemptions"] += recurrent * stats.num_preemptions
        totals["prefix query tokens"] += stats.prefix_query_tokens
    return totals


def main() -> int:
    """Run the campaign and print its totals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    batch = 500
    firsts = range(options.first, options.first + options.worlds, batch)
    counts = [min(batch, options.first + options.worlds - first) for first in firsts]
    started = time.perf_counter()
    with ProcessPoolExecutor(options.jobs) as pool:
        totals = reduce(add, pool.map(run_worlds, firsts, counts), Counter())
    for name, total in totals.items():
        print(f"{name:>20} {total:>12,}")
    print(f"{'seconds':>20} {time.perf_counter() - started:>12.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
