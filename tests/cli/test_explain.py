"""`quire explain`: what it counts is what the ops cost, and the graph that runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quire.backends.native.abi import ISA_NAMES
from quire.backends.native.library import available_isas
from quire.backends.reference.executable import ReferenceBackend
from quire.cli.main import main
from quire.config import EngineConfig
from quire.graph.explain import explain
from quire.graph.explain_table import render
from quire.graph.explanation import BodyChoice, Explanation, Step, Work
from quire.graph.ir import Node
from quire.graph.passes.decompose import decompose
from quire.models.registry import build_spec, load_families
from quire.models.spec import ModelSpec
from quire.quant.formats import awq
from quire.runtime.kv_layout import kv_layout
from quire.runtime.quantize import packed_bits, packed_formats, quantize_weights, row_formats
from quire.weights.dummy import DummyCheckpoint
from quire.weights.tensor import RawTensor
from tests.quant.layers import plain, random_matrix, save

DEMO = Path(__file__).parents[2] / "quire" / "demo" / "config.json"


def spec_of(**changes: object) -> ModelSpec:
    return build_spec({**json.loads(DEMO.read_text()), **changes})


def runs_all(node: Node) -> BodyChoice:
    return BodyChoice(node.name, "body")


def runs_plain(node: Node) -> BodyChoice:
    if node.name == "AddNorm":
        return BodyChoice(node.name, None, "no fused body")
    return BodyChoice(node.name, "body")


def explained(
    spec: ModelSpec,
    choose: Callable[[Node], BodyChoice] = runs_all,
    context: int = 100,
    quantization: str = "auto",
) -> Explanation:
    layout = kv_layout(EngineConfig("x"), spec)
    bits = {} if quantization == "auto" else packed_bits(spec, quantization)
    formats = {} if quantization == "auto" else packed_formats(spec, quantization)
    rows = row_formats(ReferenceBackend(), spec, "bfloat16", formats)
    return explain(spec, layout, "bfloat16", choose, context, 64, bits, rows)


def test_facts_of_the_model() -> None:
    e = explained(spec_of())
    assert e.weight_bytes == 2 * e.spec.num_parameters
    assert e.kv_bytes_per_token == 6 * 2 * 2 * 64 * 2  # layers, k and v, heads, width, bfloat16
    assert (e.decode_step, e.prefill_step) == (Step(1, 100), Step(64, 64))


def test_recurrent_layers_have_a_state_and_no_cache() -> None:
    family = load_families()["Qwen3_5ForCausalLM"]
    spec = build_spec({**family.tiny, "architectures": [family.architecture]})
    e = explained(spec)
    assert e.kv_bytes_per_token == 1 * 2 * 2 * 32 * 4  # one layer of four, float32
    text = render(e)
    assert "3 recurrent layers, " in text and "of state per request" in text
    assert "4 states of 16 x 24" in text and "4 taps" in text


def test_decode_reads_every_weight_once() -> None:
    """All matrices and norms, the embedding table only as the head, and activations beside."""
    e = explained(spec_of(), context=1)
    moved = e.work("decode").bytes
    assert e.weight_bytes < moved < e.weight_bytes * 1.1


def test_flops_are_two_per_weight_and_token() -> None:
    e = explained(spec_of(), context=1)
    matrices = e.spec.num_parameters
    assert e.work("decode").flops == pytest.approx(2 * matrices, rel=0.02)
    head = 2 * e.spec.vocab_size * e.spec.width
    prefill = 64 * (2 * matrices - head) + head
    assert e.work("prefill").flops == pytest.approx(prefill, rel=0.05)


def test_attention_of_a_prompt_sees_half_of_it() -> None:
    e = explained(spec_of())
    (line,) = {line for g in e.groups for line in g.lines if line.name == "PagedAttention"}
    assert line.prefill.flops == 4 * 64 * 4 * 64 * (64 - 63 // 2)
    assert line.decode.flops == 4 * 4 * 64 * 100


def test_equal_layers_stand_together() -> None:
    groups = explained(spec_of()).groups
    assert [(group.first_layer, group.count) for group in groups] == [
        (-1, 1),
        (0, 1),
        (1, 4),
        (5, 1),
        (-1, 1),
    ]
    assert sum(group.count for group in groups if group.first_layer >= 0) == 6


def test_group_work_counts_every_layer() -> None:
    middle = explained(spec_of()).groups[2]
    once = sum((line.decode for line in middle.lines), Work())
    assert middle.work("decode") == once.times(4)


def test_passes_are_those_that_ran() -> None:
    names = [run.name for run in explained(spec_of()).passes]
    assert names == [
        "merge_matmuls",
        "fuse_residual_norm",
        "fuse_rope_kv_write",
        "fuse_quantize",
        "decompose",
    ]
    *fusing, quantizing, last = explained(spec_of()).passes
    assert all(run.after < run.before for run in fusing)
    assert quantizing.before == quantizing.after == last.before == last.after


def test_a_declined_fusion_is_taken_apart_and_says_why() -> None:
    e = explained(spec_of(), runs_plain)
    assert e.declined == (BodyChoice("AddNorm", None, "no fused body"),)
    assert e.passes[-1].after == e.passes[-1].before + 11
    names = {line.name for group in e.groups for line in group.lines}
    assert "AddNorm" not in names and {"Add", "RmsNorm"} <= names
    assert decompose.__name__ == e.passes[-1].name
    assert "AddNorm was taken apart: no fused body" in render(e)


def test_an_op_of_a_slower_body_says_why() -> None:
    slow = BodyChoice("MatMul", "slow", "fast declines: too wide")

    def choose(node: Node) -> BodyChoice:
        return slow if node.name == "MatMul" else BodyChoice(node.name, "fast")

    e = explained(spec_of(), choose)
    assert e.passed_over == (slow,) and explained(spec_of()).passed_over == ()
    assert "MatMul runs as slow: fast declines: too wide" in render(e)


# --- integers


@pytest.mark.parametrize(("scheme", "bits"), [("int4", 4.5), ("int8", 8.125)])
@pytest.mark.parametrize("tied", [True, False])
def test_integer_weights_take_their_bits_and_a_share_of_the_scales(
    scheme: str, bits: float, tied: bool
) -> None:
    spec = spec_of(tie_word_embeddings=tied)
    e = explained(spec, quantization=scheme)
    matrices = sum(each.weight.shape[0] * each.weight.shape[1] for each in spec.linears())
    rest = spec.num_parameters - matrices
    assert e.weight_bytes == matrices * bits / 8 + rest * 2
    assert e.packed_bits == (bits,)
    loaded = quantize_weights(dummy(spec), spec, scheme, None, threads=1)
    assert e.weight_bytes == sum(weight.data.nbytes for weight in loaded.values())


def dummy(spec: ModelSpec) -> dict[str, RawTensor]:
    shapes = {name: weight.shape for name, weight in spec.weights().items()}
    checkpoint = DummyCheckpoint(shapes, "BF16", 0)
    return {name: checkpoint.tensor(name) for name in shapes}


@pytest.mark.parametrize(("scheme", "share"), [("int4", 4.5 / 16), ("int8", 8.125 / 16)])
def test_decode_reads_every_integer_once(scheme: str, share: float) -> None:
    e = explained(spec_of(), context=1, quantization=scheme)
    plain = explained(spec_of(), context=1)
    assert e.weight_bytes < e.work("decode").bytes < e.weight_bytes * 1.2
    products = [
        sum(g.count * x.decode.bytes for g in each.groups for x in g.lines if x.name == "MatMul")
        for each in (e, plain)
    ]
    assert products[0] / products[1] == pytest.approx(share, rel=0.02)
    assert e.work("decode").flops == pytest.approx(plain.work("decode").flops, rel=0.01)


def test_quantized_values_show_and_count_twelve_floats_for_32_columns() -> None:
    e = explained(spec_of(), quantization="int4")
    lines = {(line.name, line.detail): line for group in e.groups for line in group.lines}
    line = lines["GatedActivation", "640 + 640 → 640 int8, silu"]
    assert line.decode.bytes == 4 * (2 * 640 + 640 * 12 // 32)
    assert lines["Quantize", "256 → 256 int8"].decode.bytes == 4 * (256 + 96)
    product = lines["MatMul", "640 int8 → 256"].prefill
    assert product.bytes == 640 * 256 * 4.5 / 8 + 64 * 4 * (240 + 256)
    names = [run.name for run in e.passes]
    assert names[0] == "quantize_inputs" and names[-2] == "fuse_quantize"
    fused = e.passes[-2]
    assert fused.before - fused.after == 3 * 6 + 1  # two norms and the activation; the last norm


def test_command_takes_a_quantization(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "demo", "-q", "int4"]) == 0
    out = capsys.readouterr().out
    assert "quantized to 4.5 bits with their scales, the rest bfloat16" in out
    assert "quantize_inputs" in out and "Quantize " in out
    assert main(["explain", "demo", "--quantization", "int8", "--dtype", "float32"]) == 0
    assert "quantized to 8.125 bits with their scales, the rest float32" in capsys.readouterr().out


@pytest.mark.parametrize("architecture", sorted(load_families()))
def test_every_family_can_be_explained(architecture: str) -> None:
    tiny = load_families()[architecture].tiny
    e = explained(build_spec({**tiny, "architectures": [architecture]}), context=8)
    text = render(e)
    assert architecture in text and "whole step" in text
    assert max(map(len, text.splitlines())) <= 110


def test_windows_show_and_bound_the_cost() -> None:
    tiny = load_families()["MistralForCausalLM"].tiny
    e = explained(build_spec({**tiny, "architectures": ["MistralForCausalLM"]}), context=200)
    (line,) = {line for g in e.groups for line in g.lines if line.name == "PagedAttention"}
    assert "window 8" in line.detail
    assert line.decode.flops == 4 * 4 * 16 * 8


def test_command_on_a_config_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No weights and no tokenizer are there."""
    (tmp_path / "config.json").write_text(DEMO.read_text())
    for model in (tmp_path, tmp_path / "config.json"):
        assert main(["explain", str(model), "--backend", "reference", "--dtype", "float32"]) == 0
        out = capsys.readouterr().out
        assert "float32" in out and "reference" in out and "merge_matmuls" in out


def test_command_shows_native_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "demo", "--context", "10", "--tokens", "20"]) == 0
    out = capsys.readouterr().out
    assert "native" in out and "decode, 10 seen" in out and "prefill, 20 tokens" in out


def test_command_shows_the_chosen_instruction_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "demo", "--instruction-set", "portable"]) == 0
    assert "native portable" in capsys.readouterr().out
    foreign = "avx2" if "neon" in map(ISA_NAMES.__getitem__, available_isas()) else "neon"
    assert main(["explain", "demo", "--instruction-set", foreign]) == 1
    assert f"'{foreign}' cannot run on this machine" in capsys.readouterr().err


def test_sizes_beyond_the_model_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "demo", "--tokens", "4k"]) == 1
    assert "--tokens is 4000; this model takes 1 to 1024 tokens" in capsys.readouterr().err


def test_a_quantized_checkpoint_says_how_each_matrix_is_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its weights, and from config.json alone."""
    config = {**json.loads(DEMO.read_text()), "quantization_config": awq.config(32, ["v_proj"])}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["explain", str(tmp_path / "config.json"), "--context", "8"]) == 0
    alone = capsys.readouterr().out
    assert "awq 4 bits, groups of 32 → INT4" in alone
    assert "quantized to 4.75 bits with their scales" in alone
    spec = build_spec({key: v for key, v in config.items() if key != "quantization_config"})
    tensors = {name: plain(np.zeros(w.shape, np.float16)) for name, w in spec.weights().items()}
    for linear in spec.linears():
        name = linear.weight.name.removesuffix(".weight")
        if "v_proj" not in name and "layers" in name:
            del tensors[linear.weight.name]
            rows, cols = linear.weight.shape
            matrix = random_matrix(np.random.default_rng(0), (rows, cols), zeros=True)
            tensors |= {key: plain(data) for key, data in awq.write(name, matrix).items()}
    save(tmp_path / "model.safetensors", tensors)
    assert main(["explain", str(tmp_path), "--context", "8"]) == 0
    assert capsys.readouterr().out == alone


def test_float8_is_read_as_it_is_and_meets_floats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {**json.loads(DEMO.read_text()), "quantization_config": {"quant_method": "fp8"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["explain", str(tmp_path / "config.json")]) == 0
    shown = capsys.readouterr().out
    assert "float8 in whole rows → F8_E4M3" in shown and " int8 →" not in shown
    assert "\n  F8_E4M3 " in shown  # its tuning
