"""`quire tune`, and the commands that show what it kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire.backends.native import tuner
from quire.backends.native.library import best_isa
from quire.cli.main import main
from quire.runtime.tuning import read_tunings


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Measures as little as it can, and keeps it in a cache of this test."""
    monkeypatch.setattr(tuner, "SECONDS", 0.0)
    monkeypatch.setattr(tuner, "MIN_TURNS", 1)
    monkeypatch.setattr(tuner, "MATRIX_BYTES", 64 * 1024)
    monkeypatch.setattr(tuner, "MEMORY_BYTES", 1024 * 1024)
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "cache"))


def output(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 0
    return capsys.readouterr().out


def test_what_was_measured_is_kept_shown_and_used(capsys: pytest.CaptureFixture[str]) -> None:
    explain = ("explain", "demo", "--threads", "1")
    assert "Tuning for 1 threads: the default" in output(capsys, *explain)
    made = output(capsys, "tune", "--threads", "1")
    assert all(f"\n  {dtype}  " in made for dtype in ("F32", "BF16", "INT4"))
    path = made.split("kept in ")[1].strip()
    assert "Tuning for 1 threads: measured 2" in (shown := output(capsys, *explain))
    assert path in shown and "\n  BF16 " in shown and "\n  INT4 " not in shown
    assert "the default" in output(capsys, *explain, "--tuning", "off")
    assert "\n  INT4 " in output(capsys, *explain, "-q", "int4")


def test_doctor_shows_the_tuning(capsys: pytest.CaptureFixture[str]) -> None:
    assert "tuning     the default" in output(capsys, "doctor")
    output(capsys, "tune")
    assert "tuning     measured 2" in output(capsys, "doctor")


def test_a_file_of_ones_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = str(tmp_path / "mine.json")
    made = output(capsys, "tune", "--output", file)
    assert made.endswith(f"kept in {file}\n")
    assert not (tmp_path / "cache").exists()
    assert set(read_tunings(Path(file), best_isa())) >= {"F32", "INT8"}
    assert f"from {file}" in output(capsys, "explain", "demo", "--tuning", file)


def test_an_instruction_set_that_does_not_run_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["tune", "--threads", "0"]) == 1
    assert "at least 1 thread" in capsys.readouterr().err
    assert main(["tune", "--instruction-set", "sse9"]) == 2
