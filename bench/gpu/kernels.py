"""Parts that measure the Triton kernels of a GPU: the ceilings, correctness, speed, the tiles."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from bench.gpu.checks import CHECKS
from bench.gpu.results import Results
from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.tiles import TILES
from quire.backends.torch.triton.tuner import (
    fastest_tile,
    kept_tiles,
    tuned_path,
    write_tiles,
)
from quire.backends.torch.triton.workloads import workload

__all__ = ["PARTS"]

REPEATS, WARM_UPS = 20, 3
COPY_BYTES, PRODUCT = 2 << 30, 8192
SEEDS = 3


def seconds(call: Callable[[], object]) -> float:
    """The median time of a call on the device, caches as the calls before left them."""
    for _ in range(WARM_UPS):
        call()
    clock = _device_seconds if torch.cuda.is_available() else _host_seconds
    return float(statistics.median(clock(call) for _ in range(REPEATS)))


def _device_seconds(call: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000


def _host_seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


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

    results.once("ceilings", "device", lambda: torch.cuda.get_device_name(device))
    results.once("ceilings", "bytes per second", copy)
    results.once("ceilings", "operations per second", product)


def correctness(results: Results, gpu: Launcher, device: torch.device) -> None:
    """Fresh random inputs: attention and products against torch in float64, and alone = batched."""
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


PARTS = {
    "ceilings": ceilings,
    "correctness": correctness,
    "kernels": kernels,
    "tune": tune,
}
