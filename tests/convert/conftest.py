"""The tiny model, opened once, and a short text for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire.config import EngineConfig
from quire.convert.recipe import Quantization
from quire.convert.source import Source, open_source
from tests.convert.tiny import DEMO, write_tiny

SMALL = {"group_size": 32, "sequence_length": 64, "calibration_tokens": 512}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def source(tiny: Path) -> Source:
    return open_source(EngineConfig(str(tiny)))


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text((DEMO / "heldout.en.txt").read_text(encoding="utf-8")[:3000])
    return str(path)


@pytest.fixture
def asked(text: str) -> Quantization:
    """A small run; tests replace what they look at."""
    return Quantization(calibration=(text,), evaluation=(text,), evaluation_tokens=128, **SMALL)  # type: ignore[arg-type]
