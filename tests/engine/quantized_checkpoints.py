"""Random checkpoints of every quantized format, and models read from them as the engine does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quire.models.registry import build_spec, load_families
from quire.models.spec import ModelSpec
from quire.quant.formats.registry import find_quantization
from quire.runtime.stored_weights import read_weights
from quire.weights.checkpoint import open_checkpoint
from quire.weights.tensor import RawTensor
from tests.graph.interpreting import random_weights
from tests.models.computing import Loaded
from tests.quant.layers import WRITERS, Stored, plain, save

PROMPT = list(range(3, 43))

Kinds = Callable[[str], str | None]
Change = Callable[[dict[str, Stored]], None]


def write_checkpoint(
    directory: Path, kind_of: Kinds, config: dict[str, Any], change: Change | None = None,
    architecture: str = "Qwen2ForCausalLM", **changes: Any,
) -> tuple[ModelSpec, dict[str, np.ndarray]]:  # fmt: skip
    """A random model whose layers have the formats that `kind_of` names; None: plain floats.

    change: of the tensors before they are saved.  Returns the spec and the weights by their
    definition.
    """
    directory.mkdir(exist_ok=True)
    values = {**load_families()[architecture].tiny, "architectures": [architecture], **changes}
    spec, random = build_spec(values), np.random.default_rng(7)
    weights, tensors = random_weights(spec), dict[str, Stored]()
    for linear in spec.linears():
        name = linear.weight.name.removesuffix(".weight")
        kind = kind_of(name)
        if kind is not None:
            rows, cols = linear.weight.shape
            parts, weights[f"{name}.weight"] = WRITERS[kind][1](random, (rows, cols))
            tensors |= {f"{name}.{part}": stored for part, stored in parts.items()}
    tensors |= {n: plain(w) for n, w in weights.items() if not _is_in(tensors, n)}
    if change is not None:
        change(tensors)
    save(directory / "model.safetensors", tensors)
    (directory / "config.json").write_text(
        json.dumps({**values, "dtype": "float32", "quantization_config": config})
    )
    return spec, weights


def _is_in(tensors: Mapping[str, Stored], name: str) -> bool:
    stem = name.removesuffix("weight")
    return any(each.startswith(stem) for each in tensors)


def damaged(tmp_path: Path, name: str, change: Change) -> Path:
    """A checkpoint of a format with its tensors changed."""
    write_checkpoint(tmp_path / "m", but_the_head(name), WRITERS[name][0], change)
    return tmp_path / "m"


def but_the_head(kind: str) -> Kinds:
    return lambda module: None if module == "lm_head" else kind


def read(directory: Path, dtype: str = "auto") -> Loaded:
    """Read a checkpoint as the engine does."""
    values = json.loads((directory / "config.json").read_text())
    quantization = find_quantization(values)
    spec = build_spec({key: v for key, v in values.items() if key != "quantization_config"})
    checkpoint = open_checkpoint(directory)
    return Loaded(spec, read_weights(checkpoint, spec, quantization, directory, dtype))


def floats(spec: ModelSpec, weights: Mapping[str, np.ndarray]) -> Loaded:
    """The same model in plain float32."""
    return Loaded(spec, {name: RawTensor(name, "F32", w.shape, w) for name, w in weights.items()})
