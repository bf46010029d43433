"""Quantizes a model block by block, and measures what that did to it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from quire.convert.calibration_text import DEFAULT_TEXT
from quire.convert.format_tensors import check_format
from quire.convert.progress import Progress
from quire.convert.recipe import Quantization, assign
from quire.convert.rounding import group_size_of
from quire.convert.source import Source
from quire.convert.steps import Measured, Steps
from quire.convert.texts import Texts
from quire.weights.pack_cache import describe_files

__all__ = ["quantize_model"]


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
