"""What a spec says survives being written as GGUF; what GGUF or Quire cannot say is refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.errors import CheckpointError, ModelError
from quire.models.registry import build_spec
from quire.models.spec import ModelSpec
from quire.weights.dummy import DummyCheckpoint
from quire.weights.gguf.architectures import ARCHITECTURES
from quire.weights.gguf.checkpoint import GgufCheckpoint
from quire.weights.gguf.config import gguf_config, gguf_generation_defaults
from quire.weights.gguf.model import GgufModel
from quire.weights.gguf.write import write_gguf
from quire.weights.gguf.write_model import write_model
from quire.weights.tensor import RawTensor
from tests.models.checkpoints import CASES, Case

FAMILY = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
WRITABLE = [
    case
    for case in CASES
    if case.model_type in FAMILY
    and not any(word in case.name for word in ("dynamic", "gelu", "windows"))
]


def spec_of(case: Case, **changes: Any) -> ModelSpec:
    return build_spec({"architectures": [FAMILY[case.model_type]], **case.fields, **changes})


def weights_of(spec: ModelSpec) -> dict[str, RawTensor]:
    shapes = {name: weight.shape for name, weight in spec.weights().items()}
    dummy = DummyCheckpoint(shapes, "F32")
    return {name: dummy.tensor(name) for name in shapes}


LLAMA = next(case for case in CASES if case.name == "llama")


@pytest.mark.parametrize("case", WRITABLE, ids=str)
def test_spec_and_weights_survive(tmp_path: Path, case: Case) -> None:
    """`write_model` compares the specs itself; the weights come back at their places."""
    spec = spec_of(case)
    weights = weights_of(spec)
    write_model(tmp_path / "m.gguf", spec, weights, {})
    checkpoint = GgufCheckpoint(GgufModel(tmp_path / "m.gguf"))
    assert set(checkpoint.names) == set(weights)
    for name, weight in weights.items():
        np.testing.assert_array_equal(checkpoint.tensor(name).data, weight.data)


def test_queries_and_keys_stand_turned_in_the_file(tmp_path: Path) -> None:
    """As llama.cpp wants them: rows 0 and D/2 of a head are neighbours."""
    spec = spec_of(LLAMA)
    weights = weights_of(spec)
    write_model(tmp_path / "m.gguf", spec, weights, {})
    model = GgufModel(tmp_path / "m.gguf")
    name = "model.layers.0.self_attn.q_proj.weight"
    stored = model.raw("blk.0.attn_q.weight").view("<f4").reshape(weights[name].shape)
    dims = spec.blocks[0].attention.head_dim
    order = list(itertools.chain(*((i, i + dims // 2) for i in range(dims // 2))))
    np.testing.assert_array_equal(stored[:dims], weights[name].data[order])
    value = model.raw("blk.0.attn_v.weight").view("<f4")
    np.testing.assert_array_equal(
        value, weights["model.layers.0.self_attn.v_proj.weight"].data.reshape(-1)
    )


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("llama-gelu", "activation is 'gelu_tanh'"),
        ("llama-dynamic-short", "no words for the rope scaling 'dynamic'"),
        ("qwen2-windows", "window is 8"),
    ],
)
def test_what_gguf_cannot_say_is_refused(tmp_path: Path, name: str, match: str) -> None:
    spec = spec_of(next(case for case in CASES if case.name == name))
    with pytest.raises(ModelError, match=match):
        write_model(tmp_path / "m.gguf", spec, weights_of(spec), {})
    assert not any(tmp_path.iterdir())


def metadata_of(path: Path, **changes: Any) -> GgufModel:
    """The tiny Llama with other metadata; `...` removes a key."""
    spec = spec_of(LLAMA)
    write_model(path, spec, weights_of(spec), {})
    model = GgufModel(path)
    metadata = {**model.metadata, **changes}
    shapes = {name: tensor.shape for name, tensor in model.tensors.items()}
    kept = {key: value for key, value in metadata.items() if value is not ...}
    raw = {name: model.raw(name).copy() for name in shapes}
    write_gguf(path, kept, shapes, lambda name: ("F32", raw[name]))
    return GgufModel(path)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("general.architecture", "mamba", f"Supported: {', '.join(ARCHITECTURES)}"),
        ("general.architecture", ..., "architecture None"),
        ("llama.block_count", ..., "no 'num_hidden_layers'"),
        ("llama.logit_scale", 2.0, "logit_scale=2.0"),
        ("llama.attn_logit_softcapping", 30.0, "attn_logit_softcapping=30.0"),
        ("llama.attention.sliding_window", 4096, "sliding_window=4096"),
        ("llama.attention.value_length", 8, "v_head_dim=8"),
        (
            "llama.attention.head_count",
            np.array([4, 2], np.int32),
            r"\[4, 2\]; expected",
        ),
        ("llama.rope.scaling.type", "spiral", "'spiral' is not supported"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path: Path, key: str, value: Any, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        build_spec(gguf_config(metadata_of(tmp_path / "m.gguf", **{key: value})))


def test_settings_in_other_words(tmp_path: Path) -> None:
    """Arrays with one value for all layers, the older scaling, rotations of a part of a head."""
    model = metadata_of(
        tmp_path / "m.gguf",
        **{
            "llama.attention.head_count_kv": np.array([2, 2], np.uint32),
            "llama.rope.scale_linear": 4.0,
            "llama.rope.dimension_count": 8,
            "llama.attention.value_length": ...,
            "llama.attention.key_length": ...,
            "llama.unknown_key": 3,
        },
    )
    config = gguf_config(model)
    spec = build_spec(config)
    attention = spec.blocks[0].attention
    assert (attention.kv_heads, attention.head_dim, attention.rope.dims) == (2, 16, 8)
    assert (attention.rope.scaling.kind, attention.rope.scaling.factor) == ("linear", 4.0)
    assert config["llama.unknown_key"] == 3
    with pytest.raises(ModelError, match=r"llama\.unknown_key"):
        build_spec(config, strict=True)


def test_end_tokens_are_gathered(tmp_path: Path) -> None:
    tokens = ["a", "<s>", "</s>", "<|im_end|>", "<|eot_id|>"]
    model = metadata_of(
        tmp_path / "m.gguf",
        **{
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": np.array([1, 3, 3, 3, 1], np.int32),
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
        },
    )
    spec = build_spec(gguf_config(model))
    assert (spec.bos_token_ids, spec.eos_token_ids) == ((1,), (2, 3))


def test_sampling_defaults(tmp_path: Path) -> None:
    given = {"temp": 0.5, "top_k": 20, "top_p": 0.75, "penalty_repeat": 1.25, "mirostat": 0}
    changes = {f"general.sampling.{key}": value for key, value in given.items()}
    found = gguf_generation_defaults(metadata_of(tmp_path / "m.gguf", **changes)).sampling
    assert found == {"temperature": 0.5, "top_k": 20, "top_p": 0.75, "repetition_penalty": 1.25}
    model = metadata_of(tmp_path / "m.gguf", **{"general.sampling.temp": -1.0})
    with pytest.raises(CheckpointError, match=r"general\.sampling: temperature"):
        gguf_generation_defaults(model)


def test_a_vocabulary_alone_is_no_model(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", {"general.architecture": "llama"}, {}, lambda name: ("F32", 0))
    with pytest.raises(CheckpointError, match="is it a whole model"):
        gguf_config(GgufModel(tmp_path / "m.gguf"))
