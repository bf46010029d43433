"""One quantization run from a model to a directory with its report."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from quire.config import EngineConfig
from quire.convert.format_tensors import check_format
from quire.convert.gguf_file import check_gguf
from quire.convert.progress import Progress
from quire.convert.recipe import Algorithms, Quantization, assign
from quire.convert.report import Report, write_report
from quire.convert.rounding import group_size_of
from quire.convert.source import Source, open_source
from quire.convert.speed import measured_speed
from quire.convert.steps import Measured, Steps
from quire.convert.suggestion import suggest
from quire.convert.target import reach_target, read_target
from quire.convert.texts import DEFAULT_TEXT, Texts, texts_of_run
from quire.weights.pack_cache import describe_files

__all__ = ["quantize_model", "quantize_to_directory"]


def quantize_to_directory(
    config: EngineConfig,
    asked: Quantization,
    output: Path,
    show_progress: bool = True,
    measure_speed: bool = True,
) -> Mapping[str, Any]:
    """Quantize a model as asked, and write checkpoint and report to `output`; the report as JSON.

    An interrupted run goes on where it was.  Raises ConfigError, naming the option, for what cannot
    be done, ModelError or CheckpointError for a model that cannot be read.
    """
    if asked.target is not None:
        read_target(asked.target)
    source = open_source(config)
    if asked.format == "gguf":
        check_gguf(source.spec, source.directory)

    def run(recipe: Quantization, directory: Path) -> Mapping[str, Any]:
        final = directory == output
        return _run(config, source, recipe, directory, show_progress, measure_speed and final)

    return run(asked, output) if asked.target is None else reach_target(asked, output, run)


def _run(
    config: EngineConfig,
    source: Source,
    asked: Quantization,
    output: Path,
    show_progress: bool,
    measure_speed: bool,
) -> Mapping[str, Any]:
    started = time.perf_counter()
    measured = quantize_model(source, asked, texts_of_run(source, asked), output, show_progress)
    bits = {name: scheme.bits_per_weight for name, scheme in assign(source.spec, asked).items()}
    seconds = sum(block["seconds"] for block in measured.blocks)
    speed: dict[str, Any] = {}
    if measure_speed:
        models = (("original", source.directory), ("quantized", output))
        speed = {name: measured_speed(directory) for name, directory in models}
    report = Report(
        model=config.model,
        options=asdict(asked),
        algorithms=str(Algorithms.of(asked)),
        figures=measured.figures,
        blocks=measured.blocks,
        calibration_tokens=measured.tokens,
        bytes=measured.bytes,
        original_bytes=source.num_bytes,
        seconds=max(seconds, time.perf_counter() - started),
        peak_memory=measured.peak_memory,
        speed=speed,
        suggestion=suggest(measured.blocks, bits),
    )
    write_report(output, report)
    return report.as_json()


def quantize_model(
    source: Source, asked: Quantization, texts: Texts, output: Path, show_progress: bool = True
) -> Measured:
    """Write a quantized checkpoint to `output`, a new directory; go on where a run was stopped.

    Raises ConfigError for what the scheme, the format or the model cannot do.
    """
    schemes = assign(source.spec, asked)
    check_format(asked.format, schemes)
    for linear in source.spec.linears():
        name, cols = linear.weight.name, linear.weight.shape[1]
        if name in schemes:
            group_size_of(name, schemes[name], cols)
    progress = Progress(output, _fingerprint(source, asked, texts))
    run = Steps(source, asked, texts, progress)
    done, total = len(progress.records), len(source.spec.blocks) + 2
    with tqdm(
        desc="Quantizing", initial=done, total=total, unit="block", disable=not show_progress
    ) as bar:
        for step in range(done, total):
            run.step(step)
            bar.update()
    return run.finish()


def _fingerprint(source: Source, asked: Quantization, texts: Texts) -> str:
    """A hash of all that the output's bytes depend on."""
    from quire import __version__

    files = [*asked.calibration, *asked.evaluation] or [str(DEFAULT_TEXT)]
    facts = [__version__, asdict(asked), describe_files(source.directory), files]
    digest = hashlib.blake2b(json.dumps(facts).encode(), digest_size=16)
    for tokens in (*texts.calibration, *texts.evaluation):
        digest.update(tokens.tobytes())
    return digest.hexdigest()
