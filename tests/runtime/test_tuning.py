"""Where a tuning comes from: a file, what was measured on this machine, or the default."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quire.backends.native.library import best_isa
from quire.backends.native.tuning import default_tunings
from quire.config import EngineConfig
from quire.errors import ConfigError
from quire.runtime.load import load_model
from quire.runtime.machine import Machine, inspect_machine
from quire.runtime.tuning import choose_tunings, read_tunings, tuning_path, write_tunings

ISA = best_isa()
TUNINGS = {
    dtype: replace(tuning, chunk_bytes=12345)
    for dtype, tuning in default_tunings(ISA, None).items()
}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """This machine, with a cache of its own."""
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "cache"))
    return inspect_machine()


def test_without_a_measurement_the_default_is_taken(machine: Machine) -> None:
    for choice in ("auto", "off"):
        chosen = choose_tunings(choice, ISA, 2, machine)
        assert chosen.tunings == default_tunings(ISA, machine.level2_bytes)
        assert chosen.source.startswith("the default")


def test_what_was_measured_is_taken_unless_it_is_off(machine: Machine) -> None:
    path = tuning_path(ISA, 2, machine)
    write_tunings(path, TUNINGS)
    chosen = choose_tunings("auto", ISA, 2, machine)
    assert chosen.tunings == TUNINGS
    assert chosen.source.startswith("measured 2") and str(path) in chosen.source
    assert choose_tunings("off", ISA, 2, machine).tunings != TUNINGS
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_it_counts_for_its_machine_threads_and_instruction_set_only(machine: Machine) -> None:
    others = [
        tuning_path(0, 2, machine),
        tuning_path(ISA, 3, machine),
        tuning_path(ISA, 2, replace(machine, processor="another")),
        tuning_path(ISA, 2, replace(machine, features=("mmx",))),
        tuning_path(ISA, 2, replace(machine, level2_bytes=1)),
    ]
    assert len({tuning_path(ISA, 2, machine), *others}) == 6
    assert tuning_path(ISA, 2, replace(machine, free_memory=1)) == tuning_path(ISA, 2, machine)


def test_another_build_of_the_kernels_does_not_take_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = tuning_path(ISA, 2, machine)
    (tmp_path / "library").write_bytes(b"other")
    monkeypatch.setattr("quire.runtime.tuning.library_path", lambda: tmp_path / "library")
    assert tuning_path(ISA, 2, machine) != before


def broken(**changes: Any) -> str:
    content = {"version": 1, "tunings": json.loads(_text())["tunings"]}
    content["tunings"]["INT4"].update(changes)
    return json.dumps(content)


def _text() -> str:
    fields = ("tile_rows", "ahead_rows", "ahead_bytes", "block_bytes", "chunk_bytes")
    tunings = {d: {name: getattr(t, name) for name in fields} for d, t in TUNINGS.items()}
    return json.dumps({"version": 1, "tunings": tunings})


BROKEN = {
    "": "Expecting value",
    "[]": "no tuning of version 1",
    '{"version": 2, "tunings": {}}': "no tuning of version 1",
    '{"version": 1, "tunings": {}}': "nothing is said of F32",
    '{"version": 1, "tunings": 5}': "no tuning of version 1",
    '{"version": 1, "tunings": {"F32": {"tile_rows": 4}}}': "F32 needs the fields ahead_bytes",
    broken(ahead_bytes=-1): "ahead_bytes is -1",
    broken(tile_rows=1000): "INT4 has tile_rows 1000",
    broken(extra=1): "INT4 needs the fields",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_file_that_cannot_be_relied_on_is_refused_or_passed_over(
    machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    """Refused where the user named it; passed over, with a warning, in the cache."""
    given = tmp_path / "tuning.json"
    given.write_text(text)
    with pytest.raises(ConfigError) as caught:
        choose_tunings(str(given), ISA, 2, machine)
    assert str(given) in str(caught.value) and BROKEN[text] in str(caught.value)
    path = tuning_path(ISA, 2, machine)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with caplog.at_level(logging.WARNING):
        chosen = choose_tunings("auto", ISA, 2, machine)
    assert chosen.tunings == default_tunings(ISA, machine.level2_bytes)
    assert str(path) in caplog.text and "measures again" in caplog.text


def test_a_file_that_is_not_there_is_named(machine: Machine) -> None:
    with pytest.raises(ConfigError, match="no/such/file"):
        choose_tunings("no/such/file", ISA, 2, machine)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be kept"):
        write_tunings(tmp_path / "file" / "tuning.json", TUNINGS)


def test_an_engine_runs_with_the_tuning_of_a_file(tmp_path: Path) -> None:
    write_tunings(tmp_path / "tuning.json", TUNINGS)
    assert read_tunings(tmp_path / "tuning.json", ISA) == TUNINGS
    config = EngineConfig("demo", max_model_len=64, tuning=str(tmp_path / "tuning.json"))
    executable: Any = load_model(config).executable
    assert executable._bound.tunings[0].chunk_bytes == 12345


def test_a_tuning_for_the_reference_is_refused() -> None:
    with pytest.raises(ConfigError, match="the reference backend has nothing to tune"):
        EngineConfig("demo", backend="reference", tuning="tuning.json")
