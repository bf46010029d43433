"""`quantization` from the checkpoint to tokens: what is packed, what is kept, what is refused."""

from __future__ import annotations

import functools
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.config import EngineConfig
from quire.errors import CheckpointError, ConfigError
from quire.llm import LLM
from quire.models.spec import ModelSpec
from quire.runtime import quantize
from quire.runtime.load import load_model
from quire.runtime.quantize import SCHEMES, packed_bits, quantize_weights
from quire.sampling_params import SamplingParams
from quire.weights.hub import DEMO
from quire.weights.tensor import RawTensor
from tests.engine.conftest import SMALL
from tests.engine.driving import random_model
from tests.models.computing import BACKENDS, Float32, Loaded, Model, distance, load, need

pytestmark = pytest.mark.usefixtures("cache")
GREEDY = SamplingParams(temperature=0.0, max_tokens=12)
PROMPT = list(range(40, 90))
each_scheme = pytest.mark.parametrize("scheme", SCHEMES)


def generate(model: object = "demo", **options: Any) -> list[int]:
    llm = LLM(str(model), **{**SMALL, **options})
    (output,) = llm.generate("In the beginning", GREEDY, use_tqdm=False)
    return output.outputs[0].token_ids


def refuse_to_pack(*arguments: Any) -> Any:
    raise AssertionError("it is packed again")


def test_a_long_spec_is_walked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for every matrix took a quarter of a second of a start, with 24 layers."""
    walk, walks = ModelSpec.float_matrices.fget, []  # type: ignore[attr-defined]
    counted = property(lambda spec: walks.append(spec) or walk(spec))
    monkeypatch.setattr(ModelSpec, "float_matrices", counted)
    assert len(packed_bits(load(DEMO).spec, "int4")) > 1
    assert len(walks) == 1


# --- the same model


@functools.cache
def demo_in(scheme: str) -> Loaded:
    plain = load(DEMO)
    weights = quantize_weights(plain.weights, plain.spec, scheme, None, threads=1)
    return Loaded(plain.spec, weights)


@functools.cache
def reference_logits(scheme: str) -> Float32:
    return Model(demo_in(scheme), "reference").logits(PROMPT)


@each_scheme
@pytest.mark.parametrize("backend", [*BACKENDS[1:], "native-avx512vnni"])
def test_kernels_and_the_reference_agree(backend: str, scheme: str) -> None:
    """Activations a rounding apart may take neighbouring codes: 1 of 254 steps of a block.

    Through six layers of such flips the logits came out 1.2 % of the largest one apart; a wrong
    scale or sum is far beyond.  Each product by itself is held to float32's roundings elsewhere.
    """
    need(backend)
    expected = reference_logits(scheme)
    assert distance(Model(demo_in(scheme), backend).logits(PROMPT), expected) < 0.03


@pytest.mark.parametrize(("scheme", "most"), [("int8", 0.02), ("int4", 0.2)])
def test_it_stays_near_the_float_model(scheme: str, most: float) -> None:
    """On the demo, by mean: 1.2 % of the mean logit in 8 bits, 12 % in 4."""
    expected = Model(load(DEMO), "native-portable").logits(PROMPT)
    found = reference_logits(scheme)
    off = np.abs(found - expected).mean() / np.abs(expected).mean()
    assert most / 20 < off < most


@pytest.mark.parametrize("tied", [True, False])
def test_every_matrix_but_a_free_embedding_is_packed(tied: bool) -> None:
    loaded = random_model("LlamaForCausalLM", quantization="int4", tie_word_embeddings=tied)
    packed = {name for name, weight in loaded.weights.items() if weight.dtype == "INT4"}
    plain = set(loaded.weights) - packed
    assert ("model.embed_tokens.weight" in packed) == tied
    assert {len(loaded.weights[name].shape) for name in plain} == ({1} if tied else {1, 2})
    assert len(packed) == 2 * 7 + 1


# --- the cache


@each_scheme
def test_the_second_start_maps_what_the_first_packed(
    cache: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    first = generate(quantization=scheme)
    (file,) = cache.iterdir()
    written = file.stat().st_ino  # another file is written beside it and takes its name
    monkeypatch.setattr(quantize, "pack_to_nearest", refuse_to_pack)
    assert generate(quantization=scheme) == first
    assert [each.stat().st_ino for each in cache.iterdir()] == [written]


def test_both_starts_run_on_mapped_weights() -> None:
    """Pages that can be read again are not copied: neither while packing nor later."""
    for _ in range(2):
        config = EngineConfig("demo", quantization="int4", **SMALL)
        executable: Any = load_model(config).executable
        weights = [w for w in executable.weights.values() if w.dtype == "INT4"]
        assert weights and not any(weight.data.flags.owndata for weight in weights)


def test_each_scheme_has_a_file_of_its_own(cache: Path) -> None:
    outputs = [generate(quantization=scheme) for scheme in ("int4", "int8", "int4")]
    assert outputs[0] == outputs[2]
    assert len(list(cache.iterdir())) == 2


def test_a_damaged_cache_is_packed_again(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = generate(quantization="int8")
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert generate(quantization="int8") == first
    assert "packing the weights again" in caplog.text
    assert file.read_bytes() == whole


def test_without_a_cache_it_runs_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = generate(quantization="int4")
    (tmp_path / "file").write_text("not a directory")
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert generate(quantization="int4") == first
    assert "the packed weights were not kept" in caplog.text


def test_another_checkpoint_is_another_file(cache: Path, checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.unlink()
    shutil.copy(DEMO / "model.safetensors", weights)
    first = generate(checkpoint, quantization="int4")
    raw = bytearray(weights.read_bytes())
    raw[-200_000:] = bytes(200_000)
    weights.write_bytes(raw)
    assert generate(checkpoint, quantization="int4") != first
    assert len(list(cache.iterdir())) == 2


def test_made_up_weights_are_not_kept(cache: Path) -> None:
    assert len(generate(quantization="int4", load_format="dummy")) > 0
    assert not cache.exists()


def test_dtype_is_of_the_weights_that_stay_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is packed is rounded once, from the checkpoint: the cache serves every dtype."""
    packed_from = []

    def pack(pool: Any, name: str, weight: Any, *scheme: Any) -> Any:
        packed_from.append(weight.dtype)
        return original(pool, name, weight, *scheme)

    original = quantize.pack_to_nearest
    monkeypatch.setattr(quantize, "pack_to_nearest", pack)
    config = EngineConfig("demo", quantization="int8", dtype="float16", **SMALL)
    executable: Any = load_model(config).executable
    assert set(packed_from) == {"BF16"}
    assert {weight.dtype for weight in executable.weights.values()} == {"INT8", "F16"}


# --- what is refused


@pytest.mark.parametrize("value", ["awq", "none", "INT4", 4])
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        EngineConfig("demo", quantization=value)
    message = str(caught.value)
    assert "quantization" in message and "int4" in message and "int8" in message


def test_what_is_no_plain_float_is_refused() -> None:
    loaded = random_model("LlamaForCausalLM")
    name = "model.layers.1.mlp.up_proj.weight"
    shape = loaded.weights[name].shape
    weights = {**loaded.weights, name: RawTensor(name, "I8", shape, np.zeros(shape, np.int8))}
    with pytest.raises(ConfigError) as caught:
        quantize_weights(weights, loaded.spec, "int4", None, threads=1)
    assert name in str(caught.value) and "I8" in str(caught.value)


def test_a_quantized_checkpoint_is_refused(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    raw = weights.read_bytes()
    assert b'"BF16"' in raw
    weights.unlink()
    weights.write_bytes(raw.replace(b'"BF16"', b'"U16" ', 1))
    with pytest.raises(CheckpointError, match="U16"):
        LLM(str(checkpoint), quantization="int4", **SMALL)
