"""Checkpoints of every format from their files to logits, beside their weights as plain floats."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.config import EngineConfig
from quire.errors import CheckpointError, ConfigError, ModelError
from quire.llm import LLM
from quire.models.registry import build_spec, load_families
from quire.models.spec import ModelSpec
from quire.quant.formats import awq, compressed_tensors, gptq
from quire.quant.formats.registry import METHODS, find_quantization
from quire.quant.matrix import QuantizedMatrix
from quire.runtime import stored_weights
from quire.runtime.load import load_model
from quire.runtime.stored_weights import read_weights
from quire.sampling_params import SamplingParams
from quire.weights.checkpoint import open_checkpoint
from quire.weights.hub import DEMO
from quire.weights.tensor import RawTensor
from tests.engine.conftest import SMALL
from tests.engine.driving import Bench, Circumstances, random_jobs
from tests.graph.interpreting import random_weights
from tests.models.computing import ISAS, Loaded, Model, distance, need
from tests.quant.layers import WRITERS, Stored, plain, random_matrix, save

PROMPT = list(range(3, 43))
SERVED = {"gptq 8": "INT8", "w8a8": "INT8", "int8": "INT8"}
SERVED |= {"nf4": "TABLE4", "mxfp4": "TABLE4", "nvfp4": "TABLE4"}
SERVED |= dict.fromkeys(("fp8 dynamic", "fp8 static", "fp8 fbgemm", "fp8 blocks"), "F8_E4M3")
"""The layout of each format; of all others INT4."""
each_format = pytest.mark.parametrize("name", WRITERS)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for every test."""
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "packed"


Kinds = Callable[[str], str | None]


def write_checkpoint(
    directory: Path, kind_of: Kinds, config: dict[str, Any], **changes: Any
) -> tuple[ModelSpec, dict[str, np.ndarray]]:
    """A random model whose layers have the formats that `kind_of` names; None: plain floats.

    Returns its spec and its weights by their definition.
    """
    directory.mkdir(exist_ok=True)
    architecture = changes.pop("architecture", "Qwen2ForCausalLM")
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
    save(directory / "model.safetensors", tensors)
    (directory / "config.json").write_text(
        json.dumps({**values, "dtype": "float32", "quantization_config": config})
    )
    return spec, weights


def _is_in(tensors: Mapping[str, Stored], name: str) -> bool:
    stem = name.removesuffix("weight")
    return any(each.startswith(stem) for each in tensors)


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


# --- every format


@each_format
def test_what_is_served_is_what_the_definition_says(name: str, tmp_path: Path) -> None:
    """Exactly, up to what rounds scales and minimums, and NF4's table, to the layout's numbers."""
    spec, weights = write_checkpoint(tmp_path / "m", but_the_head(name), WRITERS[name][0])
    loaded = read(tmp_path / "m")
    for linear in spec.linears():
        stored = loaded.weights[linear.weight.name]
        expected = weights[linear.weight.name]
        if linear.weight.name == "lm_head.weight":
            assert stored.dtype == "F32"
        else:
            assert stored.dtype == SERVED.get(name, "INT4")
        off = np.abs(stored.float32() - expected).max(axis=1)
        room = 0.005 if name == "nf4" else 2**-10
        assert (off <= room * np.abs(expected).max(axis=1)).all()


@each_format
def test_logits_are_those_of_the_weights(name: str, tmp_path: Path) -> None:
    """int8 activations put each product off by at most 1/254 of a block's largest, at random.

    Through two layers that came to at most 2 % of the largest logit; weights that are read wrong
    give other logits altogether, and floats none of this.
    """
    spec, weights = write_checkpoint(tmp_path / "m", but_the_head(name), WRITERS[name][0])
    found = Model(read(tmp_path / "m"), "native-portable").logits(PROMPT)
    expected = Model(floats(spec, weights), "reference").logits(PROMPT)
    assert distance(found, expected) < (0.002 if "fp8" in name else 0.04)


# --- the whole way


@pytest.mark.parametrize("backend", ISAS)
def test_mixed_formats_are_batch_invariant(backend: str, tmp_path: Path) -> None:
    """Layers of 4 and 8 bits, float8 and plain floats in one model; together = alone."""
    need(backend)
    loaded = mixed(tmp_path / "m")
    assert {w.dtype for w in loaded.weights.values()} >= {"INT4", "INT8", "F8_E4M3", "F32"}
    bench = Bench(loaded, backend)
    jobs = random_jobs(3, 6)
    together = bench.run(jobs, Circumstances(threads=2, token_budget=24, prefix_caching=True))
    assert together.answers == [bench.alone(job) for job in jobs]


def mixed(directory: Path) -> Loaded:
    """A model of compressed-tensors with a group of each kind."""
    layouts = {"q_proj": "w4a16", "k_proj": "w8a8", "up_proj": "fp8 dynamic", "o_proj": "w8a8"}

    def kind_of(module: str) -> str | None:
        return layouts.get(module.rpartition(".")[2])

    groups = {}
    for layer, kind in layouts.items():
        config = WRITERS[kind][0]
        group = {**config["config_groups"]["group_0"], "targets": [f"re:.*{layer}$"]}
        groups[layer] = {**group, "format": config["format"]}
    config = {**WRITERS["w4a16"][0], "format": "mixed-precision", "config_groups": groups}
    write_checkpoint(directory, kind_of, config)
    return read(directory)


def test_mixed_formats_have_the_logits_of_their_weights(tmp_path: Path) -> None:
    loaded = mixed(tmp_path / "m")
    weights = {name: weight.float32() for name, weight in loaded.weights.items()}
    expected = Model(floats(loaded.spec, weights), "reference").logits(PROMPT)
    assert distance(Model(loaded, "native-portable").logits(PROMPT), expected) < 0.04


def quantized_demo(directory: Path, how: str) -> None:
    """The demo model, rounded to nearest, as one of our writers stores it."""
    shutil.copytree(DEMO, directory)
    file = directory / "model.safetensors"
    checkpoint = open_checkpoint(DEMO)
    tensors: dict[str, Stored] = {}
    for name in checkpoint.names:
        raw = checkpoint.tensor(name)
        if len(raw.shape) == 2 and "layers" in name:
            module, matrix = name.removesuffix(".weight"), rounded(name, raw.float32())
            write = {"awq": awq.write, "gptq": gptq.write, "w4a16": compressed_tensors.write}[how]
            tensors |= {n: plain(data) for n, data in write(module, matrix).items()}
        else:
            tensors[name] = (raw.dtype, raw.data)
    configs = {"awq": awq.config(32), "gptq": gptq.config(4, 32, True)}
    config = configs.get(how) or compressed_tensors.config(4, 32, True)
    save(file, tensors)
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": config}))


def rounded(name: str, weights: np.ndarray) -> QuantizedMatrix:
    rows, cols = weights.shape
    groups = weights.reshape(rows, -1, 32)
    scales = (np.abs(groups).max(-1) / 7).astype(np.float16).astype(np.float32)
    codes = np.rint(groups / scales[..., None]).clip(-8, 7) + 8
    return QuantizedMatrix(name, 4, 32, codes.reshape(rows, cols).astype(np.uint8), scales)


def generate(directory: Path, **options: Any) -> list[int]:
    greedy = SamplingParams(temperature=0.0, max_tokens=12)
    (output,) = LLM(str(directory), **{**SMALL, **options}).generate(
        "In the beginning", greedy, use_tqdm=False
    )
    return output.outputs[0].token_ids


def test_one_model_in_three_formats_says_the_same(tmp_path: Path) -> None:
    """The same codes and scales in other files: the same tokens, to the last."""
    outputs = []
    for how in ("awq", "gptq", "w4a16"):
        quantized_demo(tmp_path / how, how)
        outputs.append(generate(tmp_path / how))
    assert outputs[0] == outputs[1] == outputs[2] and len(outputs[0]) == 12


# --- the pack cache


def no_reading(*arguments: Any) -> Any:
    raise AssertionError("it is read again")


@pytest.mark.parametrize("name", ["awq", "nf4", "fp8 blocks"])
def test_the_second_start_maps_what_the_first_packed(
    name: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path / "m", but_the_head(name), WRITERS[name][0])
    first = read(tmp_path / "m")
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(stored_weights, "serve_matrix", no_reading)
    second = read(tmp_path / "m")
    for key, weight in first.weights.items():
        assert second.weights[key].dtype == weight.dtype
        np.testing.assert_array_equal(second.weights[key].data, weight.data)
        assert "proj.weight" not in key or not second.weights[key].data.flags.owndata


def test_another_config_is_another_file(tmp_path: Path, cache: Path) -> None:
    write_checkpoint(tmp_path / "m", but_the_head("gptq 4 asymmetric"), gptq.config(4, 32, False))
    one = read(tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    text = path.read_text()
    path.write_text(text.replace('"checkpoint_format": "gptq"', '"checkpoint_format": "gptq_v2"'))
    other = read(tmp_path / "m")
    name = "model.layers.0.mlp.up_proj.weight"
    assert (one.weights[name].float32() != other.weights[name].float32()).any()
    assert len(list(cache.iterdir())) == 2


def test_dtype_decides_about_what_becomes_floats(tmp_path: Path) -> None:
    """Of float8 only e4m3 has a kernel."""

    def change(tensors: dict[str, Stored]) -> None:
        for key, (dtype, codes) in tensors.items():
            if dtype == "F8_E4M3":
                tensors[key] = "F8_E5M2", codes & 0xBF

    damaged(tmp_path, "fp8 static", change)
    name = "model.layers.0.mlp.up_proj.weight"
    found = {dtype: read(tmp_path / "m", dtype).weights[name].dtype for dtype in DTYPES}
    assert found == {"auto": "F16", "bfloat16": "BF16", "float16": "F16", "float32": "F32"}


DTYPES = ("auto", "bfloat16", "float16", "float32")


# --- what the config says of single layers


def test_layers_that_are_left_alone_are_plain(tmp_path: Path) -> None:
    config = {**awq.config(32), "modules_to_not_convert": ["layers.0", "v_proj"]}

    def kind_of(module: str) -> str | None:
        plain_ = "layers.0" in module or "v_proj" in module or module == "lm_head"
        return None if plain_ else "awq"

    write_checkpoint(tmp_path / "m", kind_of, config)
    weights = read(tmp_path / "m").weights
    packed = {name for name, weight in weights.items() if weight.dtype == "INT4"}
    assert len(packed) == 6 and all("layers.1" in name for name in packed)


def test_names_with_another_prefix(tmp_path: Path) -> None:
    """Exports put different words before the same layers, and the lists use theirs."""
    config = {**awq.config(32), "modules_to_not_convert": ["model.language_model.layers.0"]}
    tensors: dict[str, Stored] = {}

    def kind_of(module: str) -> str | None:
        return None if "layers.0" in module or module == "lm_head" else "awq"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}.save", lambda path, written: tensors.update(written))
        write_checkpoint(tmp_path / "m", kind_of, config)
    renamed = {n.replace("model.", "model.language_model.", 1): t for n, t in tensors.items()}
    save(tmp_path / "m" / "model.safetensors", renamed)
    weights = read(tmp_path / "m").weights
    assert sum(weight.dtype == "INT4" for weight in weights.values()) == 7


def test_dynamic_rules_of_gptq(tmp_path: Path) -> None:
    config = gptq.config(4, 32, True)
    config["dynamic"] = {r"-:.*k_proj": {}, r"+:.*down_proj": {"bits": 8, "sym": False}}

    def kind_of(module: str) -> str | None:
        if "k_proj" in module or module == "lm_head":
            return None
        return "gptq 8" if "down_proj" in module else "gptq 4"

    _, expected = write_checkpoint(tmp_path / "m", kind_of, config)
    weights = read(tmp_path / "m").weights
    for name, dtype in (("k_proj", "F32"), ("q_proj", "INT4")):
        assert weights[f"model.layers.1.self_attn.{name}.weight"].dtype == dtype
    down = "model.layers.1.mlp.down_proj.weight"
    assert weights[down].dtype == "INT8"
    np.testing.assert_array_equal(weights[down].float32(), expected[down])


def test_a_quantized_head(tmp_path: Path) -> None:
    config = {**gptq.config(4, 32, True), "lm_head": True}
    write_checkpoint(tmp_path / "m", lambda module: "gptq 4", config)
    assert read(tmp_path / "m").weights["lm_head.weight"].dtype == "INT4"
    assert load_model(EngineConfig(str(tmp_path / "m"), **SMALL)).spec.tied is False


def test_settings_in_a_file_of_their_own(tmp_path: Path) -> None:
    """As older writers left them."""
    write_checkpoint(tmp_path / "m", but_the_head("gptq 4"), {})
    config = {k: v for k, v in gptq.config(4, 32, True).items() if k != "quant_method"}
    (tmp_path / "m" / "quantize_config.json").write_text(json.dumps(config))
    executable: Any = load_model(EngineConfig(str(tmp_path / "m"), **SMALL)).executable
    assert "INT4" in {weight.dtype for weight in executable.weights.values()}


# --- what is refused


def damaged(tmp_path: Path, name: str, change: Callable[[dict[str, Stored]], None]) -> Path:
    """A checkpoint of a format with its tensors changed."""
    tensors: dict[str, Stored] = {}

    def keep(path: Path, written: dict[str, Stored]) -> None:
        tensors.update(written)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}.save", keep)
        write_checkpoint(tmp_path / "m", but_the_head(name), WRITERS[name][0])
    change(tensors)
    save(tmp_path / "m" / "model.safetensors", tensors)
    return tmp_path / "m"


LAYER = "model.layers.1.mlp.up_proj"


@pytest.mark.parametrize(
    ("name", "part", "value", "words"),
    [
        ("awq", "scales", np.full((2, 96), np.nan, np.float16), "not finite"),
        ("awq", "scales", np.ones((3, 96), np.float16), "shape"),
        ("awq", "qzeros", None, "lacks .qzeros"),
        ("awq", "weight", np.zeros((96, 64), np.float32), "plain weights beside"),
        ("awq", "pre_quant_scale", np.ones(64, np.float32), "pre_quant_scale"),
        ("awq", "bias", np.ones(96, np.float32), "not zero"),
        ("gptq 4", "g_idx", np.zeros(64, np.int32), "g_idx"),
        ("gptq 4", "g_idx", np.full(64, -1, np.int32), "g_idx"),
        ("gptq 4", "qweight", np.zeros((8, 95), np.int32), "shape"),
        ("w4a16", "weight_shape", np.array([96, 63]), "weight_shape"),
        ("w4a16", "weight_scale", np.full((96, 2), np.inf, np.float32), "not finite"),
        ("w4a16", "weight_scale", np.ones((96, 1), np.float32), "shape"),
        ("w8a8", "weight", np.zeros((96, 64), np.uint8), "U8"),
        ("fp8 blocks", "weight_scale_inv", np.ones((1, 1), np.float32), "shape"),
        ("fp8 blocks", "weight_scale_inv", np.full((3, 2), np.nan, np.float32), "not finite"),
        ("fp8 blocks", "weight_scale_inv", None, "F8_E4M3"),
        ("fp8 dynamic", "weight", ("F8_E4M3", np.full((96, 64), 127, np.uint8)), "not finite"),
        ("nf4", "weight.absmax", np.ones(95, np.float32), "shape"),
        ("nf4", "weight.quant_state.bitsandbytes__nf4", np.zeros(4, np.uint8), "JSON"),
        ("int8", "weight_format", np.array(1, np.uint8), "weight_format"),
        ("mxfp4", "weight_scale", np.full((96, 2), 255, np.uint8), "not finite"),
        ("nvfp4", "weight_scale_2", np.array([np.nan], np.float32), "not finite"),
        ("hqq", "zero", np.ones((3, 1), np.float16), "shape"),
        ("hqq", "nbits", np.array(3, np.int32), "nbits"),
        ("torchao int4", "_weight_scale", np.ones((5, 96), np.float32), "groups"),
    ],
)
def test_damage_is_named(tmp_path: Path, name: str, part: str, value: Any, words: str) -> None:
    def change(tensors: dict[str, Stored]) -> None:
        key = f"{LAYER}.{part}"
        if value is None:
            del tensors[key]
        else:
            tensors[key] = value if isinstance(value, tuple) else plain(value)

    directory = damaged(tmp_path, name, change)
    with pytest.raises(CheckpointError) as caught:
        read(directory)
    assert LAYER in str(caught.value) and words in str(caught.value)
    assert str(directory) in str(caught.value)


def test_a_bias_of_zeros_says_nothing(tmp_path: Path) -> None:
    def change(tensors: dict[str, Stored]) -> None:
        tensors[f"{LAYER}.bias"] = plain(np.zeros(96, np.float16))

    assert read(damaged(tmp_path, "gptq 4", change))


def test_scales_of_activations_and_caches_are_left_unread(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def change(tensors: dict[str, Stored]) -> None:
        one = plain(np.ones(1, np.float32))
        tensors[f"{LAYER}.input_scale"] = one
        tensors["model.layers.1.self_attn.k_scale"] = one
        tensors["model.layers.1.self_attn.v_proj.output_scale"] = one

    read(damaged(tmp_path, "w8a8", change))
    assert "stay unread" not in caplog.text


def test_an_unknown_method_lists_those_that_are_read(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m", lambda module: None, {"quant_method": "aqlm"})
    with pytest.raises(ModelError) as caught:
        load_model(EngineConfig(str(tmp_path / "m"), **SMALL))
    assert "aqlm" in str(caught.value)
    assert all(method in str(caught.value) for method in METHODS)


@pytest.mark.parametrize("options", [{"quantization": "int4"}, {"load_format": "dummy"}])
def test_options_for_plain_checkpoints(tmp_path: Path, options: dict[str, Any]) -> None:
    write_checkpoint(tmp_path / "m", but_the_head("awq"), WRITERS["awq"][0])
    with pytest.raises(ConfigError, match="awq"):
        load_model(EngineConfig(str(tmp_path / "m"), **options, **SMALL))


def test_a_config_without_quantized_layers_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_checkpoint(tmp_path / "m", lambda module: None, WRITERS["awq"][0])
    assert {weight.dtype for weight in read(tmp_path / "m").weights.values()} == {"F32"}
    assert "no matrix that is stored so" in caplog.text


def test_random_matrices_have_the_spread_they_should() -> None:
    """What the bounds above rest on."""
    weights = random_matrix(np.random.default_rng(0), (64, 96)).float32()
    assert 0.3 < weights.std() * 96**0.5 < 1.2
