"""bench.gpu at toy sizes on the CPU: all parts run, go on where they were, and fill tables."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import __main__ as gpu
from bench.gpu import engine, server
from bench.gpu.models import FORMATS, write_checkpoint
from bench.gpu.results import Results
from bench.gpu.table import NOT_YET, render
from quire.config import EngineConfig
from quire.runtime.open_model import open_model

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu")


def run(part: str, folder: Path, *options: str) -> dict[str, Any]:
    """What the results file has of a part when it has run."""
    path = folder / "results.json"
    device = ["--device", "cpu", "--shape", "tiny", "--results", str(path)]
    gpu.main([part, *device, *options])
    return dict(json.loads(path.read_text())[part])


@pytest.mark.parametrize("part", gpu.WHOLE_MODELS)
def test_a_part(part: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds numbers, once: the second time it makes no model."""
    found = run(part, folder)
    for values in found.values():
        numbers = [value for value in values.values() if not isinstance(value, str)]
        assert numbers and all(math.isfinite(each) and each >= 0 for each in numbers)
    if part in ("decode", "prefill"):
        assert {name.split()[1] for name in found} == set(FORMATS)
        assert all(values["tokens per second"] > 0 for values in found.values())
    if part == "serve":
        assert [name.split()[2] for name in found] == [
            "sharegpt", "decode-heavy", "prefill-heavy", "sharegpt-8/s",
        ]  # fmt: skip
        assert all(values["requests per second"] > 0 for values in found.values())
    if part == "start":
        (values,) = found.values()
        assert values["first_token_s"] > values["ready_s"] > 0
        assert "model" in values["stages"] and "tokenizer" in values["stages"]
    monkeypatch.setattr(engine, "Assembly", None)
    monkeypatch.setattr(server, "serving", lambda *anything: None)
    assert run(part, folder) == found


def test_time_that_is_up_begins_nothing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"decode: time is up before .*run it again"):
        run("decode", tmp_path, "--minutes", "0")
    results = Results(tmp_path / "results.json", limit_s=60)
    assert results.once("decode", "one", lambda: 1) == 1
    assert Results(results.path, limit_s=0).once("decode", "one", lambda: 2) == 1


def test_the_table(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- gpu -->\nold\n<!-- end -->\nafter\n")
    run_table = ["table", "--page", str(page), "--results", str(tmp_path / "results.json")]
    gpu.main(run_table)
    assert NOT_YET in page.read_text() and "old" not in page.read_text()
    found = {"decode": {"tiny bf16 batch 1": {"tokens per second": 12.5, "context": 24}}}
    (tmp_path / "results.json").write_text(json.dumps(found))
    gpu.main(run_table)
    assert "| tiny bf16 batch 1 | 12.5 | 24 |" in page.read_text()
    assert page.read_text().startswith("before") and page.read_text().endswith("after\n")
    assert NOT_YET in gpu.PAGE.read_text() or "TFLOP/s" in gpu.PAGE.read_text()
    ceilings = {"device": "X", "bytes per second": 3e12, "operations per second": 9e14}
    assert "3,000 GB/s" in render({**found, "ceilings": ceilings})


def test_the_checkpoint_is_one(tmp_path: Path) -> None:
    """With the numbers that --load-format dummy would make."""
    directory = write_checkpoint("tiny", tmp_path)
    stored = open_model(EngineConfig(str(directory)), directory, 1).weights
    drawn = open_model(EngineConfig(str(directory), load_format="dummy"), directory, 1).weights
    assert stored.keys() == drawn.keys()
    for name, weight in stored.items():
        assert weight.data.tobytes() == drawn[name].data.tobytes()


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if gpu.torch.cuda.is_available():
        pytest.skip("there is one")
    for options in (["decode"], ["ceilings", "--device", "cpu"]):
        gpu.main([*options, "--results", str(tmp_path / "none.json")])
        assert "no GPU that torch can use" in capsys.readouterr().out
    assert not (tmp_path / "none.json").exists()
