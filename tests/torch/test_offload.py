"""Layers that stay on the host compute what they compute on the device, to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from quire.assembly import Assembly
from quire.backends.torch import host_memory
from quire.backends.torch.backend import TorchBackend
from quire.backends.torch.devices import Device
from quire.backends.torch.executable import TorchExecutable
from quire.backends.torch.offload import OffloadedWeights
from quire.cli.main import main
from quire.config import EngineConfig
from quire.errors import CapacityError, ConfigError
from quire.graph.program import compile_program
from quire.llm import LLM
from quire.models.spec import Weight, parts
from quire.ops.batch import Batch
from quire.runtime.offload_plan import layer_matrices
from quire.runtime.rope_tables import RopeTables
from quire.sampling_params import SamplingParams
from tests.engine.driving import random_model
from tests.models.computing import LIMITS, Loaded, kv_cache
from tests.torch.accelerators import Accelerator, make_lazy

pytestmark = pytest.mark.oracle
torch.set_num_threads(1)

FAMILIES = (
    ("LlamaForCausalLM", "auto"),
    ("LlamaForCausalLM", "int4"),
    ("Qwen3MoeForCausalLM", "int4"),
    ("DeepseekV3ForCausalLM", "auto"),
)


@pytest.fixture(params=["at once", "late"])
def copies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a copy is made that a stream may make at any time."""
    monkeypatch.setattr(host_memory, "SLAB_BYTES", 1 << 14)  # layers end within slabs
    if request.param == "late":
        make_lazy(monkeypatch)


def model(family: str, quantization: str, layers: int = 5) -> Loaded:
    return random_model(family, "bfloat16", quantization, num_hidden_layers=layers)


def bind(loaded: Loaded, offloaded: Sequence[Sequence[str]]) -> TorchExecutable:
    backend = TorchBackend("cpu")
    backend.device = Accelerator(True)
    formats = {name: backend.row_format(each.dtype) for name, each in loaded.weights.items()}
    has_body = lambda node: backend.declines(node) is None  # noqa: E731
    program = compile_program(loaded.spec, LIMITS, has_body, formats)
    return TorchExecutable(
        program, loaded.weights, kv_cache(loaded.spec), backend.device, offloaded=offloaded
    )


def logits(executable: TorchExecutable) -> np.ndarray:
    """Of a prompt, and of two more tokens step by step."""
    ropes, table = RopeTables(executable.program.spec.ropes, 2), np.arange(24)[::-1].copy()
    found, start = [], 0
    for count in (9, 1, 1):
        tokens = np.random.default_rng(start).integers(3, 100, count).tolist()
        found.append(executable.logits(Batch.single(tokens, start, table, ropes.arrays)))
        start += count
    return np.concatenate(found)


@pytest.mark.parametrize(("family", "quantization"), FAMILIES)
def test_offloaded_is_not_offloaded(family: str, quantization: str, copies: None) -> None:
    loaded = model(family, quantization)
    layers = layer_matrices(loaded.spec, dict.fromkeys(loaded.weights, 1))
    assert len(layers) == 5
    expected = logits(bind(loaded, ()))
    for chosen in ((0, 1, 2, 3, 4), (0, 2, 4)):
        executable = bind(loaded, [layers[at] for at in chosen])
        np.testing.assert_array_equal(logits(executable), expected)
        assert f"matrices of {len(chosen)} layers" in executable.summary


def test_the_comparison_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers that are read before they are filled, or the wrong one, are seen."""
    loaded = model("LlamaForCausalLM", "auto")
    layers = layer_matrices(loaded.spec, dict.fromkeys(loaded.weights, 1))
    expected = logits(bind(loaded, ()))
    make_lazy(monkeypatch)
    monkeypatch.setattr(
        "tests.torch.accelerators.LazySide.hold_computation", lambda self, mark: None
    )
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(logits(bind(loaded, layers)), expected)


def test_two_layers_are_on_the_device(copies: None) -> None:
    """And what they hold is right in any order, also one that nobody foresaw."""
    loaded = model("LlamaForCausalLM", "auto")
    layers = layer_matrices(loaded.spec, dict.fromkeys(loaded.weights, 1))
    plain = bind(loaded, ())._weights
    offloaded = bind(loaded, layers)._weights.offload
    assert isinstance(offloaded, OffloadedWeights)
    largest = max(sum(plain.matrix(n).numbers.nbytes for n in names) for names in layers)
    assert sum(each.numel() for each in offloaded._buffers) <= 2 * largest + 10_000
    for at in (0, 1, 2, 3, 4, 0, 0, 3, 1, 1, 4, 2, 0):
        for name in layers[at]:
            assert torch.equal(offloaded.find(name).numbers, plain.matrix(name).numbers)


def test_layers_of_a_spec_are_all_matrices_but_shared_ones() -> None:
    spec = model("Qwen3MoeForCausalLM", "auto").spec
    layers = layer_matrices(spec, dict.fromkeys(spec.weights(), 1))
    names = [name for layer in layers for name in layer]
    assert len(names) == len(set(names))
    inside = {each.name for each in parts(spec.blocks, Weight) if len(each.shape) > 1}
    assert set(names) == inside
    assert spec.embedding.weight.name not in names and spec.head.weight.name not in names


# --- by options

TINY: dict[str, Any] = {
    "backend": "torch", "device": "cpu", "threads": 1, "load_format": "dummy",
    "max_model_len": 64, "max_num_seqs": 4, "max_num_batched_tokens": 32,
    "hf_overrides": {"num_hidden_layers": 8}, "memory_utilization": 1.0,
}  # fmt: skip


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A device, whose free memory is what the test sets."""
    monkeypatch.setattr(Device, "is_cpu", False)
    monkeypatch.setattr(Device, "title", "a device")

    def with_memory(num_bytes: int) -> None:
        monkeypatch.setattr(Device, "free_memory", lambda self: (num_bytes, num_bytes))

    with_memory(1 << 33)
    return with_memory


def generate(**options: Any) -> tuple[list[Any], tuple[str, ...]]:
    """What an engine says, and what it says of itself."""
    llm = LLM("demo", **{**TINY, **options})
    params = SamplingParams(temperature=0.0, max_tokens=8, logprobs=2)
    outputs = llm.generate(["Once", "It was a"], params, use_tqdm=False)
    return [(o.outputs[0].token_ids, o.outputs[0].logprobs) for o in outputs], llm.info.lines


def test_a_model_that_does_not_fit_runs(device: Any) -> None:
    """Automatically, and no layer more than need be; told to do so, all the user said."""
    expected, lines = generate()
    assert not any("offload" in line for line in lines)
    plan = Assembly(EngineConfig("demo", **TINY)).model.memory
    device(plan.weights * 3 // 4)
    found, lines = generate()
    assert found == expected
    assert any("stay in host memory; every step copies them" in line for line in lines)
    with pytest.raises(CapacityError, match="--cpu-offload-gb") as error:
        generate(cpu_offload_gb=0)
    assert "weights need" in str(error.value) and "KV blocks" in str(error.value)
    device(1 << 33)
    found, lines = generate(cpu_offload_gb=plan.weights / 2 / 2**30)
    assert found == expected and any("offload" in line for line in lines)


def test_explain_says_it(device: Any, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["explain", "demo", "--backend", "torch", "--device", "cpu"]
    assert main(command) == 0
    assert "offload: none, all weights stand on the device" in capsys.readouterr().out
    assert main([*command, "--cpu-offload-gb", "0.004"]) == 0
    assert "stay in host memory, and every step copies them" in capsys.readouterr().out


def test_what_offload_cannot_do_is_refused(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="two are always on the device; give at least"):
        generate(cpu_offload_gb=1e-9)
    device(1 << 20)
    with pytest.raises(CapacityError, match=r"not enough memory: .* usable"):
        generate()
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="cpu_offload_gb: this device computes with weights in"):
        generate(cpu_offload_gb=1)


@pytest.mark.parametrize("name", ["cpu_offload_gb", "kv_offloading_size"])
def test_native_has_everything_on_the_host(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is for weights and blocks of other devices"):
        EngineConfig("demo", **{name: 1.0})
    with pytest.raises(ConfigError, match=name):
        EngineConfig("demo", backend="torch", **{name: -1.0})
