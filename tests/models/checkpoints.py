"""Random checkpoints of every family and option, with transformers as the oracle.

Every parameter is redrawn: many biases and norms start at zero or one and would hide a bug.
Matrices are drawn at 1.5 / sqrt(fan_in), so that a wrong rotation moves the logits visibly.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from quire.models.families.decoder import TINY
from tests.models import cases_dense, cases_parallel, cases_recurrent
from tests.models.case import Case

BASE: dict[str, Any] = {**TINY, "pad_token_id": 0}


def _llama(name: str, prompt_length: int = 40, **fields: Any) -> Case:
    return Case(name, "llama", {**BASE, "head_dim": 16, **fields}, prompt_length)


def _rope(kind: str, **fields: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **fields}}


LLAMA3 = _rope(
    "llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
YARN = _rope("yarn", factor=4.0, original_max_position_embeddings=64)

CASES: tuple[Case, ...] = (
    _llama("llama"),
    _llama("llama-linear", **_rope("linear", factor=4.0)),
    _llama("llama-dynamic-short", **_rope("dynamic", factor=2.0)),
    _llama("llama-dynamic-long", max_position_embeddings=32, **_rope("dynamic", factor=2.0)),
    _llama("llama3", **LLAMA3),
    _llama("llama-yarn", **YARN),
    _llama("llama-theta", rope_parameters={"rope_type": "default", "rope_theta": 500000.0}),
    _llama("llama-biases", attention_bias=True, mlp_bias=True),
    _llama("llama-tied", tie_word_embeddings=True),
    _llama("llama-mha", num_key_value_heads=4),
    _llama("llama-mqa", num_key_value_heads=1),
    _llama("llama-head64", head_dim=64),
    _llama("llama-head80", head_dim=80),
    _llama("llama-head96", head_dim=96),
    _llama("llama-head128", head_dim=128),
    _llama("llama-head256", head_dim=256),
    _llama("llama-gelu", hidden_act="gelu_pytorch_tanh"),
    Case("mistral-window", "mistral", {**BASE, "head_dim": 16, "sliding_window": 8}),
    Case("mistral-no-window", "mistral", {**BASE, "head_dim": 16, "sliding_window": None}),
    Case(
        "mistral-nemo",
        "mistral",
        {
            **BASE,
            "head_dim": 8,
            "sliding_window": None,
            "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
    ),
    Case("qwen2", "qwen2", BASE),
    Case(
        "qwen2-windows",
        "qwen2",
        {**BASE, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
    Case("qwen2-yarn", "qwen2", {**BASE, **YARN}),
    Case("qwen3", "qwen3", {**BASE, "head_dim": 32}),
    Case("qwen3-yarn", "qwen3", {**BASE, "head_dim": 8, "attention_bias": True, **YARN}),
    Case("qwen3-tied", "qwen3", {**BASE, "head_dim": 32, "tie_word_embeddings": True}),
    *cases_dense.CASES,
    *cases_parallel.CASES,
    *cases_recurrent.CASES,
)


def build_oracle(case: Case, directory: Path, dtype: str = "float32") -> Any:
    """Write the case's random checkpoint to `directory`; return the transformers model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(len(case.name))
    config = AutoConfig.for_model(case.model_type, **case.fields)
    plain = {"attn_implementation": "eager", "experts_implementation": "eager"}
    model = AutoModelForCausalLM.from_config(config, **plain).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                is_norm = ("norm" in name or "ln_" in name) and name.endswith("weight")
                parameter.normal_(1.0 if is_norm else 0.0, 0.1)
            else:
                parameter.normal_(0, 1.5 / parameter.shape[-1] ** 0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):  # of the checkpoint too; zero at first
                buffer.normal_(0, 0.2)
    model.tie_weights()
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(directory)
    return model


def oracle_logits(model: Any, tokens: list[int]) -> np.ndarray:
    """Logits [T, V] float32 of one sequence, computed in one pass."""
    import torch

    with torch.no_grad():
        return model(torch.tensor([tokens]), use_cache=False).logits[0].float().numpy()


def oracle_greedy(model: Any, tokens: list[int], count: int) -> list[int]:
    """The next `count` greedy tokens, by full recomputation at every step."""
    known = list(tokens)
    for _ in range(count):
        known.append(int(oracle_logits(model, known)[-1].argmax()))
    return known[len(tokens) :]


def random_tokens(case: Case, seed: int = 0) -> list[int]:
    """A prompt of the case's length, without special tokens."""
    random = np.random.default_rng(seed)
    return random.integers(3, case.fields["vocab_size"], case.prompt_length).tolist()


def old_spelling(case: Case, directory: Path) -> None:
    """Rewrite config.json from rope_parameters to rope_theta and rope_scaling."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    if rope := config.pop("rope_parameters", {}):  # without one, nothing is rotated
        if "full_attention" in rope:
            config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
            rope = rope["full_attention"]
        config["rope_theta"] = rope.pop("rope_theta")
        if "partial_rotary_factor" in rope:
            config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
        kind = rope.pop("rope_type")
        config["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    config = {**config, **case.old}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))
