"""Devices: what a name means, what is refused, and what is said of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from quire.backends.torch import devices
from quire.backends.torch.arrays import as_tensor
from quire.backends.torch.backend import TorchBackend
from quire.backends.torch.devices import PLATFORMS, Device, available, find_device
from quire.backends.torch.executable import TorchExecutable
from quire.backends.torch.registry import Body, bodies_of, body
from quire.cli.main import main
from quire.config import EngineConfig
from quire.errors import CapacityError, ConfigError
from quire.graph.ir import Node
from quire.ops.elementwise import Add
from quire.runtime.backends import choose_backend, room_of
from quire.runtime.load import load_model
from quire.runtime.machine import inspect_machine
from quire.runtime.open_model import read_spec
from quire.weights.hub import DEMO
from tests.torch.strict_device import Recordings

pytestmark = pytest.mark.oracle

NAMES = [each.name for each in PLATFORMS]
ABSENT = [name for name in NAMES if name not in {each.platform.name for each in available()}]


def test_the_cpu_is_always_there() -> None:
    cpu = find_device("cpu")
    assert cpu.is_cpu and cpu.has_float64 and not cpu.has_bfloat16
    assert cpu.free_memory() is None and str(cpu.torch_device) == cpu.title == "cpu"
    assert find_device("auto") == next(available())


@pytest.mark.parametrize("name", ABSENT)
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device is '{name}'.*(needs|finds only)"):
        find_device(name)


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "", "cpu:7"])
def test_names_that_mean_nothing(name: str) -> None:
    with pytest.raises(ConfigError, match="device is "):
        find_device(name)


def test_plug_ins_are_imported_when_they_are_asked_for() -> None:
    """Also: a plug-in that is there is imported once its device is named."""
    code = (
        "import sys\n"
        "from quire.backends.torch import devices\n"
        "devices.find_device('cpu')\n"
        "print([name for name in ('torch_npu', 'torch_xla') if name in sys.modules])\n"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_plug_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A module that brings torch.npu, as torch_npu does."""
    (tmp_path / "torch_npu.py").write_text(
        "import torch, types\n"
        "torch.npu = types.SimpleNamespace(is_available=lambda: True, device_count=lambda: 2,\n"
        "    mem_get_info=lambda device: (3, 4), get_device_name=lambda device: 'Ascend')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch, "device", lambda name, index=None: f"{name}:{index or 0}")
    try:
        found = find_device("npu:1")
        assert (found.title, found.free_memory()) == ("npu:1 (Ascend)", (3, 4))
        with pytest.raises(ConfigError, match="there are 2"):
            find_device("npu:2")
    finally:
        sys.modules.pop("torch_npu", None)
        vars(torch).pop("npu", None)


# --- options


@pytest.mark.parametrize(
    ("options", "backend"),
    [
        ({}, "native"),
        ({"device": "cpu"}, "native"),
        ({"device": "cuda"}, "torch"),
        ({"backend": "torch"}, "torch"),
        ({"backend": "torch", "device": "cpu"}, "torch"),
        ({"backend": "reference"}, "reference"),
    ],
)
def test_which_backend_is_meant(options: dict[str, str], backend: str) -> None:
    assert EngineConfig("demo", **options).backend_in_use == backend


@pytest.mark.parametrize(
    "options",
    [
        {"backend": "native", "device": "cuda"},
        {"backend": "reference", "device": "xpu"},
        {"backend": "torch", "tuning": "somewhere.json"},
        {"device": "cuda", "instruction_set": "avx2"},
        {"backend": "reference", "instruction_set": "avx2"},
    ],
)
def test_what_a_backend_would_not_heed_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="|".join(options)):
        EngineConfig("demo", **options)


def test_without_torch_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quire.runtime.backends.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'quire\[gpu\]'"):
        choose_backend(EngineConfig("demo", backend="torch"))


def test_stored_blocks_need_the_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Device, "is_cpu", False)
    monkeypatch.setattr(Device, "free_memory", lambda self: (2**30, 2**30))
    config = EngineConfig("demo", backend="torch", device="cpu", prefix_cache_dir=str(tmp_path))
    with pytest.raises(ConfigError, match="prefix_cache_dir"):
        load_model(config)


def test_a_device_gives_all_its_memory_to_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    config = EngineConfig("demo", backend="torch", device="cpu")
    backend, spec = TorchBackend("cpu"), read_spec(config, DEMO)
    monkeypatch.setattr(Device, "is_cpu", False)
    monkeypatch.setattr(Device, "free_memory", lambda self: (5 * 2**30, 8 * 2**30))
    room = room_of(backend, config, inspect_machine(), {}, spec)
    assert room.free_bytes == 5 * 2**30 and room.default_kv_bytes > 2**50 and not room.on_host
    monkeypatch.setattr(Device, "free_memory", lambda self: None)
    with pytest.raises(ConfigError, match="set kv_cache_memory_bytes"):
        room_of(backend, config, inspect_machine(), {}, spec)


def test_captured_steps_are_in_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the arithmetic, and for nobody who wants none."""
    monkeypatch.setattr(Device, "is_cpu", False)
    monkeypatch.setattr(Device, "captures", True)
    monkeypatch.setattr(Device, "free_memory", lambda self: (2**28, 2**28))
    monkeypatch.setattr("quire.backends.torch.executable.find_recorder", lambda _: Recordings())
    for eager in (False, True):
        config = EngineConfig(
            "demo", backend="torch", device="cpu", kv_cache_memory_bytes=2**22, enforce_eager=eager
        )
        loaded = load_model(config)
        executable, memory = loaded.executable, loaded.memory
        assert isinstance(executable, TorchExecutable)
        text = "\n".join(memory.lines())
        captures = executable._captures
        assert bool(memory.graphs) is (captures is not None) is ("24 KiB" in text) is not eager
        assert captures is None or captures._memory.planned == memory.graphs <= 2**25


def test_a_device_with_less_memory_than_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan's numbers at the start, not torch's in traffic."""

    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate")

    monkeypatch.setattr(Device, "is_cpu", False)
    monkeypatch.setattr(Device, "free_memory", lambda self: (2**30, 2**30))
    config = EngineConfig("demo", backend="torch", device="cpu", threads=1)
    for place in ("executable.TorchExecutable._arena", "device_memory.claim"):
        with monkeypatch.context() as changed:
            changed.setattr(f"quire.backends.torch.{place}", refuse)
            with pytest.raises(
                CapacityError, match=r"than it promised, of which 1,024 MiB .* KV cache"
            ):
                load_model(config)


# --- what is said


def test_explain_names_the_bodies(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "demo", "--backend", "torch", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "torch cpu" in out and "Tuning" not in out


def test_doctor_says_what_torch_finds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "torch finds" in out and f"{torch.__version__} installed" in out


# --- bodies


def test_the_last_registered_body_that_does_not_decline_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = bodies_of(Add)
    monkeypatch.setitem(devices_registry(), Add, list(reversed(plain)))

    @body(Add, name="fast", declines=lambda op, device: "no scales" if op.scale != 1 else None)
    def fast(*anything: object) -> tuple[torch.Tensor, ...]:
        return ()

    backend = TorchBackend("cpu")
    assert backend.body(Node(Add(), (), ())) == "fast cpu"
    assert backend.body(Node(Add(0.5), (), ())) == "torch cpu"
    assert backend.declines(Node(Add(0.5), (), ())) is None


def devices_registry() -> dict[type, list[Body]]:
    from quire.backends.torch import registry

    return registry._BODIES


def test_arrays_that_torch_cannot_share_are_copied() -> None:
    unaligned = np.frombuffer(bytes(17), np.uint8)[1:].view(np.float32)
    for array in (unaligned, np.arange(6).reshape(2, 3).T, np.arange(3)):
        found = as_tensor(array, torch.device("cpu"))
        np.testing.assert_array_equal(found.numpy(), array)
    assert devices.PLATFORMS[-1].name == "cpu"


def test_the_device_of_a_number_is_the_threads_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton starts kernels on the current one, wherever their tensors are."""
    entered: list[int] = []

    @contextmanager
    def enter(index: int) -> Iterator[None]:
        entered.append(index)
        yield
        entered.append(-1)

    monkeypatch.setattr(torch.cuda, "device", enter)
    with Device(PLATFORMS[0], 1).current():
        assert entered == [1]
    with Device(PLATFORMS[0]).current(), find_device("cpu").current():
        assert entered == [1, -1]
