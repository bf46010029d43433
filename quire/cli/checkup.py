"""Looks at this machine and says what is there, what will be used, and what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from quire.config import cache_directory
from quire.errors import QuireError

__all__ = ["Finding", "check_hub", "findings"]

CPU_FEATURES = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni"),
    *("avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
HUB = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about the machine.

    cure: the command, or the words, that would bring what is missing; None: nothing is missing.
    required: without it no model runs.
    """

    topic: str
    fact: str
    cure: str | None = None
    required: bool = False


def findings() -> Iterator[Finding]:
    """Everything that can be said without a network."""
    yield from _machine()
    yield _python()
    yield _packages()
    yield _library()
    yield from _tuning()
    yield _compiler()
    yield from _accelerators()
    yield from _caches()


def check_hub() -> Finding:
    """Whether the hub answers, HF_ENDPOINT honoured."""
    import urllib.error
    import urllib.request

    endpoint = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    try:
        with urllib.request.urlopen(f"{endpoint}/api/models?limit=1", timeout=10) as answer:
            return Finding("hub", f"{endpoint} answers {answer.status}")
    except (OSError, ValueError) as error:
        cure = "set HF_ENDPOINT to a mirror, or give a local directory as the model"
        return Finding("hub", f"{endpoint} does not answer: {error}", cure)


def _machine() -> Iterator[Finding]:
    from quire.runtime.machine import inspect_machine

    machine = inspect_machine()
    everything = os.cpu_count() or machine.cores
    yield Finding("processor", machine.processor)
    features = [name for name in CPU_FEATURES if name in machine.features]
    yield Finding("features", " ".join(features) or "unknown")
    limited = f" of {everything}: shared cores, affinity or a quota"
    yield Finding("cores", f"{machine.cores}{'' if machine.cores == everything else limited}")
    if machine.numa_nodes > 1:
        cure = "numactl --cpunodebind=0 --membind=0 quire serve ... keeps to one of them"
        yield Finding("memory nodes", f"{machine.numa_nodes}, which threads use alike", cure)
    limit = machine.memory_limit
    container = "no container limit" if limit is None else f"container limit {_gib(limit)}"
    free, total = _gib(machine.free_memory), _gib(machine.total_memory)
    yield Finding("memory", f"{free} free of {total}, {container}")


def _python() -> Finding:
    system = f"{platform.system()} {platform.machine()}"
    return Finding("python", f"{platform.python_version()}, {system}")


def _packages() -> Finding:
    """The packages that Quire requires, and whether they are there."""
    try:
        required = importlib.metadata.requires("quire") or []
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            "packages", "quire is not installed; it runs from its sources", "pip install ."
        )
    names = [re.split(r"[^\w.-]", line)[0] for line in required if "extra ==" not in line]
    absent = [name for name in names if not _is_installed(name)]
    if absent:
        return Finding(
            "packages", f"missing: {', '.join(absent)}", f"pip install {' '.join(absent)}", True
        )
    return Finding("packages", f"all {len(names)} required packages are there")


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return name == "uvloop" and platform.system() == "Windows"
    return True


def _library() -> Finding:
    """The native library: whether it loads, and what its kernels will use here."""
    try:
        from quire.backends.native.abi import ISA_NAMES
        from quire.backends.native.library import available_isas, best_isa

        best = ISA_NAMES[best_isa()]
        others = ", ".join(ISA_NAMES[isa] for isa in available_isas())
    except (QuireError, ImportError) as error:
        return Finding(
            "kernels", str(error), "pip install . in a checkout, with a C++ compiler", True
        )
    return Finding("kernels", f"native library built; will use {best} of {others}")


def _tuning() -> Iterator[Finding]:
    """How matrix products are cut, if the library is there."""
    from quire.runtime.machine import inspect_machine
    from quire.runtime.tuning import choose_tunings

    try:
        from quire.backends.native.library import best_isa

        machine = inspect_machine()
        yield Finding("tuning", choose_tunings("auto", best_isa(), machine.cores, machine).source)
    except (QuireError, ImportError):
        return


def _compiler() -> Finding:
    """The first C++ compiler on the path; only building needs one."""
    candidates = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    for path in filter(None, map(shutil.which, filter(None, candidates))):
        return Finding("compiler", f"{_first_line(path)} ({path})")
    cure = "apt install g++, dnf install gcc-c++, or xcode-select --install"
    return Finding("compiler", "no C++ compiler; only building from source needs one", cure)


def _first_line(compiler: str) -> str:
    try:
        run = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return "does not answer to --version"
    return (run.stdout.splitlines() or ["unknown version"])[0]


def _accelerators() -> Iterator[Finding]:
    """Other devices, which the torch backend computes on; torch itself is asked what it finds."""
    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi")
    seen = "NVIDIA driver" if driver else "no NVIDIA driver"
    if find_spec("torch") is None:
        cure = "pip install 'quire[gpu]'" if driver else None
        yield Finding("gpu", f"{seen}; not used without torch", cure)
        yield Finding("torch", "not installed; needed only for --backend torch")
    else:
        yield Finding("gpu", f"{seen}; {_devices()}")
        version = importlib.metadata.version("torch")
        yield Finding("torch", f"{version} installed; used with --backend torch or --device")
    if find_spec("triton") is None:
        yield Finding("triton", "not installed; not needed")
    else:
        yield Finding("triton", f"{importlib.metadata.version('triton')} installed")


def _devices() -> str:
    """What torch finds beside the CPU."""
    try:
        from quire.backends.torch.devices import available

        found = [each.title for each in available() if not each.is_cpu]
    except (ImportError, OSError, RuntimeError) as error:
        return f"torch cannot be imported: {error}"
    return f"torch finds {', '.join(found)}" if found else "torch finds none"


def _caches() -> Iterator[Finding]:
    home = os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")
    yield _directory("cache", cache_directory(), "QUIRE_CACHE_DIR")
    yield _directory("downloads", hub, "HF_HOME")


def _directory(topic: str, path: Path, variable: str) -> Finding:
    """Whether a directory, or the one that it would be made in, takes files."""
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    free = _gib(shutil.disk_usage(existing).free)
    if os.access(existing, os.W_OK):
        return Finding(topic, f"{path}, {free} free on its disk")
    return Finding(topic, f"{path} cannot be written", f"set {variable} to a directory that can")


def _gib(size: int) -> str:
    return f"{size / 1024**3:.1f} GiB"
