"""The sequences that a run calibrates on and measures with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quire.convert.calibration_text import read_sequences, spread
from quire.convert.recipe import Quantization
from quire.convert.source import Source

__all__ = ["Texts", "read_texts"]

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Texts:
    """Sequences to calibrate on and to measure with."""

    calibration: list[Tokens]
    evaluation: list[Tokens]


def read_texts(source: Source, asked: Quantization) -> Texts:
    """The run's texts; without files to evaluate, every fourth sequence at most is held back.

    Raises ConfigError for files without text.
    """
    length = min(asked.sequence_length, source.spec.max_length)
    found = read_sequences(asked.calibration, source.tokenizer, length)
    if asked.evaluation:
        held = read_sequences(asked.evaluation, source.tokenizer, length)
        evaluation = [held[i] for i in spread(held, asked.evaluation_tokens)]
        rest = found
    else:
        most = min(asked.evaluation_tokens, sum(map(len, found)) // 4)
        chosen = set(spread(found, most))
        evaluation = [each for i, each in enumerate(found) if i in chosen]
        rest = [each for i, each in enumerate(found) if i not in chosen] or found
    calibration = [rest[i] for i in spread(rest, asked.calibration_tokens)]
    return Texts(calibration, [each for each in evaluation if len(each) > 1])
