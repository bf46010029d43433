"""ModelOpt: float8, and NVFP4's floats, in all layers or in those that the config names.

Either alone is the quant_algo of all; with MIXED_PRECISION, quantized_layers has that of each layer
and the others are plain.  Source: TensorRT Model Optimizer, hf_quant_config.json and what it writes
to config.json.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

from quire.quant.formats import nvfp4
from quire.quant.formats.fp8 import read_whole
from quire.quant.formats.scheme import ModuleSchemes, Scheme
from quire.quant.formats.settings import Settings, is_named

__all__ = ["schemes"]

UNUSED = ("input_scale",)
FLOAT8 = Scheme(
    *("float8 (modelopt)", 8, None, "table", ("weight", "weight_scale"), read_whole, (), UNUSED)
)
NVFP4 = nvfp4.scheme("nvfp4", "weight", "weight_scale_2", False, UNUSED)
ALGORITHMS = {
    "nvfp4": NVFP4,
    "w4a16_nvfp4": NVFP4,
    "fp8": FLOAT8,
    "fp8_per_channel_per_token": FLOAT8,
}
MIXED = "mixed_precision"


def schemes(config: Mapping[str, Any]) -> ModuleSchemes:
    """How a checkpoint of ModelOpt with this quantization_config stores each linear layer."""
    settings = Settings(config, "quantization_config (modelopt)")
    settings.get("quant_method")
    settings.skip("producer", "kv_cache_scheme", "config_groups", "quant_type")
    inner = settings.section("quantization") or settings
    algorithm = inner.choice("quant_algo", None, (*ALGORITHMS, MIXED))
    inner.integer("group_size", nvfp4.GROUP, (nvfp4.GROUP,))
    plain = inner.names("exclude_modules", "ignore", "modules_to_not_convert")
    layers = inner.section("quantized_layers")
    named = {} if layers is None else {name: _of_layer(layers, name) for name, _ in layers.items()}
    inner.skip("kv_cache_quant_algo", "has_zero_point", "pre_quant_scale", "quant_method")
    inner.finish()
    settings.finish()
    usual = ALGORITHMS.get(algorithm)

    def scheme_of(module: str) -> Scheme | None:
        matched = any(fnmatch.fnmatchcase(module, pattern) for pattern in plain)
        if matched or is_named(module, plain):
            return None
        return usual if usual is not None else named.get(module)

    return scheme_of


def _of_layer(layers: Settings, name: str) -> Scheme:
    """The scheme of one layer that the config names."""
    layer = layers.section(name)
    if layer is None:
        raise layers.error(name, None, "an object")
    layer.integer("group_size", nvfp4.GROUP, (nvfp4.GROUP,))
    scheme = ALGORITHMS[layer.choice("quant_algo", None, tuple(ALGORITHMS))]
    layer.skip("awq_block_size")
    layer.finish()
    return scheme
