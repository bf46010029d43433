"""Whole runs: better algorithms lose less; runs repeat, resume, and load again."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quire.config import EngineConfig
from quire.convert.convert import convert_checkpoint
from quire.convert.evaluate import evaluate_texts
from quire.convert.progress import Progress
from quire.convert.recipe import Algorithms, Quantization
from quire.convert.run import quantize_model, quantize_to_directory
from quire.convert.served_model import ServedModel
from quire.convert.source import Source, open_source
from quire.convert.steps import Measured
from quire.convert.target import most_raised
from quire.convert.texts import texts_of_run
from quire.errors import ConfigError, ModelError
from quire.runtime.load import load_model
from quire.weights.checkpoint import open_checkpoint
from tests.convert.tiny import EXPERTS, SEEING, write_tiny


def run(source: Source, asked: Quantization, output: Path) -> Measured:
    return quantize_model(source, asked, texts_of_run(source, asked), output, show_progress=False)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def errors(measured: Measured) -> float:
    return sum(r["error"] for block in measured.blocks for r in block["matrices"].values())


def test_better_algorithms_lose_less(source: Source, asked: Quantization, tmp_path: Path) -> None:
    lost = {}
    for name in ("rtn", "mse", "awq", "gptq", "awq+gptq"):
        found = run(source, replace(asked, scheme="w3a16", algorithm=name), tmp_path / name)
        lost[name] = errors(found)
    assert lost["mse"] < 0.95 * lost["rtn"]
    assert lost["awq"] < 0.9 * lost["mse"] and lost["gptq"] < 0.9 * lost["mse"]
    assert lost["awq+gptq"] < lost["awq"]


def test_smoothquant_rescues_planted_outliers(asked: Quantization, tmp_path: Path) -> None:
    """Channels made loud by an exact rescaling: norm times 50, columns behind it divided by 50."""
    directory = write_tiny(tmp_path / "model")
    source = open_source(EngineConfig(str(directory)))
    for block in source.spec.blocks:
        for norm, names in (
            (block.attention_norm, (block.attention.query, block.attention.key)),
            (block.mlp_norm, (block.mlp.gate, block.mlp.up)),
        ):
            linears = (*names, block.attention.value) if norm is block.attention_norm else names
            _louden(source, norm.weight.name, [each.weight.name for each in linears])
    asked = replace(asked, scheme="w8a8", group_size=None)
    found = {
        name: run(source, replace(asked, algorithm=name), tmp_path / name).figures["kl_mean"]
        for name in ("rtn", "smoothquant")
    }
    assert found["smoothquant"] < 0.1 * found["rtn"]


def _louden(source: Source, norm: str, columns: list[str]) -> None:
    factors = np.ones(64, np.float32)
    factors[[3, 40]] = 64  # a power of two, so that nothing is rounded
    for name in (norm, *columns):
        values = source.weights[name].float32()
        values = values * factors if name == norm else values / factors
        source.weights[name] = source.stored(name, values)


def test_two_runs_give_the_same_bytes(source: Source, asked: Quantization, tmp_path: Path) -> None:
    asked = replace(asked, algorithm="hadamard+awq+gptq")
    run(source, asked, tmp_path / "one")
    run(source, asked, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_an_interrupted_run_gives_the_same_bytes(
    source: Source,
    asked: Quantization,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_after: int,
) -> None:
    asked = replace(asked, algorithm="awq+gptq")
    whole = run(source, asked, tmp_path / "whole")
    finish = Progress.finish_step

    def stop(self: Progress, *arguments: object) -> None:
        if len(self.records) == stop_after:
            raise KeyboardInterrupt
        finish(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "finish_step", stop)
        with pytest.raises(KeyboardInterrupt):
            run(source, asked, tmp_path / "stopped")
    assert not (tmp_path / "stopped").exists()
    with pytest.raises(ConfigError, match="other options"):
        run(source, replace(asked, calibration_tokens=256), tmp_path / "stopped")
    resumed = run(source, asked, tmp_path / "stopped")
    assert resumed.figures == whole.figures
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    assert not (tmp_path / "stopped.partial").exists()


def test_a_killed_command_goes_on(tiny: Path, text: str, tmp_path: Path) -> None:
    """SIGKILL at any moment; the same command again finishes with the same weights."""

    def command(output: str) -> list[str]:
        options = f"--algorithm gptq --group-size 32 --calibration {text} --evaluation {text}"
        fixed = f"quantize {tiny} --sequence-length 64 {options} --output {tmp_path / output}"
        return [sys.executable, "-m", "quire", *fixed.split()]

    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run(command("whole"), check=True, capture_output=True, env=environment)
    process = subprocess.Popen(
        command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    marks = tmp_path / "killed.partial" / "progress" / "progress.json"
    while not marks.is_file() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if not (tmp_path / "killed").exists():  # else it was faster than we
        subprocess.run(command("killed"), check=True, capture_output=True, env=environment)
    one, two = (contents(tmp_path / name) for name in ("whole", "killed"))
    reports = {"quantization.json", "quantization.md"}
    assert {n: b for n, b in one.items() if n not in reports} == {
        n: b for n, b in two.items() if n not in reports
    }


@pytest.mark.parametrize("scheme", ["w3a16", "w4a16", "w4a16_asym", "w8a8", "fp8", "mxfp4"])
def test_output_loads_and_says_what_the_report_says(
    scheme: str, tiny: Path, text: str, asked: Quantization, tmp_path: Path
) -> None:
    sizes = {"w8a8": None, "fp8": None, "mxfp4": None}
    asked = replace(asked, scheme=scheme, group_size=sizes.get(scheme, 32), evaluation_tokens=4096)
    report = quantize_to_directory(
        EngineConfig(str(tiny)), asked, tmp_path / "q", show_progress=False, measure_speed=False
    )
    served, original = (
        ServedModel(EngineConfig(str(each), kv_cache_dtype="float32"), 64)
        for each in (tmp_path / "q", tiny)
    )
    (found,) = evaluate_texts(served, original, [text], 64)
    figures = report["figures"]
    for name in ("perplexity_original", "perplexity"):
        nats, expected = (math.log(each[name]) for each in (found, figures))
        assert nats == pytest.approx(expected, rel=0.005)  # inputs are rounded otherwise
    assert figures["kl_mean"] > 0


def test_the_report_is_written(tiny: Path, asked: Quantization, tmp_path: Path) -> None:
    report = quantize_to_directory(EngineConfig(str(tiny)), asked, tmp_path / "q", False)
    assert json.loads((tmp_path / "q" / "quantization.json").read_text()) == json.loads(
        json.dumps(report)
    )
    page = (tmp_path / "q" / "quantization.md").read_text()
    for wanted in ("perplexity", "KL divergence", "worst", "--override", "tokens/s"):
        assert wanted in page
    assert (tmp_path / "q" / "quantization.svg").read_text().startswith("<svg")
    assert report["speed"]["quantized"]["output_tokens_per_s"] > 0
    size = sum(
        path.stat().st_size for path in (tmp_path / "q").glob("*.safetensors")
    )  # headers included
    assert report["bytes"] < size < 1.2 * report["bytes"]


def test_the_report_says_which_experts_saw_little(
    text: str, asked: Quantization, tmp_path: Path
) -> None:
    """Every token goes to two of five experts, so their counts add up to twice the tokens."""
    model = write_tiny(tmp_path / "m", **EXPERTS)
    asked = replace(asked, algorithm="gptq", group_size=16, scheme="w4a16")
    report = quantize_to_directory(EngineConfig(str(model)), asked, tmp_path / "q", False, False)
    first = report["blocks"][0]["matrices"]
    counts = [r["tokens"] for n, r in first.items() if ".experts." in n and "down" in n]
    assert len(counts) == 5 and sum(counts) == 2 * report["calibration_tokens"]
    page = (tmp_path / "q" / "quantization.md").read_text()
    seen = [r["tokens"] for block in report["blocks"] for r in block["matrices"].values()]
    few = sum(count < 256 for count in seen)
    assert few and f"reached {few} of {len(seen)} matrices" in page
    assert f"| {min(counts)} to {report['calibration_tokens']} |" in page


def test_a_size_is_reached_from_below(tiny: Path, asked: Quantization, tmp_path: Path) -> None:
    asked = replace(asked, algorithm="rtn")
    plain = quantize_to_directory(EngineConfig(str(tiny)), asked, tmp_path / "plain", False, False)
    share = plain["bytes"] / plain["original_bytes"] + 0.01
    asked = replace(asked, target=f"size={share:.4f}")
    report = quantize_to_directory(EngineConfig(str(tiny)), asked, tmp_path / "q", False, False)
    assert report["options"]["override"]
    assert plain["bytes"] < report["bytes"] <= share * report["original_bytes"]
    assert not list(tmp_path.glob("*trial*"))


def test_as_many_are_raised_as_fit() -> None:
    """Each of three 4-bit matrices of 100 bytes takes 100 x (8 / 4.125 - 1) = 94 more."""
    record = {"scheme": "w4a16", "bytes": 100, "error": 0.1}
    blocks = [{"matrices": dict.fromkeys("abc", record)}]
    for room, count in ((93, 0), (94, 1), (187, 1), (188, 2), (283, 3), (9999, 3)):
        report = {"original_bytes": 1000, "bytes": 300, "blocks": blocks}
        assert most_raised(report, ["a", "b", "c"], (300 + room) / 1000) == count


def test_a_divergence_is_reached(tiny: Path, asked: Quantization, tmp_path: Path) -> None:
    asked = replace(asked, algorithm="rtn")
    plain = quantize_to_directory(EngineConfig(str(tiny)), asked, tmp_path / "plain", False, False)
    kl = plain["figures"]["kl_mean"] / 2
    asked = replace(asked, target=f"kl={kl}")
    report = quantize_to_directory(EngineConfig(str(tiny)), asked, tmp_path / "q", False, False)
    assert report["figures"]["kl_mean"] <= kl
    assert 0 < len(report["options"]["override"]) < 14
    with pytest.raises(ConfigError, match="every matrix in 8 bits"):
        impossible = replace(asked, target="kl=1e-9")
        quantize_to_directory(EngineConfig(str(tiny)), impossible, tmp_path / "no", False, False)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"scheme": "w5a16"}, "no scheme 'w5a16'"),
        ({"algorithm": "magic"}, "no algorithm 'magic'"),
        ({"algorithm": "awq+smoothquant"}, "scales twice"),
        ({"algorithm": "rtn+gptq"}, "rounds twice"),
        ({"algorithm": "rtn+mse"}, "rounds twice"),
        ({"scheme": "w8a8"}, "whole rows"),
        ({"override": ("nothing=w8a16",)}, "fits no matrix"),
        ({"override": ("*_proj=none",)}, "leave no matrix"),
        ({"override": ("down_proj",)}, "PATTERN=SCHEME"),
        ({"override": ("embed_tokens=w8a16",)}, "tied"),
        ({"format": "awq", "scheme": "w3a16"}, "format 'awq'"),
        ({"format": "gptq", "override": ("down_proj=w8a16",)}, "one scheme"),
        ({"target": "kl=-1"}, "target is"),
        ({"calibration": ("/nowhere.txt",)}, "cannot be read"),
        ({"group_size": 48}, "no groups of 48"),
    ],
)
def test_what_cannot_be_done_is_refused_first(
    changes: dict, fault: str, tiny: Path, asked: Quantization, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=fault):
        wanted = replace(asked, **changes)
        quantize_to_directory(EngineConfig(str(tiny)), wanted, tmp_path / "q", False, False)
    assert not list(tmp_path.iterdir())


def test_an_output_that_exists_is_left_alone(
    source: Source, asked: Quantization, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(ConfigError, match="exists"):
        run(source, asked, tmp_path)
    assert contents(tmp_path) == {"mine": b"precious"}


def test_a_quantized_model_is_refused(source: Source, asked: Quantization, tmp_path: Path) -> None:
    run(source, replace(asked, algorithm="rtn"), tmp_path / "q")
    with pytest.raises(ConfigError, match="quantized already"):
        open_source(EngineConfig(str(tmp_path / "q")))


def test_an_empty_text_is_refused(source: Source, asked: Quantization, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(ConfigError, match="holds no text"):
        texts_of_run(source, replace(asked, calibration=(str(tmp_path / "empty.txt"),)))


def test_the_usual_algorithm_depends_on_the_scheme() -> None:
    found = {s: str(Algorithms.of(Quantization(s))) for s in ("w4a16", "w8a8", "fp8", "w8a16")}
    assert found == {"w4a16": "awq+gptq", "w8a8": "smoothquant", "fp8": "rtn", "w8a16": "rtn"}


def test_a_tower_is_written_as_it_is(asked: Quantization, tmp_path: Path) -> None:
    """Text calibrates the language model; the result sees as before, converted or not."""
    directory = write_tiny(tmp_path / "seeing", **SEEING)
    (directory / "preprocessor_config.json").write_text('{"patch_size": 4}')
    source = open_source(EngineConfig(str(directory)))
    quantize_to_directory(
        EngineConfig(str(directory)), asked, tmp_path / "out", False, measure_speed=False
    )
    other = tmp_path / "awq"
    convert_checkpoint(EngineConfig(str(tmp_path / "out")), other, "awq", show_progress=False)
    for output in (tmp_path / "out", other):
        written = open_checkpoint(output)
        assert source.beside
        for tensor in source.beside:
            assert written.tensor(tensor.name).data.tobytes() == tensor.data.tobytes()
        section = json.loads((output / "config.json").read_text())["quantization_config"]
        left = section.get("ignore") or section["modules_to_not_convert"]
        assert left[-1] in (r"re:(.*\.)?visual\..*", "visual")
        assert (output / "preprocessor_config.json").is_file()
        model = load_model(EngineConfig(str(output)))
        assert model.vision is not None


def test_what_does_not_go_with_a_tower_is_refused(asked: Quantization, tmp_path: Path) -> None:
    directory = write_tiny(tmp_path / "seeing", **SEEING)
    config, output = EngineConfig(str(directory)), tmp_path / "out"
    with pytest.raises(ConfigError, match=r"visual\.\S+ and \d+ more tensors stay as they are"):
        quantize_to_directory(config, replace(asked, algorithm="hadamard"), output, False)
    with pytest.raises(ModelError, match="cannot be written as GGUF"):
        quantize_to_directory(config, replace(asked, format="gguf"), output, False)
    seen = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}
    (tmp_path / "seen.jsonl").write_text(json.dumps({"messages": [seen]}))
    with pytest.raises(ConfigError, match="line 1 has 1 images, and text alone calibrates"):
        asked = replace(asked, calibration=(str(tmp_path / "seen.jsonl"),))
        quantize_to_directory(config, asked, output, False)
