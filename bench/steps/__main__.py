"""Shows where a step's time goes: per native op, and in Python around them.

The weights are random and the prompts too; the time does not depend on either.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Sequence
from typing import get_args

from bench.steps.op_table import op_rows, table
from bench.steps.workload import PARTS, Profile, StepProfiler, Workload
from quire.assembly import Assembly
from quire.backends.native import library
from quire.backends.native.program import NativeExecutable
from quire.cli.bench.kernels.machine import Machine
from quire.config import EngineConfig, Quantization
from quire.ops.number_formats import storage_dtype

GOALS_US = {8: 150, 128: 600}
"""Requests → the most that Python should take in a step."""


def main() -> None:
    """Profile the steps of a model, then the Python part alone with the demo model."""
    options = _options()
    if options.requests:
        _python_parts(options.requests, options.steps)
    if options.decode or options.prefill:
        _steps(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "scripts/profile", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )

    def integers(name: str, default: list[int], text: str) -> None:
        parser.add_argument(name, type=int, nargs="*", metavar="N", default=default, help=text)

    parser.add_argument("model", nargs="?", default="bench/shapes/qwen2.5-0.5b")
    parser.add_argument("--quantization", choices=get_args(Quantization), default="auto")
    parser.add_argument("--kv-cache-dtype", default="auto")
    parser.add_argument("--instruction-set", default="auto")
    parser.add_argument("--threads", type=int)
    integers("--decode", [1, 8], "requests of decode steps")
    parser.add_argument("--context", type=int, default=256, help="tokens they have so far")
    integers("--prefill", [512], "tokens of prefill steps")
    integers("--requests", [1, 8, 128], "requests of the Python part")
    parser.add_argument(
        "--steps",
        type=int,
        default=20,
        help="steps of each kind: the best of an op and the median of the rest count",
    )
    return parser.parse_args()


def _steps(options: argparse.Namespace) -> None:
    workloads = [Workload.decode(requests, options.context) for requests in options.decode]
    workloads += [Workload.prefill(tokens) for tokens in options.prefill]
    longest = max(each.context for each in workloads) + 4 * options.steps + 64
    config = EngineConfig(
        options.model,
        tokenizer="demo",
        load_format="dummy",
        quantization=options.quantization,
        kv_cache_dtype=options.kv_cache_dtype,
        instruction_set=options.instruction_set,
        threads=options.threads,
        max_num_batched_tokens=max([512, *options.prefill, *options.decode]),
        max_num_seqs=max([1, *options.decode]),
        max_model_len=longest,
        enable_prefix_caching=False,
    )
    assembly = Assembly(config)
    model = assembly.model
    profiler = StepProfiler(assembly)
    machine = Machine(
        config.threads or model.machine.cores, library.choose_isa(config.instruction_set)
    )
    executable = model.executable
    assert isinstance(executable, NativeExecutable)
    print(*assembly.info.lines[:1], executable.summary, sep="\n")
    kv_bytes = storage_dtype(executable.kv_cache.layout.format).itemsize
    profiles = []
    for workload in workloads:
        profiles.append(profiler.run(workload, options.steps))
        for _ in range(20):
            machine.calibrate()
    for profile in profiles:  # with the best rates of the whole run
        op_s, python = list(profile.best_op_s), profile.median_python_s
        rows = op_rows(executable.program, executable.weights, kv_bytes, profile.workload, op_s)
        print(
            f"\n{profile.workload.name}: {profile.median_step_s * 1e3:.2f} ms a step,"
            f" Python {python * 1e6:.0f} us ({python / profile.median_step_s:.1%})"
        )
        print(*table(rows, machine.rates), sep="\n")
    rates = {name: f"{rate / 1e9:.1f}" for name, rate in machine.rates.items()}
    print(f"\nroof: {rates['read']} GB/s, {rates['fma']} GFLOP/s, {rates['int8']} int8 GOP/s")


def _python_parts(requests: Sequence[int], num_steps: int) -> None:
    """Microseconds of each part, by the number of requests; the demo model's steps are short."""
    config = EngineConfig("demo", threads=1, max_num_seqs=max(requests))
    profiler = StepProfiler(Assembly(config))
    headings = " ".join(f"{name:>12}" for name in (*PARTS, "all", "goal"))
    print(f"Python, us a step\n{'requests':>8} {headings}")
    for count in requests:
        gc.collect()
        profile = profiler.run(Workload.decode(count, 64), num_steps * 5)
        print(_parts_line(count, profile), flush=True)


def _parts_line(count: int, profile: Profile) -> str:
    values = [profile.median_part_s(name) for name in PARTS] + [profile.median_python_s]
    goal = f"{GOALS_US[count]:12}" if count in GOALS_US else f"{'-':>12}"
    return " ".join([f"{count:8}", *(f"{value * 1e6:12.0f}" for value in values), goal])


if __name__ == "__main__":
    main()
