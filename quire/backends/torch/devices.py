"""The devices that torch computes on: what differs between them stands here and nowhere else.

Devices of torch itself are cuda (NVIDIA, and AMD by ROCm), xpu (Intel) and mps (Apple); others come
with a plug-in, which is imported when its device is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import torch

from quire.errors import ConfigError

__all__ = ["PINNING", "PLATFORMS", "Device", "Platform", "available", "find_device"]


@dataclass(frozen=True, slots=True)
class Platform:
    """A family of devices.

    name: torch's name of their type.  collectives: the torch.distributed backend between them.
    plugin: the module that brings them to torch, None where torch has them.
    """

    name: str
    makers: str
    collectives: str
    plugin: str | None = None


PLATFORMS = (
    Platform("cuda", "NVIDIA, AMD", "nccl"),
    Platform("xpu", "Intel", "xccl"),
    Platform("npu", "Huawei Ascend", "hccl", "torch_npu"),
    Platform("hpu", "Intel Gaudi", "hccl", "habana_frameworks.torch.core"),
    Platform("xla", "Google TPU, AWS Neuron", "xla", "torch_xla"),
    Platform("mps", "Apple", "gloo"),
    Platform("cpu", "any processor", "gloo"),
)
"""In the order in which "auto" looks for them."""


PINNING = frozenset({"cuda", "xpu"})
"""Devices that copy from pinned memory of the host while it goes on."""


@dataclass(frozen=True)
class Device:
    """One device, such as cuda:0."""

    platform: Platform
    index: int | None = None

    @property
    def torch_device(self) -> torch.device:
        """As torch has it."""
        return torch.device(self.platform.name, self.index)

    @property
    def is_cpu(self) -> bool:
        """True where its memory is the host's."""
        return self.platform.name == "cpu"

    @property
    def title(self) -> str:
        """Its name for people."""
        found, model = str(self.torch_device), self.model
        return f"{found} ({model})" if model else found

    @property
    def model(self) -> str:
        """What its maker calls it; "" where nobody says."""
        name = getattr(_module(self.platform), "get_device_name", None)
        return "" if name is None or self.is_cpu else str(name(self.torch_device))

    @cached_property
    def has_bfloat16(self) -> bool:
        """True where bfloat16 is multiplied by the hardware; CPUs compute in float32."""
        if self.is_cpu:
            return False
        if self.platform.name == "cuda" and torch.version.hip is None:
            return bool(torch.cuda.get_device_capability(self.torch_device) >= (8, 0))
        return self._can(torch.bfloat16)

    @cached_property
    def triton_architecture(self) -> str | None:
        """The architecture whose tiles Triton's kernels take here; None where none of them runs.

        They run on NVIDIA from Ampere on (capability 8.0) and on AMD, where Triton is installed.
        """
        if self.platform.name != "cuda" or not _is_installed("triton"):
            return None
        if torch.version.hip is not None:
            return "gfx942"
        if not self.has_bfloat16:  # Volta, Turing
            return None
        major, _ = torch.cuda.get_device_capability(self.torch_device)
        return "sm_90" if major >= 9 else "sm_80"

    @cached_property
    def has_float64(self) -> bool:
        """True where sums can be float64, which the sampler wants."""
        return self._can(torch.float64)

    @cached_property
    def streams(self) -> Any:
        """The module with Stream, Event, stream and current_stream; None where work has one order.

        That is so on CPUs, mps and xla.
        """
        module = _module(self.platform)
        names = ("Stream", "Event", "stream", "current_stream")
        has_all = all(hasattr(module, name) for name in names)
        return module if has_all and self.platform.name not in ("cpu", "mps", "xla") else None

    @property
    def captures(self) -> bool:
        """Whether what it is given to do can be recorded: by CUDA graphs, also of ROCm."""
        return self.platform.name == "cuda"

    @contextmanager
    def current(self) -> Iterator[None]:
        """Inside, this device is the thread's own, which Triton's kernels and pinned memory are of.

        torch itself follows its tensors.
        """
        enter = getattr(_module(self.platform), "device", None)
        if self.index is None or enter is None:
            yield
            return
        with enter(self.index):
            yield

    def free_memory(self) -> tuple[int, int] | None:
        """Free and total bytes; None where the device does not tell, and on CPUs."""
        module = _module(self.platform)
        if self.platform.name == "mps":
            total = module.recommended_max_memory()
            return total - module.driver_allocated_memory(), total
        if self.is_cpu or not hasattr(module, "mem_get_info"):
            return None
        free, total = module.mem_get_info(self.torch_device)
        return free, total

    def set_threads(self, count: int) -> None:
        """How many threads a CPU computes with, in the whole process; nothing on other devices."""
        if self.is_cpu:
            torch.set_num_threads(count)

    def _can(self, dtype: torch.dtype) -> bool:
        """Whether a small product and a running sum in a dtype work."""
        try:
            ones = torch.ones((2, 2), dtype=dtype, device=self.torch_device)
            return bool((ones @ ones).cumsum(0)[1, 1].item() == 4)
        except (RuntimeError, TypeError, NotImplementedError):
            return False


def find_device(name: str) -> Device:
    """The device of a name: "auto" for the first there is, "cuda", "cuda:1", ...

    Raises ConfigError, with the cure, for one that is not there.
    """
    if name == "auto":
        return next(available())
    kind, _, index = name.partition(":")
    platform = next((each for each in PLATFORMS if each.name == kind), None)
    if platform is None or (index and not index.isdecimal()):
        names = ", ".join(each.name for each in PLATFORMS)
        raise ConfigError(f"device is {name!r}; give auto, or one of {names}, with :1 for another")
    if platform.plugin is not None and not _is_installed(platform.plugin):
        package = platform.plugin.partition(".")[0]
        raise ConfigError(
            f"device is {name!r}, which needs {package}; install it as its maker says"
        )
    if not _is_there(platform):
        found = ", ".join(each.platform.name for each in available())
        raise ConfigError(f"device is {name!r}, and torch {torch.__version__} finds only {found}")
    count = _count(platform)
    if index and int(index) >= count:
        raise ConfigError(f"device is {name!r}, and there are {count}, from {kind}:0 on")
    return Device(platform, int(index) if index else None)


def available() -> Iterator[Device]:
    """The first device of each platform that is there; the CPU is always the last."""
    return (Device(platform) for platform in PLATFORMS if _is_there(platform))


def _is_installed(plugin: str) -> bool:
    return find_spec(plugin.partition(".")[0]) is not None


def _is_there(platform: Platform) -> bool:
    if platform.name == "cpu":
        return True
    if platform.name == "mps":
        return bool(torch.backends.mps.is_available())
    if platform.plugin is not None:
        if not _is_installed(platform.plugin):
            return False
        importlib.import_module(platform.plugin)
    if platform.name == "xla":
        return _count(platform) > 0
    return bool(_module(platform).is_available())


def _count(platform: Platform) -> int:
    if platform.name == "xla":
        return len(importlib.import_module("torch_xla").devices())
    module = _module(platform)
    return int(module.device_count()) if hasattr(module, "device_count") else 1


def _module(platform: Platform) -> Any:
    """torch.cuda, torch.xpu, ...; torch itself where a plug-in has none."""
    return getattr(torch, platform.name, torch)
