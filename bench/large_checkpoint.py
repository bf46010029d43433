"""Writes a random checkpoint of Llama-3-8B's shape, to see what quantizing it takes.

    python -m bench.large_checkpoint /tmp/8b --layers 32
    /usr/bin/time -v quire quantize /tmp/8b --scheme w4a16 --algorithm gptq --output /tmp/8b-w4

The tokenizer, and so the size of the vocabulary, is the demo model's; weights are bfloat16 in one
shard a block (14 GB for 32), so that one block is in memory at a time.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from quire.convert.safetensors_file import write_safetensors
from quire.ops.number_formats import bfloat16_bits
from quire.weights.hub import DEMO
from quire.weights.tensor import RawTensor

WIDTH, FFN, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 4096, 14336, 32, 8, 128, 5120
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
POOL = 1 << 24
"""Random numbers that all weights are cut from, each at a place of its own."""


def main() -> None:
    """Write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    options = parser.parse_args()
    options.directory.mkdir(parents=True)
    for name in TOKENIZER:
        shutil.copy(DEMO / name, options.directory)
    (options.directory / "config.json").write_text(json.dumps(config(options.layers), indent=1))
    files: dict[str, str] = {}
    random = np.random.default_rng(0)
    pool = random.standard_normal(POOL, np.float32)
    for shard, shapes in enumerate(all_shapes(options.layers)):
        file = f"model-{shard:05d}.safetensors"
        tensors = [weight(name, shape, pool, random) for name, shape in shapes.items()]
        write_safetensors(options.directory / file, tensors)
        files |= dict.fromkeys(shapes, file)
    index = {"metadata": {}, "weight_map": files}
    (options.directory / "model.safetensors.index.json").write_text(json.dumps(index))


def config(layers: int) -> dict[str, object]:
    """Llama 3's config."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": FFN,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }


def all_shapes(layers: int) -> Iterator[dict[str, tuple[int, ...]]]:
    """The tensors of every shard: the ends of the model, then block by block."""
    ends = ("model.embed_tokens.weight", "lm_head.weight")
    yield {**dict.fromkeys(ends, (VOCABULARY, WIDTH)), "model.norm.weight": (WIDTH,)}
    heads, kv_heads = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    block: dict[str, tuple[int, ...]] = {
        "input_layernorm": (WIDTH,),
        "self_attn.q_proj": (heads, WIDTH),
        "self_attn.k_proj": (kv_heads, WIDTH),
        "self_attn.v_proj": (kv_heads, WIDTH),
        "self_attn.o_proj": (WIDTH, heads),
        "post_attention_layernorm": (WIDTH,),
        "mlp.gate_proj": (FFN, WIDTH),
        "mlp.up_proj": (FFN, WIDTH),
        "mlp.down_proj": (WIDTH, FFN),
    }
    for layer in range(layers):
        yield {f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()}


def weight(
    name: str, shape: tuple[int, ...], pool: np.ndarray, random: np.random.Generator
) -> RawTensor:
    """A tensor of about unit gain; the weights of norms are uneven, so that inputs are."""
    values = np.resize(np.roll(pool, int(random.integers(POOL))), shape)
    values = np.exp(values) if len(shape) == 1 else values * np.float32(shape[-1] ** -0.5)
    return RawTensor(name, "BF16", shape, bfloat16_bits(values))


if __name__ == "__main__":
    main()
