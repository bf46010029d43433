"""`quire doctor`: findings, cures, exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quire.cli import checkup, doctor
from quire.cli.checkup import Finding, check_hub, findings
from quire.cli.main import main
from quire.errors import ConfigError

TOPICS = ["processor", "features", "cores", "memory", "python", "packages", "kernels"]
TOPICS += ["tuning", "compiler", "gpu", "torch", "triton", "cache", "downloads"]


def finding(topic: str) -> Finding:
    return next(each for each in findings() if each.topic == topic)


def test_this_machine_is_ready(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Quire ") and "Ready: try" in out
    assert all(f"\n  {topic}" in out or f"\n! {topic}" in out for topic in TOPICS)


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["topic"] for each in found] == TOPICS
    assert all(each["fact"] for each in found)


def test_something_required_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> int:
        raise ConfigError("the native library is not built")

    monkeypatch.setattr("quire.backends.native.library.best_isa", broken)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "! kernels    the native library is not built" in out
    assert "No model can run until this is cured: kernels." in out


def test_no_compiler_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup.shutil, "which", lambda name: None)
    found = finding("compiler")
    assert "no C++ compiler" in found.fact and found.cure and not found.required


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=1", "no-such-package>=2", 'other; extra == "test"']
    monkeypatch.setattr(checkup.importlib.metadata, "requires", lambda name: wanted)
    found = finding("packages")
    assert found.fact == "missing: no-such-package"
    assert found.cure == "pip install no-such-package" and found.required


def test_caches_follow_their_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "deep" / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    assert finding("cache").fact.startswith(str(tmp_path / "deep" / "cache"))
    assert finding("downloads").fact.startswith(str(tmp_path / "hf" / "hub"))


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup.os, "access", lambda path, mode: False)
    found = finding("cache")
    assert "cannot be written" in found.fact and "QUIRE_CACHE_DIR" in str(found.cure)


def test_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    found = check_hub()
    assert "http://127.0.0.1:9 does not answer" in found.fact
    assert found.cure and not found.required


def test_network_is_asked_only_when_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkup, "check_hub", lambda: Finding("hub", "asked"))
    main(["doctor"])
    assert "asked" not in capsys.readouterr().out
    main(["doctor", "--network"])
    assert "asked" in capsys.readouterr().out


def test_cures_stand_below_their_fact() -> None:
    assert doctor._line(Finding("a", "b")) == "  a          b"
    assert doctor._line(Finding("a", "b", "c")).splitlines()[1].strip() == "→ c"
