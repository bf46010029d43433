"""The demo model, loaded once, and copies of its directory to damage."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quire.assembly import Assembly
from quire.config import EngineConfig
from quire.llm import LLM
from quire.weights.hub import DEMO

SMALL: dict[str, Any] = {
    "threads": 1,
    "max_model_len": 256,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 64,
    "kv_cache_memory_bytes": 4 * 2**20,
}


@pytest.fixture(scope="session")
def shared_llm() -> LLM:
    """The demo model; tests leave its engine without requests."""
    return LLM("demo", **SMALL)


@pytest.fixture
def llm(shared_llm: LLM) -> Iterator[LLM]:
    """The demo model, checked for leaks after the test."""
    yield shared_llm
    engine = shared_llm._engine
    assert not engine.has_work
    assert engine.stats().scheduler.num_used_blocks == 0
    engine.scheduler.check()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; where packed matrices are kept in it."""
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "packed"


@pytest.fixture
def assembly() -> Assembly:
    """The parts of a fresh demo model, for an engine of one's own."""
    return Assembly(EngineConfig("demo", **SMALL))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the demo's directory; replace its files, do not write into them."""
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    for file in DEMO.iterdir():
        if file.suffix in (".json", ".safetensors"):
            os.symlink(file, directory / file.name)
    return directory


def rewrite(path: Path, content: bytes | str) -> None:
    """Put another file in the place of a link."""
    path.unlink(missing_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def reconfigure(directory: Path, **changes: Any) -> None:
    """Change config.json; `...` removes a key."""
    config = {**json.loads((directory / "config.json").read_text()), **changes}
    kept = {key: value for key, value in config.items() if value is not ...}
    rewrite(directory / "config.json", json.dumps(kept))
