"""What llama.cpp's converter makes of a checkpoint is read as that very model.

The files are described in `cases`; every number of the spec and of the weights is compared.
"""

from __future__ import annotations

import logging
import lzma
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.errors import CheckpointError
from quire.models.registry import build_spec
from quire.models.spec import ModelSpec
from quire.models.walk import each_weight
from quire.quant.gguf_blocks.types import BLOCK_FORMATS
from quire.weights.gguf.architectures import ARCHITECTURES
from quire.weights.gguf.checkpoint import GgufCheckpoint
from quire.weights.gguf.config import gguf_config
from quire.weights.gguf.model import GgufModel
from quire.weights.gguf.write import write_gguf
from quire.weights.gguf.write_model import difference
from quire.weights.loader import load_weights
from tests.weights.gguf.cases import CASES, Case, spec_of, weights_of

CONVERTED = Path(__file__).parent / "converted"
COMPARED = ("vocab_size", "width", "max_length", "embedding", "blocks", "norm", "head")
BY_NAME = {case.name: case for case in CASES}


def opened(case: Case, directory: Path) -> GgufModel:
    path = directory / f"{case.name}.gguf"
    path.write_bytes(lzma.decompress((CONVERTED / f"{case.name}.gguf.xz").read_bytes()))
    return GgufModel(path)


def unplaced(spec: ModelSpec) -> ModelSpec:
    """The spec without a word on where checkpoints have its weights."""
    return each_weight(spec, lambda weight: replace(weight, stored=()))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_same_model(case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gguf, expected = opened(case, tmp_path), spec_of(case)
    spec = build_spec(gguf_config(gguf), strict=True)
    for name in (*COMPARED, "logit_scale", "logit_cap"):
        fault = difference(getattr(unplaced(expected), name), getattr(unplaced(spec), name), name)
        assert fault is None, fault
    weights = load_weights(GgufCheckpoint(gguf), spec.weights(), (), spec.unused)
    drawn = weights_of(expected)
    assert weights.keys() == drawn.keys()
    for name, weight in weights.items():
        # The file has minus the exponential of these, and its logarithm is another last bit.
        rounding = 2e-7 if name.endswith("A_log") else 0.0
        np.testing.assert_allclose(weight.float32(), drawn[name], rounding, err_msg=name)
    assert not caplog.messages, "nothing is left unread"


def test_every_architecture_has_a_file() -> None:
    names = {case.name for case in CASES}
    assert {path.name.removesuffix(".gguf.xz") for path in CONVERTED.iterdir()} == names
    made = {key for key in ARCHITECTURES if any(f"{n}-".startswith(f"{key}-") for n in names)}
    assert made == set(ARCHITECTURES)


def with_tensors(
    gguf: GgufModel, path: Path, changed: dict[str, Any], **metadata: Any
) -> GgufModel:
    """The model with other metadata and tensors: name → (format, bytes), or None without it."""
    left = {name: each for name, each in gguf.tensors.items() if changed.get(name, 1) is not None}
    shapes = {name: each.shape for name, each in left.items()}
    raw = {name: (each.dtype, gguf.raw(name).copy()) for name, each in left.items()}
    raw |= {name: each for name, each in changed.items() if each is not None}
    write_gguf(path, {**gguf.metadata, **metadata}, shapes, lambda name: raw[name])
    return GgufModel(path)


def random_blocks(shape: tuple[int, ...]) -> np.ndarray:
    """Bytes of Q8_0 with scales near one."""
    raw = np.random.default_rng(3).integers(0, 256, (int(np.prod(shape)) // 32, 34), np.uint8)
    raw[:, 1] = 0x3C
    return raw.reshape(-1)


def test_experts_and_rows_in_blocks(tmp_path: Path) -> None:
    """Each expert of a stack, and each part of a fused matrix, decodes to its share of it."""
    for name, own, parts in (
        ("qwen3moe", "blk.1.ffn_up_exps.weight", "model.layers.1.mlp.experts.{}.up_proj.weight"),
        ("phi3", "blk.1.ffn_up.weight", "model.layers.1.mlp.{}_proj.weight"),
    ):
        gguf = opened(BY_NAME[name], tmp_path)
        shape, raw = gguf.tensors[own].shape, random_blocks(gguf.tensors[own].shape)
        gguf = with_tensors(gguf, tmp_path / "blocks.gguf", {own: ("Q8_0", raw)})
        whole = BLOCK_FORMATS["Q8_0"].matrix(own, raw.reshape(-1, shape[-1] // 32 * 34)).float32()
        wanted = range(shape[0]) if len(shape) == 3 else ("gate", "up")
        config = gguf_config(gguf)
        assert config.pop("quantization_config")["formats"] == ["Q8_0"]
        spec, checkpoint = build_spec(config), GgufCheckpoint(gguf)
        found = checkpoint.matrices(spec.weights())
        read = [found[parts.format(each)].read().float32() for each in wanted]
        np.testing.assert_array_equal(np.concatenate(read), whole)
        assert len(found) == len(read)


def test_latent_matrices_in_one_and_in_blocks(tmp_path: Path) -> None:
    """Older files have keys and values of latent attention in one; in blocks they are decoded."""
    case = BY_NAME["deepseek2-v3"]
    gguf, name = opened(case, tmp_path), "model.layers.0.self_attn.kv_b_proj.weight"
    both = weights_of(spec_of(case))[name]
    own = "blk.0.attn_kv_b.weight"
    sizes = {"key_length": 12, "value_length": 6, "head_count_kv": 4}
    older = {f"deepseek2.attention.{key}": value for key, value in sizes.items()}
    kept = {k: v for k, v in gguf.metadata.items() if not k.endswith("_length_mla")}
    shapes = {name: each.shape for name, each in gguf.tensors.items()}
    apart = [f"blk.0.attn_{each}_b.weight" for each in "kv"]
    shapes = {k: v for k, v in shapes.items() if k not in apart} | {own: both.shape}

    def raw(name: str) -> tuple[str, np.ndarray]:
        return "F32", both.view(np.uint8).reshape(-1) if name == own else gguf.raw(name).copy()

    write_gguf(tmp_path / "old.gguf", {**kept, **older}, shapes, raw)
    old = GgufModel(tmp_path / "old.gguf")
    np.testing.assert_array_equal(GgufCheckpoint(old).tensor(name).float32(), both)
    assert difference(spec_of(case).blocks, build_spec(gguf_config(old)).blocks, "blocks") is None


def test_parts_that_do_not_fit_are_named(tmp_path: Path) -> None:
    gguf = opened(BY_NAME["phi3"], tmp_path)
    odd = with_tensors(gguf, tmp_path / "odd.gguf", {}, **{"phi3.attention.head_count": 7})
    with pytest.raises(CheckpointError, match=r"attn_qkv\.weight' has 64 rows"):
        GgufCheckpoint(odd)


def with_tensor(
    gguf: GgufModel, path: Path, name: str, shape: tuple[int, ...], raw: np.ndarray, **metadata: Any
) -> GgufModel:
    """The model with one tensor of Q8_0 added or in place of another."""
    shapes = {each: tensor.shape for each, tensor in gguf.tensors.items()} | {name: shape}
    plain = {each: (tensor.dtype, gguf.raw(each).copy()) for each, tensor in gguf.tensors.items()}
    written = {**plain, name: ("Q8_0", raw)}
    write_gguf(path, {**gguf.metadata, **metadata}, shapes, lambda each: written[each])
    return GgufModel(path)


def test_layers_that_guess_ahead_stay_unread(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    case, own = BY_NAME["qwen3next"], "blk.4.nextn.eh_proj.weight"
    ahead = {"qwen3next.block_count": 5, "qwen3next.nextn_predict_layers": 1}
    gguf = opened(case, tmp_path)
    more = with_tensor(
        gguf, tmp_path / "more.gguf", own, (32, 64), random_blocks((32, 64)), **ahead
    )
    config = gguf_config(more)
    del config["quantization_config"]
    spec = build_spec(config, strict=True)
    assert difference(unplaced(spec_of(case)).blocks, unplaced(spec).blocks, "blocks") is None
    load_weights(GgufCheckpoint(more), spec.weights(), (), spec.unused)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


@pytest.mark.parametrize("width", [32, 16])
def test_columns_of_value_heads_in_blocks(width: int, tmp_path: Path) -> None:
    """Heads of whole blocks are put in order, and others refused."""
    own, name = "blk.0.ssm_out.weight", "model.layers.0.linear_attn.out_proj.weight"
    gguf, shape = opened(BY_NAME["qwen35"], tmp_path), (32, 6 * width)
    raw = random_blocks(shape)
    checkpoint = GgufCheckpoint(with_tensor(gguf, tmp_path / "tiled.gguf", own, shape, raw))
    if width == 16:
        with pytest.raises(CheckpointError, match="value heads of 16 columns"):
            checkpoint.matrix(name)
        return
    stored = BLOCK_FORMATS["Q8_0"].matrix(own, raw.reshape(32, -1)).float32()
    by_head = stored.reshape(32, 3, 2, width)  # as the file has it: of 3, one for each key head
    expected = [by_head[:, i, key] for key in range(2) for i in range(3)]
    read = checkpoint.matrix(name).float32()
    np.testing.assert_array_equal(read, np.concatenate(expected, axis=1))
