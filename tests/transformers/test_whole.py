"""A model without a family, from its directory to text; what is said of it, and what is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from quire.cli.main import main
from quire.errors import CapacityError, ConfigError, ModelError
from quire.llm import LLM
from quire.runtime import wrapped as loading
from quire.sampling_params import SamplingParams
from quire.weights.hub import DEMO
from tests.engine.conftest import SMALL
from tests.models.case import Case
from tests.models.checkpoints import build_oracle
from tests.transformers.wrapped import OTHERS

pytestmark = pytest.mark.oracle
torch.set_num_threads(1)

PROMPTS = ["Once upon a time", "Once upon a hill there was", "x"]
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Persimmon with as many tokens as the demo's tokenizer."""
    made = tmp_path_factory.mktemp("persimmon")
    vocab_size = json.loads((DEMO / "config.json").read_text())["vocab_size"]
    build_oracle(
        Case("persimmon", "persimmon", {**OTHERS[0].fields, "vocab_size": vocab_size}), made
    )
    return made


def open_model(directory: Path, **options: Any) -> LLM:
    return LLM(str(directory), **{**SMALL, "tokenizer": str(DEMO), "device": "cpu", **options})


def test_greedy_text_is_that_of_transformers(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        llm = open_model(directory)
    assert "PersimmonForCausalLM runs through transformers, slower" in caplog.text
    assert llm.info.implementation == "transformers"
    assert any("kernels: transformers" in line for line in llm.info.lines)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    for output in llm.generate(PROMPTS, GREEDY, use_tqdm=False):
        prompt = list(output.prompt_token_ids)
        expected = model.generate(
            torch.tensor([prompt]), max_new_tokens=12, min_new_tokens=12, do_sample=False
        )
        assert list(output.outputs[0].token_ids) == expected[0, len(prompt) :].tolist()


def test_a_known_family_through_transformers() -> None:
    """The demo model: the same text as by native."""
    options = {
        **SMALL,
        "device": "cpu",
        "dtype": "float32",
        "kv_cache_dtype": "float32",
        "speculative": "ngram",
    }
    texts = [
        [
            output.outputs[0].text
            for output in LLM("demo", backend=backend, **options).generate(
                PROMPTS, GREEDY, use_tqdm=False
            )
        ]
        for backend in ("transformers", "native")
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("quantization", "int4"),
        ("task", "embed"),
        ("strict_config", True),
        ("prefix_cache_dir", "somewhere"),
        ("instruction_set", "portable"),
    ],
)
def test_options_without_effect_are_refused(option: str, value: Any, directory: Path) -> None:
    with pytest.raises(ConfigError, match=f"{option}.*transformers does not heed"):
        open_model(directory, **{option: value})


def test_overrides_are_heeded_or_refused(directory: Path) -> None:
    llm = open_model(directory, hf_overrides={"max_position_embeddings": 64}, max_model_len=None)
    assert llm.info.max_model_len == 64
    with pytest.raises(ModelError, match="knows no hidden_sise"):
        open_model(directory, hf_overrides={"hidden_sise": 3})


def test_without_transformers(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to want it say what to install."""
    find = loading.find_spec
    monkeypatch.setattr(
        loading, "find_spec", lambda name: None if name == "transformers" else find(name)
    )
    with pytest.raises(ModelError, match=r"pip install 'quire\[transformers\]'"):
        open_model(directory)
    with pytest.raises(ConfigError, match=r"pip install 'quire\[transformers\]'"):
        open_model(directory, backend="transformers")
    with pytest.raises(ModelError, match="is not supported"):
        open_model(directory, backend="native")


@pytest.mark.parametrize("command", ["explain", "show"])
def test_commands_about_our_own_ops_say_so(
    command: str, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(directory)]) != 0
    assert "quire[transformers]" in capsys.readouterr().err


def test_what_cannot_fit_is_not_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "usable_bytes", lambda config, free: 1000)
    with pytest.raises(CapacityError, match="the weights' files have"):
        open_model(directory)


def test_dummy_weights(directory: Path) -> None:
    first, second = (open_model(directory, load_format="dummy", seed=4) for _ in range(2))
    texts = [each.generate(PROMPTS, GREEDY, use_tqdm=False) for each in (first, second)]
    found, again = ([output.outputs[0].token_ids for output in each] for each in texts)
    assert found == again
