"""`quire show`: parameters beside the checkpoint's, and memory that adds up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from quire.cli.main import main
from quire.weights.hub import DEMO


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["show", *argv]) == 0
    return capsys.readouterr().out


def test_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "demo", "--batch", "4", "--context", "64")
    assert text.startswith("LlamaForCausalLM, up to 1024 tokens, bfloat16\n")
    assert "layers 0-5" in text
    assert "parameters: 5,442,816, as many as the checkpoint's\n" in text
    # 6 layers x 2 kv heads x 64 numbers x keys and values; int8 has two scales more per head
    assert "bytes per token: float32 6,144, float16 3,072, bfloat16 3,072, int8 1,632" in text
    assert ", fp8 1,632, int4 960\n" in text
    assert "weights 10.4 MiB (bfloat16) + KV cache 0.8 MiB (bfloat16) = 11.1 MiB" in text


def test_quantized_weights_are_counted_as_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    assert "weights 2.9 MiB (quantized, the rest bfloat16)" in shown(capsys, "demo", "-q", "int4")
    assert "weights 5.3 MiB (quantized" in shown(capsys, "demo", "-q", "int8")


def test_config_json_alone_will_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(DEMO / "config.json", tmp_path)
    text = shown(capsys, str(tmp_path / "config.json"), "--kv-cache-dtype", "int8")
    assert "parameters: 5,442,816; no weights here to compare with" in text
    assert "(int8) =" in text


def test_a_checkpoint_with_other_tensors_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(DEMO / name, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 5}))
    text = shown(capsys, str(tmp_path))
    assert ", but the checkpoint has 5,442,816: not read are model.layers.5." in text


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--batch", "0", "--batch is 0"), ("--context", "2k", "--context is 2000; this model takes")],
)
def test_sizes_that_make_no_sense_are_refused(
    capsys: pytest.CaptureFixture[str], option: str, value: str, message: str
) -> None:
    assert main(["show", "demo", option, value]) != 0
    assert message in capsys.readouterr().err
