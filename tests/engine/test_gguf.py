"""One GGUF file as the model: the tokens of the directory that it was written from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.cli.main import main
from quire.errors import CheckpointError, ConfigError, ModelError
from quire.llm import LLM
from quire.models.config_reader import read_json
from quire.models.registry import build_spec
from quire.models.spec import ModelSpec
from quire.quant.gguf_blocks.types import BLOCK_FORMATS
from quire.quant.matrix import QuantizedMatrix
from quire.quant.packed import INTEGER_DTYPES
from quire.quant.round_to_nearest import round_to_nearest
from quire.runtime import stored_weights
from quire.runtime.stored_weights import read_weights
from quire.sampling_params import SamplingParams
from quire.text.gguf_vocabulary import gguf_vocabulary
from quire.weights.checkpoint import open_checkpoint
from quire.weights.dummy import DummyCheckpoint
from quire.weights.gguf.container import Strings
from quire.weights.gguf.model import GgufModel
from quire.weights.gguf.write import write_gguf
from quire.weights.gguf.write_model import write_model
from quire.weights.hub import DEMO
from quire.weights.tensor import RawTensor
from tests.engine.conftest import SMALL
from tests.models.computing import Loaded, Model, distance

pytestmark = pytest.mark.usefixtures("cache")
GREEDY = SamplingParams(temperature=0.0, max_tokens=16)
PROMPTS = ["In the beginning", "从前有一个"]
OPTIONS = {**SMALL, "kv_cache_dtype": "float32"}


def in_format(weight: RawTensor, kind: str) -> RawTensor | QuantizedMatrix:
    """A matrix of the demo rounded as `--quantization` does, or its floats in another format."""
    if kind == "BF16" or len(weight.shape) == 1:
        return weight
    if kind in ("F32", "F16"):
        values = weight.float32().astype(np.float32 if kind == "F32" else np.float16)
        return RawTensor(weight.name, kind, weight.shape, values)
    bits = 4 if kind == "Q4_0" else 8
    packed = round_to_nearest(weight.name, weight.float32(), f"INT{bits}", 32)  # type: ignore[arg-type]
    codes, scales, *_ = packed.unpack()
    return QuantizedMatrix(weight.name, bits, 32, codes, scales.astype(np.float32))


def demo_in(kind: str, directory: Path) -> Path:
    checkpoint, spec = open_checkpoint(DEMO), build_spec(read_json(DEMO / "config.json"))
    weights = {name: in_format(checkpoint.tensor(name), kind) for name in spec.weights()}
    path = directory / f"demo-{kind}.gguf"
    write_model(path, spec, weights, gguf_vocabulary(DEMO, spec.vocab_size))
    return path


def generate(model: object, **options: Any) -> list[list[int]]:
    llm = LLM(str(model), **{**OPTIONS, **options})
    outputs = llm.generate(PROMPTS, GREEDY, use_tqdm=False)
    return [output.outputs[0].token_ids for output in outputs]


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_floats_give_the_tokens_of_the_directory(tmp_path: Path, kind: str) -> None:
    assert generate(demo_in(kind, tmp_path)) == generate("demo")


def test_integers_give_the_tokens_of_the_same_integers(tmp_path: Path) -> None:
    """Q4_0 has the numbers of --quantization int4, and the layout of the kernels holds them all."""
    assert generate(demo_in("Q4_0", tmp_path)) == generate("demo", quantization="int4")


def test_the_next_start_maps_what_was_packed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = demo_in("Q8_0", tmp_path)
    first = generate(path)
    assert len(list(cache.iterdir())) == 1

    def refuse(*arguments: Any) -> Any:
        raise AssertionError("it is packed again")

    monkeypatch.setattr(stored_weights, "serve_matrix", refuse)
    assert generate(path) == first
    path.touch()
    with pytest.raises(AssertionError, match="packed again"):
        generate(path)


def test_the_file_brings_its_chat_template_and_end_tokens(tmp_path: Path) -> None:
    path = demo_in("BF16", tmp_path)
    messages = [{"role": "user", "content": "你好"}]
    ours, theirs = (LLM(str(model), **OPTIONS) for model in (path, "demo"))
    answers = [llm.chat(messages, GREEDY, use_tqdm=False)[0] for llm in (ours, theirs)]
    assert answers[0].prompt_token_ids == answers[1].prompt_token_ids
    assert answers[0].outputs[0].text == answers[1].outputs[0].text
    assert ours._assembly.eos_token_ids == theirs._assembly.eos_token_ids


def tiny() -> ModelSpec:
    """A Llama whose rows are whole blocks of every format."""
    fields = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
    fields |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128}
    return build_spec({"architectures": ["LlamaForCausalLM"], **fields, "torch_dtype": "float32"})


def random_blocks(name: str, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random codes and small scales; float16 numbers of about 1/64 stand where scales do."""
    blocks = BLOCK_FORMATS[kind]
    random = np.random.default_rng(len(name))
    raw = random.integers(0, 256, (shape[0], shape[1] // blocks.columns, blocks.nbytes))
    raw = raw.astype(np.uint8)
    places = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q4_1": (0, 2), "Q5_1": (0, 2)}
    places |= {"Q4_K": (0, 2), "Q5_K": (0, 2), "MXFP4": ()}
    for at in places.get(kind, (0,)):
        raw[..., at + 1] = random.integers(0x0C, 0x10, raw.shape[:2])  # 2**-12 to 2**-11
    if kind == "MXFP4":
        raw[..., 0] = random.integers(120, 123, raw.shape[:2])
    return raw.reshape(shape[0], -1)


@pytest.mark.parametrize("kind", BLOCK_FORMATS)
def test_every_format_is_served_as_it_decodes(tmp_path: Path, kind: str) -> None:
    """The weights that it decodes to, up to what rounds scales, and the reference's logits."""
    spec = tiny()
    shapes = {name: weight.shape for name, weight in spec.weights().items()}
    dummy, path = DummyCheckpoint(shapes, "F32"), tmp_path / "m.gguf"
    write_model(path, spec, {name: dummy.tensor(name) for name in shapes}, {})
    plain = GgufModel(path)
    own = {name: tensor.shape for name, tensor in plain.tensors.items()}
    kept = {name: plain.raw(name).copy() for name in own}

    def read(name: str) -> tuple[str, np.ndarray]:
        if len(own[name]) == 1:
            return "F32", kept[name]
        return kind, random_blocks(name, kind, own[name])

    write_gguf(path, plain.metadata, own, read)
    checkpoint = open_checkpoint(path)
    config = stored_weights.Quantization("gguf", "gguf", lambda module: None)
    served = read_weights(checkpoint, spec, config, path, "auto")
    for name, weight in served.items():
        if checkpoint.is_quantized(name):
            assert weight.dtype in INTEGER_DTYPES
            decoded = checkpoint.matrix(name).float32()
            off = np.abs(weight.float32() - decoded).max(axis=1)
            assert (off <= 2**-10 * np.abs(decoded).max(axis=1)).all()
    prompt = list(range(20, 60))
    expected = Model(Loaded(spec, served), "reference").logits(prompt)
    assert np.abs(expected).max() > 0.01
    found = Model(Loaded(spec, served), "native-portable").logits(prompt)
    assert distance(found, expected) < 0.03


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    path = demo_in("Q4_0", tmp_path)
    with pytest.raises(ConfigError, match="quantized already"):
        LLM(str(path), **OPTIONS, quantization="int8")
    with pytest.raises(ConfigError, match="dummy"):
        LLM(str(path), **OPTIONS, load_format="dummy")


def change(path: Path, edit: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Write a file again with other metadata or shapes."""
    model = GgufModel(path)
    metadata = {k: list(v) if isinstance(v, Strings) else v for k, v in model.metadata.items()}
    tensors = {name: replace(tensor) for name, tensor in model.tensors.items()}
    raw = {name: model.raw(name).copy() for name in tensors}
    edit(metadata, tensors)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    write_gguf(path, metadata, shapes, lambda name: (tensors[name].dtype, raw[name]))


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda m, t: t.pop("blk.1.attn_q.weight"), "has no tensor 'model.layers.1.self_attn.q"),
        (lambda m, t: m.update({"llama.feed_forward_length": 64}), "has the shape"),
        (lambda m, t: m.update({"llama.attention.head_count": 3}), "num_attention_heads|heads"),
        (lambda m, t: m.update({"tokenizer.ggml.pre": "new"}), "known: default"),
        (lambda m, t: m.update({"general.architecture": "new"}), "Supported: llama"),
    ],
)
def test_damage_is_named(
    tmp_path: Path, edit: Callable[[dict[str, Any], dict[str, Any]], None], match: str
) -> None:
    path = demo_in("Q8_0", tmp_path)
    change(path, edit)
    with pytest.raises((CheckpointError, ModelError), match=match):
        LLM(str(path), **OPTIONS)


def test_explain_names_the_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(demo_in("Q4_0", tmp_path))]) == 0
    printed = capsys.readouterr().out
    assert "quantized to 4.5 bits" in printed
    assert "256 | 128 | 128, Q4_0 → INT4" in printed
