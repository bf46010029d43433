"""Random checkpoints for transformers to compute, and an engine over any of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quire.backends.torch.devices import find_device
from quire.backends.transformers.build import WrappedModel, build, read_settings
from quire.backends.transformers.executable import TransformersExecutable
from quire.engine import Engine
from quire.ops.kv_cache import KvCache, KvLayout
from quire.runtime.rope_tables import RopeTables
from quire.runtime.runner import Runner
from tests.engine.driving import BLOCK, Bench, Circumstances
from tests.models.case import Case
from tests.models.checkpoints import BASE
from tests.models.computing import Loaded

__all__ = ["OTHERS", "WrappedBench", "executable", "wrapped"]

SMALL: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {"vocab_size": 128, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WINDOWS = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}

OTHERS = (
    Case("gpt-neox", "gpt_neox", SMALL),
    Case("gpt-neox-serial", "gpt_neox", {**SMALL, "use_parallel_residual": False}),
    Case("opt", "opt", {**SMALL, "ffn_dim": 96, "word_embed_proj_dim": 64}),
    Case("gpt2", "gpt2", {**GPT2, **ENDS}),
    Case("phi", "phi", {**SMALL, "num_key_value_heads": 2}),
    Case("cohere", "cohere", {**BASE, "head_dim": 16, "use_qk_norm": True}),
    Case("cohere2", "cohere2", {**BASE, **WINDOWS, "num_hidden_layers": 4, "head_dim": 16}),
)
"""Families of learned positions, of parallel blocks, and with windows."""


def wrapped(directory: Path, dtype: str = "float32") -> WrappedModel:
    """The model in a directory, on the CPU."""
    settings = read_settings(directory, {})
    return build(directory, settings, dtype, find_device("cpu"), None)


def executable(
    model: WrappedModel, kv_format: str = "float32", num_blocks: int = 24
) -> TransformersExecutable:
    """Over a cache full of NaN, so that reading what nobody wrote is seen."""
    cache = KvCache(KvLayout(model.cache_shapes, BLOCK, kv_format), num_blocks)
    cache.arena[:] = 0xFF
    return TransformersExecutable(model, cache)


class WrappedBench(Bench):
    """As Bench, for a model that transformers computes."""

    def __init__(self, model: WrappedModel) -> None:
        super().__init__(Loaded(model.spec, {}), "transformers")  # type: ignore[arg-type]
        self.model = model

    def engine(self, world: Circumstances) -> Engine:
        """A fresh engine."""
        runner = Runner(executable(self.model, num_blocks=world.num_blocks), RopeTables((), 0))
        return Engine(self.scheduler(world), runner)
