"""`quire bench kernel`: shares, shapes of a model, and the command on a small one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from quire.backends.native import abi as c
from quire.backends.native import library
from quire.cli.bench.kernels.cases import attention, latent_projection, linear
from quire.cli.bench.kernels.experts import experts
from quire.cli.bench.kernels.formats import FORMATS
from quire.cli.bench.kernels.machine import Machine
from quire.cli.bench.kernels.measurement import Measurement
from quire.cli.bench.kernels.shapes import QWEN2_5_0_5B, KernelShapes, LinearShape
from quire.cli.main import main
from quire.models.registry import build_spec, load_families
from quire.models.spec import LatentAttention

RATES = {"read": 10e9, "fma": 100e9, "int8": 400e9}
BITS = {
    "float32": 32, "float16": 16, "bfloat16": 16, "int8": 8 + 16 / 128, "int4": 4.5,
    "awq": 4 + 24 / 128, "q2_k": 4 + 32 / 16, "q3_k": 5, "q4_k": 5, "q5_k": 9, "q6_k": 9,
    "iq4_nl": 4.5, "nf4": 4.25, "mxfp4": 4.5, "nvfp4": 5, "fp8": 8 + 32 / 128,
}  # fmt: skip
QWEN = KernelShapes.of(build_spec(QWEN2_5_0_5B))


def test_the_share_that_binds_is_marked() -> None:
    decode = Measurement("linear", "int4", 1, "", 1e-3, 8e6, 32e6, "int8")
    shares = decode.shares(RATES)
    assert (shares.read, shares.compute, shares.binding) == pytest.approx((0.8, 0.08, "read"))
    assert "80%*" in decode.line(RATES) and "8%*" not in decode.line(RATES).replace("80%*", "")
    prefill = Measurement("linear", "float32", 64, "", 1e-3, 1e6, 90e6)
    assert prefill.shares(RATES).binding == "compute"
    assert prefill.line(RATES).endswith("90%*")
    assert prefill.as_json(RATES)["compute"] == pytest.approx(0.9)


def test_a_model_s_distinct_matrices_are_those_of_its_merged_ops() -> None:
    assert QWEN.linears == (
        LinearShape(896, (896, 128, 128)),
        LinearShape(896, (896,)),
        LinearShape(896, (4864, 4864)),
        LinearShape(4864, (896,)),
        LinearShape(896, (151936,), in_head=True),
    )
    assert (QWEN.width, QWEN.gated_widths, QWEN.vocab_size) == (896, (4864,), 151936)
    assert [(a.heads, a.kv_heads, a.head_dim) for a in QWEN.attentions] == [(14, 2, 64)]


def test_the_default_shape_is_that_of_the_published_config() -> None:
    path = Path(__file__).parents[2] / "bench" / "shapes" / "qwen2.5-0.5b" / "config.json"
    assert build_spec(json.loads(path.read_text())) == build_spec(QWEN2_5_0_5B)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_s_linear_layer_runs_and_counts_its_weights(
    format: str, machine: Machine
) -> None:
    case = linear(machine, format, 3, LinearShape(256, (64, 32)))
    assert case.num_bytes == 96 * 256 * BITS[format] / 8
    assert case.operations == 2 * 3 * 96 * 256
    narrow = library.load().quire_row_dtype(machine.isa, c.BF16) == c.BF16
    peaks = {"float32": "fma", "float16": "fma", "bfloat16": "bfloat16" if narrow else "fma"}
    assert case.peak == {"fp8": "fma", **peaks}.get(format, "int8")
    assert len(case.calls) > 1  # weights that are not those of the call before
    case.calls[0]()
    case.calls[-1]()


def test_attention_counts_what_a_causal_mask_leaves(machine: Machine) -> None:
    (shape,) = QWEN.attentions
    case = attention(machine, "float16", shape, requests=2, tokens=4, context=32)
    assert case.operations == 4 * 2 * (29 + 30 + 31 + 32) * 14 * 64
    assert case.num_bytes == 2 * 32 * (2 * 2 * 64) * 2
    case.calls[-1]()


def test_attention_over_codes_counts_their_scales(machine: Machine) -> None:
    (shape,) = QWEN.attentions
    case = attention(machine, "int8", shape, requests=1, tokens=1, context=32)
    assert case.num_bytes == 32 * 2 * (2 * 64 + 2 * 4)
    case.calls[-1]()


@pytest.mark.parametrize(("format", "bits"), [("bfloat16", 16), ("int4", 4.5), ("int8", 8.125)])
def test_a_model_s_projections_of_latents_and_its_experts_run(
    format: str, bits: float, machine: Machine
) -> None:
    tiny = {**load_families()["DeepseekV2ForCausalLM"].tiny, "v_head_dim": 16}
    tiny |= {"qk_nope_head_dim": 128, "kv_lora_rank": 128}
    shapes = KernelShapes.of(build_spec({**tiny, "architectures": ["DeepseekV2ForCausalLM"]}))
    (latent,), layer = shapes.attentions, shapes.experts[0]
    assert isinstance(latent, LatentAttention)
    for kind, out in ((c.OP_LATENT_QUERIES, 128), (c.OP_LATENT_VALUES, 16)):
        case = latent_projection(machine, kind, format, 3, latent)
        assert case.num_bytes == latent.heads * out * 128 * bits / 8
        case.calls[-1]()
    experts(machine, format, 3, layer).calls[-1]()


def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    options = ["--formats", "int4", "float16", "--rows", "1", "4", "--threads", "1"]
    assert main(["bench", "kernel", "demo", *options, "--json", str(path)]) == 0
    shown = capsys.readouterr().out
    found = json.loads(path.read_text())
    assert found["threads"] == 1 and found["model"] == "demo"
    assert {(k["format"], k["rows"]) for k in found["kernels"] if k["kernel"] == "linear"} == {
        ("int4", 1), ("int4", 4), ("float16", 1), ("float16", 4),
    }  # fmt: skip
    assert {k["format"] for k in found["kernels"] if k["kernel"] == "attention"} == {
        "bfloat16", "int8",
    }  # fmt: skip
    kernels = {each["kernel"] for each in found["kernels"]}
    assert kernels == {
        "linear", "attention", "rms_norm", "add_rms_norm", "quantize", "gated", "sampler",
    }  # fmt: skip
    assert all(each["seconds"] > 0 for each in found["kernels"])
    assert all(found["rates"][name] > 0 for name in ("read", "fma", "int8"))
    assert len(shown.splitlines()) == len(found["kernels"]) + 3


def test_kernels_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--kernels", "attention", "rows", "--kv-formats", "int4", "fp8", "--threads", "1"]
    assert main(["bench", "kernel", "demo", *options]) == 0
    found = [line.split()[:2] for line in capsys.readouterr().out.splitlines()[2:-1]]
    assert {tuple(each) for each in found} == {
        ("attention", "int4"), ("attention", "fp8"), ("rms_norm", "float32"),
        ("add_rms_norm", "float32"), ("quantize", "float32"), ("gated", "float32"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kernels", "norm"], "--kernels has 'norm'; choose from linear, experts"),
        (["--formats", "int3"], "'int3'; choose from float32, float16"),
        (["--kv-formats", "int3"], "--kv-formats has 'int3'; choose from float32"),
        (["--rows", "0"], "--rows has 0; give 1 or more"),
    ],
)
def test_wrong_options_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "kernel", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module", autouse=True)
def brief() -> Iterator[None]:
    """Little memory and few calls: the numbers say nothing, but all code runs."""
    package = "quire.cli.bench.kernels"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("quire.cli.bench.kernel.SECONDS", 0.0)
        patch.setattr(f"{package}.suite.ATTENTIONS", ((1, 1, 64), (1, 8, 64)))
        patch.setattr(f"{package}.machine.LOOKS", 1)
        patch.setattr(f"{package}.machine.READ_BYTES", 1 << 20)
        patch.setattr(f"{package}.machine.MEMORY_BYTES", 2 << 20)
        patch.setattr(f"{package}.machine._last_level_cache", lambda: 0)
        yield


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine(1, library.best_isa())
