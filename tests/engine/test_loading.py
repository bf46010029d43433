"""From a directory to a running model: made-up weights, missing heads, and damage of every kind."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.errors import CapacityError, CheckpointError, ModelError, RequestError
from quire.llm import LLM
from quire.sampling_params import SamplingParams
from quire.weights.checkpoint import open_checkpoint
from quire.weights.hub import DEMO
from tests.engine.conftest import SMALL, reconfigure, rewrite

GREEDY = SamplingParams(temperature=0.0, max_tokens=8)


def generate(model: object, **options: Any) -> list[int]:
    llm = LLM(str(model), **{**SMALL, **options})
    (output,) = llm.generate("In the beginning", GREEDY, use_tqdm=False)
    return output.outputs[0].token_ids


def save_weights(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write a safetensors file of bfloat16 bits."""
    header, end = {}, 0
    for name, array in tensors.items():
        span = [end, end := end + array.nbytes]
        header[name] = {"dtype": "BF16", "shape": list(array.shape), "data_offsets": span}
    text = json.dumps(header).encode()
    body = b"".join(array.tobytes() for array in tensors.values())
    rewrite(path, len(text).to_bytes(8, "little") + text + body)


def demo_weights() -> dict[str, np.ndarray]:
    checkpoint = open_checkpoint(DEMO)
    return {name: checkpoint.tensor(name).data for name in checkpoint.names}


def shard(directory: Path) -> None:
    """Spread the weights over two files and their index."""
    weights = demo_weights()
    names = list(weights)
    (directory / "model.safetensors").unlink()
    places = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_weights(directory / file, {name: weights[name] for name in part})
        places.update(dict.fromkeys(part, file))
    index = json.dumps({"metadata": {}, "weight_map": places})
    rewrite(directory / "model.safetensors.index.json", index)


# --- what loads


def test_a_copy_of_the_demo(checkpoint: Path) -> None:
    assert generate(checkpoint) == generate("demo")


def test_shards(checkpoint: Path) -> None:
    shard(checkpoint)
    assert generate(checkpoint) == generate("demo")


def test_made_up_weights_depend_on_the_seed_only(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    found = [generate(checkpoint, load_format="dummy", seed=seed) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("dtype", ["auto", "float32", "float16"])
def test_made_up_weights_in_any_dtype(checkpoint: Path, dtype: str) -> None:
    assert len(generate(checkpoint, load_format="dummy", dtype=dtype)) > 0


def test_a_missing_head_is_the_embedding(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reconfigure(checkpoint, tie_word_embeddings=False)
    with caplog.at_level(logging.WARNING):
        assert generate(checkpoint) == generate("demo")
    assert "no lm_head.weight; using the embedding table" in caplog.text


def test_a_head_of_its_own_is_used(checkpoint: Path) -> None:
    weights = demo_weights()
    weights["lm_head.weight"] = np.roll(weights["model.embed_tokens.weight"], 7, axis=0)
    save_weights(checkpoint / "model.safetensors", weights)
    reconfigure(checkpoint, tie_word_embeddings=False)
    expected = generate("demo")
    assert generate(checkpoint)[0] == expected[0] + 7


def test_a_tensor_too_many_is_reported(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    extra = {"model.extra.weight": np.zeros((2, 2), np.uint16)}
    save_weights(checkpoint / "model.safetensors", demo_weights() | extra)
    with caplog.at_level(logging.WARNING):
        assert generate(checkpoint) == generate("demo")
    assert "'model.extra.weight'" in caplog.text


def test_a_token_that_the_model_has_no_row_for(checkpoint: Path) -> None:
    """Gemma 3 1B's tokenizer has one for images, behind the last that the model knows."""
    path = checkpoint / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["added_tokens_decoder"]["5120"] = {"content": "<image_soft_token>", "special": True}
    rewrite(path, json.dumps(settings))
    assert generate(checkpoint) == generate("demo")
    llm = LLM(str(checkpoint), **SMALL)
    with pytest.raises(RequestError, match="token id 5120; the vocabulary ends at 5119"):
        llm.generate("a <image_soft_token>", GREEDY, use_tqdm=False)


def test_the_tokenizer_of_another_directory(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()
    assert generate(checkpoint, tokenizer=str(DEMO)) == generate("demo")


# --- what does not


def no_config(directory: Path) -> str:
    (directory / "config.json").unlink()
    return "config.json"


def bad_config(directory: Path) -> str:
    rewrite(directory / "config.json", '{"architectures": [')
    return "config.json"


def bad_generation_config(directory: Path) -> str:
    rewrite(directory / "generation_config.json", "[1]")
    return "generation_config.json"


def wild_generation_config(directory: Path) -> str:
    rewrite(directory / "generation_config.json", '{"temperature": -1}')
    return "temperature"


def no_weights(directory: Path) -> str:
    (directory / "model.safetensors").unlink()
    return "no weights there"


def cut_weights(directory: Path) -> str:
    content = (DEMO / "model.safetensors").read_bytes()
    rewrite(directory / "model.safetensors", content[: len(content) // 2])
    return "model.safetensors"


def cut_header(directory: Path) -> str:
    rewrite(directory / "model.safetensors", (DEMO / "model.safetensors").read_bytes()[:100])
    return "model.safetensors"


def empty_weights(directory: Path) -> str:
    rewrite(directory / "model.safetensors", b"")
    return "model.safetensors"


def wrong_shape(directory: Path) -> str:
    weights = demo_weights()
    name = "model.layers.2.mlp.up_proj.weight"
    weights[name] = weights[name][:-1]
    save_weights(directory / "model.safetensors", weights)
    return name


def missing_tensor(directory: Path) -> str:
    weights = demo_weights()
    del weights["model.layers.3.self_attn.k_proj.weight"]
    save_weights(directory / "model.safetensors", weights)
    return "model.layers.3.self_attn.k_proj.weight"


def more_layers_than_weights(directory: Path) -> str:
    reconfigure(directory, num_hidden_layers=8)
    return "model.layers.6."


def missing_shard(directory: Path) -> str:
    shard(directory)
    (directory / "model-00002-of-00002.safetensors").unlink()
    return "model-00002-of-00002.safetensors"


def bad_index(directory: Path) -> str:
    shard(directory)
    rewrite(directory / "model.safetensors.index.json", "{}")
    return "model.safetensors.index.json"


def escaping_index(directory: Path) -> str:
    shard(directory)
    index = {"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}
    rewrite(directory / "model.safetensors.index.json", json.dumps(index))
    return "../elsewhere.safetensors"


def no_tokenizer(directory: Path) -> str:
    (directory / "tokenizer.json").unlink()
    return "has no tokenizer"


def bad_tokenizer(directory: Path) -> str:
    rewrite(directory / "tokenizer.json", "{}")
    return "tokenizer.json"


Damage = Callable[[Path], str]


@pytest.mark.parametrize(
    "damage",
    [
        no_config,
        bad_config,
        bad_generation_config,
        wild_generation_config,
        no_weights,
        cut_weights,
        cut_header,
        empty_weights,
        wrong_shape,
        missing_tensor,
        more_layers_than_weights,
        missing_shard,
        bad_index,
        escaping_index,
        no_tokenizer,
        bad_tokenizer,
    ],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_checkpoint_names_what_is_wrong(checkpoint: Path, damage: Damage) -> None:
    name = damage(checkpoint)
    with pytest.raises(CheckpointError) as caught:
        LLM(str(checkpoint), **SMALL)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"architectures": ["GPT9"]}, "'GPT9' is not supported"),
        ({"quantization_config": {"quant_method": "exl2"}}, "quantized as exl2"),
        ({"attn_logit_softcapping": 30.0}, "attn_logit_softcapping=30.0"),
        ({"rope_scaling": {"rope_type": "spiral", "factor": 2}}, "spiral"),
        ({"head_dim": 63}, "head_dim 63"),
        ({"vocab_size": 100}, "vocab_size"),
    ],
    ids=str,
)
def test_a_model_that_cannot_be_run_says_why(
    checkpoint: Path, changes: dict[str, Any], fragment: str
) -> None:
    reconfigure(checkpoint, **changes)
    options = {"load_format": "dummy"} if "vocab_size" in changes else {}
    with pytest.raises(ModelError) as caught:
        LLM(str(checkpoint), **SMALL, **options)
    shown = "the tokenizer knows 5120 tokens" if "vocab_size" in changes else fragment
    assert shown in str(caught.value)


@pytest.mark.parametrize("name", ["/no/such/place", "no//name", "../up"])
def test_a_model_that_is_not_there(name: str) -> None:
    with pytest.raises(ModelError, match=name):
        LLM(name, offline=True, **SMALL)


def test_a_cache_too_large_for_the_machine() -> None:
    with pytest.raises(CapacityError, match="KV blocks"):
        LLM("demo", **{**SMALL, "kv_cache_memory_bytes": 2**60})


DYNAMIC = {"max_position_embeddings": 8, "rope_scaling": {"type": "dynamic", "factor": 16.0}}


def test_rotations_that_depend_on_the_length() -> None:
    """More rope classes come than there are rows; no class finds another's cached blocks."""
    params = SamplingParams(temperature=0.0, max_tokens=4, logprobs=0)
    prompts = [[5] * length for length in range(20, 50)]
    found = []
    for change in ({"max_num_queued_reqs": 3}, {"enable_prefix_caching": False}):
        small = {**SMALL, "max_num_seqs": 2, "max_model_len": 64, **change}
        llm = LLM("demo", **small, hf_overrides=DYNAMIC)
        found.append([each.outputs for each in llm.generate(prompts, params, use_tqdm=False)])
    assert found[0] == found[1]
