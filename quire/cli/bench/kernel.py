"""`quire bench kernel [MODEL]`: how near each native kernel comes to what this machine can do."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from quire.cli.engine_options import add_engine_options, engine_config
from quire.cli.options import add_options, given_options
from quire.cli.parser import CommandParser
from quire.cli.usage import UsageError

if TYPE_CHECKING:
    from quire.cli.bench.kernels.measurement import Measurement, Rates
    from quire.models.spec import ModelSpec

__all__ = ["KernelBench", "add_arguments", "run"]

ENGINE_OPTIONS = (
    *("revision", "source", "offline", "download_dir", "hf_overrides"),
    *("threads", "instruction_set"),
)
SECONDS = 0.15  # for each kernel


@dataclass(frozen=True, slots=True)
class KernelBench:
    """What is timed; the model is that of the engine's options."""

    formats: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "of the weights: float32 float16 bfloat16 int8 int4, which are the default,"
            " awq q2_k q3_k q4_k q5_k q6_k iq4_nl nf4 mxfp4 nvfp4 fp8"
        },
    )
    rows: tuple[int, ...] = field(
        default=(),
        metadata={"help": "of the linear layers' inputs (default: 1 2 4 8 16 64 512)"},
    )
    kv_formats: tuple[str, ...] = field(
        default=(),
        metadata={"help": "of the KV cache (default: the model's own and int8)"},
    )
    kernels: tuple[str, ...] = field(
        default=(),
        metadata={"help": "linear experts attention rows sampler (default: all)"},
    )
    json: str | None = field(default=None, metadata={"help": "file for the figures"})


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    add_options(parser, "benchmark", KernelBench)
    add_engine_options(parser, only=ENGINE_OPTIONS)


def run(namespace: argparse.Namespace) -> int:
    """Time the kernels and print a line for each."""
    bench = KernelBench(**given_options(namespace, KernelBench))
    from quire.backends.native import abi as c
    from quire.backends.native import library
    from quire.cli.bench.kernels.formats import FORMATS, USUAL_FORMATS
    from quire.cli.bench.kernels.machine import Machine
    from quire.cli.bench.kernels.measurement import HEADINGS
    from quire.cli.bench.kernels.shapes import KernelShapes
    from quire.cli.bench.kernels.suite import KERNELS, cases
    from quire.ops.kv_cache import KV_FORMATS
    from quire.runtime.machine import inspect_machine

    formats, rows = bench.formats or USUAL_FORMATS, bench.rows or (1, 2, 4, 8, 16, 64, 512)
    name, spec = _model(namespace)
    kv_formats = bench.kv_formats or (spec.dtype, "int8")
    _check("--formats", formats, tuple(FORMATS))
    _check("--kv-formats", kv_formats, KV_FORMATS)
    kernels = bench.kernels or KERNELS
    _check("--kernels", kernels, KERNELS)
    if min(rows) < 1:
        raise UsageError(f"--rows has {min(rows)}; give 1 or more")
    config = engine_config(namespace)
    threads = config.threads or inspect_machine().cores
    machine = Machine(threads, library.choose_isa(config.instruction_set))
    for _ in range(8):
        machine.calibrate()
    print(f"{name}, {c.ISA_NAMES[machine.isa]}, {threads} threads", HEADINGS, sep="\n")
    found = []
    for case in cases(machine, KernelShapes.of(spec), formats, rows, kv_formats, kernels):
        found.append(case.measure(machine, SECONDS))
        print(found[-1].line(machine.rates), flush=True)
    barrier = min(machine.barrier_s() for _ in range(20))
    print(_machine_line(machine.rates, barrier))
    if bench.json is not None:
        settings = {"model": name, "instruction_set": c.ISA_NAMES[machine.isa], "threads": threads}
        _write(Path(bench.json), settings, machine.rates, found)
    return 0


def _check(option: str, formats: tuple[str, ...], known: tuple[str, ...]) -> None:
    for name in formats:
        if name not in known:
            raise UsageError(f"{option} has {name!r}; choose from {', '.join(known)}")


def _model(namespace: argparse.Namespace) -> tuple[str, ModelSpec]:
    """The model that was asked for, or Qwen2.5-0.5B's shape; its config.json is all it needs."""
    from quire.cli.bench.kernels.shapes import QWEN2_5_0_5B
    from quire.models.registry import build_spec
    from quire.runtime.open_model import find_model, read_spec

    if getattr(namespace, "model", None) is None:
        namespace.model = "Qwen2.5-0.5B"
        return namespace.model, build_spec(
            {**QWEN2_5_0_5B, **engine_config(namespace).hf_overrides}
        )
    config = engine_config(namespace)
    return config.model, read_spec(config, find_model(config))


def _machine_line(rates: Rates, barrier: float) -> str:
    return (
        f"this machine: reads {rates['read'] / 1e9:.1f} GB/s, float32 multiply-adds"
        f" {rates['fma'] / 1e9:.1f} GFLOP/s, int8 {rates['int8'] / 1e9:.1f} GOP/s,"
        f" a barrier {barrier * 1e6:.2f} us"
    )


def _write(path: Path, settings: dict[str, object], rates: Rates, found: list[Measurement]) -> None:
    """The figures; shares are of the best rates of the whole run."""
    kernels = [each.as_json(rates) for each in found]
    text = json.dumps({**settings, "rates": dict(rates), "kernels": kernels}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
