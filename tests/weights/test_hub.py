"""What the user calls a model becomes a directory, or an error that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import quire
from quire.errors import ConfigError, ModelError
from quire.weights import huggingface, modelscope
from quire.weights.hub import resolve_model
from quire.weights.hub_files import choose_files


def test_a_directory_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_model(str(tmp_path)) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    assert resolve_model("~/models") == tmp_path / "models"


def test_demo_is_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert quire.__file__ is not None
    assert resolve_model("demo") == Path(quire.__file__).parent / "demo"


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    with pytest.raises(ModelError, match="a file; give a checkpoint's directory"):
        resolve_model(str(tmp_path / "model.bin"))


@pytest.mark.parametrize(
    "model",
    [
        "./absent",
        "/absent/model",
        "a/b/c",
        "../x",
        "org/..",
        "org/",
        "",
        "a b",
        "org/na?me",
        "org/näme",
    ],
)
def test_what_is_neither_path_nor_name_is_refused(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if model == "":
        assert resolve_model(model) == Path()  # the current directory, as everywhere
        return
    with pytest.raises(ModelError, match="no such directory"):
        resolve_model(model)


def test_names_go_to_the_chosen_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(huggingface, "download", lambda *given: calls.append(("hf", *given)))
    monkeypatch.setattr(modelscope, "download", lambda *given: calls.append(("ms", *given)))
    monkeypatch.delenv("MODELSCOPE_ENDPOINT", raising=False)
    resolve_model("org/name", "v1", cache_dir=str(tmp_path), token="t")
    resolve_model("gpt2", offline=True)
    resolve_model("org/name", source="modelscope")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://mirror")
    resolve_model("org/name", source="modelscope")
    assert calls == [
        ("hf", "org/name", "v1", tmp_path, False, "t"),
        ("hf", "gpt2", None, None, True, None),
        ("ms", "org/name", None, None, False, None, "https://modelscope.cn"),
        ("ms", "org/name", None, None, False, None, "http://mirror"),
    ]


def test_another_source_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'elsewhere'"):
        resolve_model("org/name", source="elsewhere")  # type: ignore[arg-type]


def test_only_files_that_are_used_are_chosen() -> None:
    used = ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    used += ["tokenizer.json", "tokenizer.model", "merges.txt", "qwen.tiktoken"]
    used += ["chat_template.jinja", "modules.json", "1_Pooling/config.json"]
    unused = ["README.md", "modeling_x.py", "consolidated.safetensors", "original/params.json"]
    unused += [
        "onnx/model.safetensors",
        "onnx/config.json",
        "model.gguf",
        "pytorch_model.bin",
        "training_args.bin",
    ]
    unused += ["flax_model.msgpack", "tf_model.h5", "consolidated.00.pth", ".gitattributes"]
    assert sorted(choose_files(used + unused)) == sorted(used)


def test_pickled_weights_are_chosen_where_there_is_nothing_else() -> None:
    names = ["config.json", "pytorch_model-00001-of-00001.bin", "training_args.bin"]
    assert choose_files(names) == ["config.json", "pytorch_model-00001-of-00001.bin"]
