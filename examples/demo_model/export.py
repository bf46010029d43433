"""Write the Hugging Face folder that ships in the package."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch

from .model import MAX_POSITIONS, demo_config
from .tokenizer import write_json, write_tokenizer_config
from .train import load_trained

GENERATION = {
    "bos_token_id": 0,
    "do_sample": True,
    "eos_token_id": [0, 2],
    "pad_token_id": 0,
    "repetition_penalty": 1.05,
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.95,
}
COPIED = ("tokenizer.json", "heldout.en.txt", "heldout.zh.txt")


def export(work: Path, folder: Path) -> None:
    """Write every file to a temporary folder next door, then rename them one by one."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".demo-") as temporary:
        staging = Path(temporary)
        load_trained(work).to(torch.bfloat16).save_pretrained(staging)
        _write_config(staging)
        write_json(staging / "generation_config.json", GENERATION)
        write_tokenizer_config(staging, MAX_POSITIONS)
        for name in COPIED:
            shutil.copy(work / name, staging / name)
        for path in sorted(staging.iterdir()):
            path.chmod(0o644)
            path.replace(folder / path.name)


def _write_config(folder: Path) -> None:
    """`config.json` in the layout of published Llama checkpoints."""
    config = demo_config()
    content = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": [0, 2],
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "pad_token_id": 0,
        "pretraining_tp": 1,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }
    write_json(folder / "config.json", content)
