"""Which quantized checkpoints Quire reads, and the way from config.json to the schemes."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from quire.errors import ModelError
from quire.quant.formats.scheme import ModuleSchemes, Scheme

__all__ = ["KEYS", "METHODS", "Quantization", "find_quantization"]

METHODS: Mapping[str, str] = {
    "auto-round": "auto_round",
    "awq": "awq",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed_tensors",
    "fbgemm-fp8": "fp8",
    "fp8": "fp8",
    "gguf": "gguf",
    "gptq": "gptq",
    "hqq": "hqq",
    "modelopt": "modelopt",
    "mxfp4": "mxfp4",
    "torchao": "torchao",
}
"""quant_method → the module here that reads it, which only such a checkpoint imports."""

KEYS = ("quantization_config", "compression_config")
"""Of config.json; the second is the older name."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a checkpoint is quantized.  key: changes with everything that its config says."""

    method: str
    key: str
    scheme_of: ModuleSchemes

    def scheme_among(self, modules: Iterable[str]) -> Scheme | None:
        """How a layer is stored that may have any of these names, by those that say so."""
        return next(filter(None, map(self.scheme_of, modules)), None)


def find_quantization(values: Mapping[str, Any]) -> Quantization | None:
    """What a parsed config.json says of quantization; None: nothing, the weights are floats.

    Raises ModelError for a method that is not read, with those that are, and for settings that
    are not understood.
    """
    config = next((values[key] for key in KEYS if values.get(key)), None)
    if config is None:
        return None
    method = _method(config)
    if method is None or method not in METHODS:
        raise ModelError(
            f"this checkpoint is quantized as {method or json.dumps(config):.300}, which Quire "
            f"does not read; it reads {', '.join(sorted(METHODS))}: use another checkpoint of "
            "this model, or the original"
        )
    text = json.dumps(config, sort_keys=True)
    key = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return Quantization(method, f"{method}-{key}", _reader(method)(config))


def _reader(method: str) -> Callable[[Mapping[str, Any]], ModuleSchemes]:
    module = importlib.import_module(f"quire.quant.formats.{METHODS[method]}")
    reader: Callable[[Mapping[str, Any]], ModuleSchemes] = module.schemes
    return reader


def _method(config: Any) -> str | None:
    if not isinstance(config, dict):
        return None
    method = config.get("quant_method")
    if method is None and (config.get("load_in_4bit") or config.get("load_in_8bit")):
        method = "bitsandbytes"  # which did not say so at first
    if method is None and config.get("quant_algo"):
        method = "modelopt"  # nor did this
    if not isinstance(method, str):
        return None
    method = method.lower().replace("_", "-").removeprefix("intel/")  # AutoRound's older name
    return "modelopt" if method in ("modelopt-fp4", "modelopt-mixed") else method
