"""What a paged cache cannot serve is refused by name, before anyone is answered wrongly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from quire.backends.transformers.attention import Paged
from quire.backends.transformers.masks import Mask, window_of
from quire.backends.transformers.proof import prove
from quire.errors import ModelError
from tests.models.checkpoints import BASE, build_oracle
from tests.transformers.wrapped import OTHERS, SMALL, wrapped

pytestmark = pytest.mark.oracle
torch.set_num_threads(1)

DYNAMIC = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}}
REFUSED = (
    ("bloom", {"hidden_size": 64, "n_layer": 2, "n_head": 4}, "attention is its own"),
    ("falcon", {**SMALL, "alibi": True}, "attention is its own"),
    (
        "mamba",
        {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
        "another kind .linear_",
    ),
    ("qwen3_next", {"num_hidden_layers": 4}, "another kind .linear_"),
    ("llama4_text", {"num_hidden_layers": 4}, "scales queries"),
    ("llama", {**BASE, **DYNAMIC}, "depends on other texts"),
    ("t5", {"num_layers": 1}, "encoder"),
)


def write(directory: Path, model_type: str, **fields: Any) -> None:
    config = AutoConfig.for_model(model_type, vocab_size=128, **fields)
    if not config.architectures:
        name = "T5ForConditionalGeneration"
        if model_type != "t5":
            with torch.device("meta"):
                name = type(AutoModelForCausalLM.from_config(config)).__name__
        config.architectures = [name]
    config.save_pretrained(directory)


@pytest.mark.parametrize(("kind", "fields", "words"), REFUSED, ids=lambda each: str(each)[:12])
def test_by_name(kind: str, fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    write(tmp_path, kind, **{key: value for key, value in fields.items() if key != "vocab_size"})
    with pytest.raises(ModelError, match=words):
        wrapped(tmp_path)


def test_files_that_do_not_go_together(tmp_path: Path) -> None:
    build_oracle(OTHERS[0], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    def with_changes(**changes: Any) -> None:
        (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))

    with_changes(architectures=["GPTNeoXForSequenceClassification"])
    with pytest.raises(ModelError, match="as a decoder it is GPTNeoXForCausalLM"):
        wrapped(tmp_path)
    with_changes(num_hidden_layers=4)
    with pytest.raises(ModelError, match="its checkpoint lacks"):
        wrapped(tmp_path)
    with_changes(quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ModelError, match="it is quantized"):
        wrapped(tmp_path)


def test_code_of_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    (tmp_path / "own.py").write_text(f"open({str(trap)!r}, 'w')\nclass Config: pass\n")
    settings = {"architectures": ["OwnForCausalLM"], "model_type": "own"}
    settings["auto_map"] = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Config"}  # type: ignore[assignment]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="neither Quire nor transformers"):
        wrapped(tmp_path)
    assert not trap.exists()


def test_the_proof_sees_a_model_that_forgets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its layers see the tokens of this step only, as if they had a past of their own."""
    build_oracle(OTHERS[0], tmp_path)
    model = wrapped(tmp_path)
    prove(model)

    def forgetful(
        self: Paged, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        found = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return found.transpose(0, 1)

    monkeypatch.setattr(Paged, "attend", forgetful)
    with pytest.raises(ModelError, match=r"off by .* of the largest"):
        prove(model)


def test_sights() -> None:
    """Windows and chunks are found whatever their size; anything else is refused."""
    sees = {
        "all": lambda b, h, q, k: k <= q,
        "window": lambda b, h, q, k: (k <= q) & (k > q - 5),
        "chunk": lambda b, h, q, k: (k <= q) & (k // 5 == q // 5),
        "both ways": lambda b, h, q, k: k == k,
        "dilated": lambda b, h, q, k: (k <= q) & ((q - k) % 2 == 0),
    }
    mask = lambda name, size=5: Mask(sees[name], size, torch.device("cpu"))  # noqa: E731
    assert window_of(mask("all", None)) == (None, None)
    assert window_of(mask("window")) == (5, None)
    assert window_of(mask("chunk")) == (None, 5)
    for wrong in (mask("both ways", None), mask("dilated"), mask("window", 6), None):
        with pytest.raises(ModelError):
            window_of(wrong)
