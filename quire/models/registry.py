"""Which architectures Quire knows, and the way from config.json to a ModelSpec."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.nested_config import IMAGE_PARTS, NESTED, text_config
from quire.models.spec import Linear, ModelSpec

__all__ = ["FAMILIES", "Family", "build_spec", "family", "has_family", "load_families", "with_head"]

logger = logging.getLogger(__name__)

FAMILY_MODULES = (
    "afmoe",
    "arcee",
    "baichuan",
    "bamba",
    "bert",
    "bloom",
    "chatglm",
    "cohere",
    "deepseek",
    "deepseek_v2",
    "deepseek_v3",
    "dots1",
    "ernie",
    "ernie4_5_moe",
    "exaone4",
    "falcon",
    "falcon_h1",
    "gemma",
    "glm",
    "glm4_moe",
    "glm4_moe_lite",
    "gpt2",
    "gpt_neox",
    "gpt_oss",
    "gptj",
    "granite",
    "granite_hybrid",
    "granite_moe",
    "helium",
    "hunyuan",
    "hunyuan_v1_moe",
    "hunyuan_v3",
    "internlm",
    "jais2",
    "llama",
    "llama4",
    "minicpm3",
    "minimax_m2",
    "ministral",
    "mistral",
    "mistral4",
    "mixtral",
    "mpt",
    "nemotron",
    "nemotron_h",
    "olmo",
    "olmoe",
    "opt",
    "phi",
    "phi3",
    "phimoe",
    "qwen",
    "qwen2",
    "qwen2_moe",
    "qwen2_vl",
    "qwen3",
    "qwen3_moe",
    "qwen3_next",
    "seed_oss",
    "smollm3",
    "stablelm",
    "starcoder2",
    "youtu",
)


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture: how its config becomes a spec, and a tiny config to test it with."""

    architecture: str
    build: Callable[[ConfigReader], ModelSpec]
    tiny: Mapping[str, Any]
    summary: str


FAMILIES: dict[str, Family] = {}


def family(
    *architectures: str, tiny: Mapping[str, Any]
) -> Callable[[Callable[[ConfigReader], ModelSpec]], Callable[[ConfigReader], ModelSpec]]:
    """Register a function from config to spec under the names config.json uses."""

    def register(build: Callable[[ConfigReader], ModelSpec]) -> Callable[[ConfigReader], ModelSpec]:
        summary = (build.__doc__ or "").strip().partition("\n")[0]
        for architecture in architectures:
            FAMILIES[architecture] = Family(architecture, build, tiny, summary)
        return build

    return register


def load_families() -> Mapping[str, Family]:
    """Import every family module and return the registry."""
    for module in FAMILY_MODULES:
        importlib.import_module(f"quire.models.families.{module}")
    return FAMILIES


def has_family(architecture: str) -> bool:
    """Whether an architecture is one of those that build_spec knows."""
    known = {*load_families(), *NESTED}
    return architecture in known or with_head(architecture) in known


def with_head(architecture: str) -> str | None:
    """What a decoder that was published without its head is called with it: MistralModel."""
    name = f"{architecture.removesuffix('Model')}ForCausalLM"
    return name if architecture.endswith("Model") and name in load_families() else None


def build_spec(config: Mapping[str, Any], strict: bool = False) -> ModelSpec:
    """Turn a parsed config.json into a spec.

    Raises ModelError for an unknown architecture, a missing or wrong value, or a key that changes
    the mathematics and that the family does not read (with `strict`: any key it does not read).
    """
    families = load_families()
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise ModelError(
            f"config.json: 'architectures' is {names!r}; expected a list with one name"
        )
    if names[0] in NESTED:
        spec = build_spec(text_config(config, names[0]), strict)
        logger.info("%s: only its text model is run; it takes no images", names[0])
        return replace(spec, unused=(*spec.unused, *IMAGE_PARTS))
    if names[0] not in families and (whole := with_head(names[0])) is not None:
        spec = build_spec({**config, "architectures": [whole]}, strict)
        return replace(spec, head=Linear(spec.embedding.weight), output="hidden")
    if names[0] not in families:
        remote = " Its remote code is not run." if "auto_map" in config else ""
        raise ModelError(
            f"architecture {names[0]!r} is not supported.{remote} Where transformers knows it, "
            "`pip install 'quire[transformers]'` and `--backend transformers` run it, slower. "
            f"Supported: {', '.join(sorted([*families, *NESTED]))}"
        )
    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise ModelError(
            f"this checkpoint is quantized ({method or json.dumps(quantization)}); Quire reads "
            "float32, float16 and bfloat16 checkpoints so far: use the original model"
        )
    reader = ConfigReader(config, names[0])
    spec = families[names[0]].build(reader)
    reader.finish(strict)
    return spec
