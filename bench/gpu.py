"""What the Triton kernels do on the GPU at hand: whether they are right, and how fast.

    python -m bench.gpu PART [--results FILE]      ceilings, correctness, kernels, tune, show

Each part takes some minutes at most, and writes what it finds to the file as it finds it: a part
that was cut off goes on where it was.  Weights and inputs are made on the device.  ceilings
measures what the others are compared with: bytes a second of a copy, operations a second of
torch's own product.  Without a GPU it says so and does nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from quire.backends.torch.devices import find_device
from quire.backends.torch.triton.launcher import Launcher, launcher_of
from quire.backends.torch.triton.tiles import TILES
from quire.backends.torch.triton.tuner import (
    fastest_tile,
    kept_tiles,
    tuned_path,
    write_tiles,
)
from quire.backends.torch.triton.workloads import workload

REPEATS, WARM_UPS = 20, 3
COPY_BYTES, PRODUCT = 2 << 30, 8192
SEEDS = 3


class Results:
    """A JSON file of findings by part and name, written after each of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, dict[str, Any]] = (
            json.loads(path.read_text()) if path.exists() else {}
        )

    def once(self, part: str, name: str, find: Callable[[], Any]) -> Any:
        """What was found before, or else what find() finds."""
        known = self.found.setdefault(part, {})
        if name not in known:
            known[name] = find()
            partial = self.path.with_suffix(".part")
            partial.write_text(json.dumps(self.found, indent=2) + "\n")
            os.replace(partial, self.path)
        print(part, name, json.dumps(known[name]), flush=True)
        return known[name]


def seconds(call: Callable[[], object]) -> float:
    """The median time of a call on the device, caches as the calls before left them."""
    for _ in range(WARM_UPS):
        call()
    times = []
    for _ in range(REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return float(statistics.median(times))


def ceilings(results: Results, gpu: Launcher, device: torch.device) -> None:
    """Bytes a second, read and written; operations a second in bfloat16."""

    def copy() -> float:
        source = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        return 2 * COPY_BYTES / seconds(lambda: target.copy_(source))

    def product() -> float:
        a, b = (
            torch.randn(PRODUCT, PRODUCT, dtype=torch.bfloat16, device=device) for _ in range(2)
        )
        return 2 * PRODUCT**3 / seconds(lambda: a @ b)

    results.once("ceilings", "bytes per second", copy)
    results.once("ceilings", "operations per second", product)


def correctness(results: Results, gpu: Launcher, device: torch.device) -> None:
    """Fresh random inputs: attention and products against torch in float64, and alone = batched."""
    from bench.gpu_checks import CHECKS

    for name, check in CHECKS.items():
        for seed in range(SEEDS):

            def share_of_bound(seed: int = seed, check: Any = check) -> float:
                torch.manual_seed(seed)
                return float(check(gpu, device))

            share = results.once("correctness", f"{name} {seed}", share_of_bound)
            if not share <= 1:
                raise SystemExit(f"{name}, seed {seed}: {share} times the error that is allowed")


def kernels(results: Results, gpu: Launcher, device: torch.device) -> None:
    """Time, GB/s and TFLOP/s of every kernel, and the share of the nearer ceiling."""
    ceilings(results, gpu, device)
    limits = results.found["ceilings"]

    def measure(kernel: str, shapes: str) -> dict[str, float]:
        work = workload(kernel, shapes, device)
        time = seconds(lambda: work.start(gpu))
        least = max(
            work.bytes / limits["bytes per second"], work.flops / limits["operations per second"]
        )
        return {
            "microseconds": round(time * 1e6, 1),
            "GB/s": round(work.bytes / time / 1e9, 1),
            "TFLOP/s": round(work.flops / time / 1e12, 2),
            "share of ceiling": round(least / time, 3),
        }

    for kernel, shapes in TILES[gpu.architecture]:
        name = f"{kernel} {shapes}".strip()
        results.once("kernels", name, lambda k=kernel, s=shapes: measure(k, s))  # type: ignore[misc]


def tune(results: Results, gpu: Launcher, device: torch.device) -> None:
    """Find the fastest tiles, and keep them for the next start."""
    device_name = torch.cuda.get_device_name(device)
    tiles = dict(kept_tiles(device_name))
    for key in TILES[gpu.architecture]:

        def find(key: tuple[str, str] = key) -> dict[str, Any]:
            start = workload(*key, device).start
            tile, share = fastest_tile(gpu.architecture, key, start, seconds)
            tiles[key] = tile
            write_tiles(tuned_path(device_name), tiles)
            return {"tile": asdict(tile), "share of the shipped tile's time": round(share, 3)}

        results.once("tune", " ".join(key).strip(), find)


def show(results: Results, gpu: Launcher, device: torch.device) -> None:
    """What was found so far."""
    print(json.dumps(results.found, indent=2))


PARTS = {
    "ceilings": ceilings,
    "correctness": correctness,
    "kernels": kernels,
    "tune": tune,
    "show": show,
}


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--results", type=Path, default=Path("gpu-results.json"))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU that torch can use: nothing was measured")
        return
    device = torch.device("cuda")
    gpu = launcher_of(find_device("cuda"))
    PARTS[arguments.part](Results(arguments.results), gpu, device)


if __name__ == "__main__":
    main()
