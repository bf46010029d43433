"""Writes a random checkpoint of Llama-3-8B's shape, to see what quantizing it takes.

    python -m bench.large_checkpoint /tmp/8b --layers 32
    /usr/bin/time -v quire quantize /tmp/8b --scheme w4a16 --algorithm gptq --output /tmp/8b-w4

The tokenizer, and so the size of the vocabulary, is the demo model's; weights are bfloat16 in one
shard a block (14 GB for 32), so that one block is in memory at a time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from quire.convert.output import CheckpointWriter
from quire.convert.source import shards_of
from quire.models.registry import build_spec
from quire.weights.dummy import DummyCheckpoint
from quire.weights.hub import DEMO


def main() -> None:
    """Write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    options = parser.parse_args()
    options.directory.mkdir(parents=True)
    values = config(options.layers)
    spec = build_spec(values)
    drawn = DummyCheckpoint({name: weight.shape for name, weight in spec.weights().items()})
    shards, records = shards_of(spec), []
    writer = CheckpointWriter(options.directory, len(shards))
    for number, names in enumerate(shards):
        size = writer.write_shard(number, [drawn.tensor(name) for name in names])
        records.append({"bytes": size, "tensors": names})
    writer.write_rest(values, DEMO, records)


def config(layers: int) -> dict[str, object]:
    """Llama 3's config."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 5120,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }


if __name__ == "__main__":
    main()
