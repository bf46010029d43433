"""Makes the environment of a peer, outside the repository; needs the network."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from bench.peers.checkpoints import cache, environment
from bench.peers.python_peers import PYTHON_PEERS

__all__ = ["LLAMA_CPP", "install", "names"]

LLAMA_CPP = "llama-cpp-python==0.3.36"
"""Its source distribution holds the llama.cpp of its day."""

PROGRAMS = ("llama-bench", "llama-batched-bench", "llama-server")
COMMON = (
    "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
)  # fmt: skip
AVX2 = [f"-DGGML_{each}=ON" for each in ("SSE42", "AVX", "AVX2", "BMI2", "FMA", "F16C")]
BUILDS = {"native": ["-DGGML_NATIVE=ON"], "avx2": ["-DGGML_NATIVE=OFF", *AVX2]}


def names() -> list[str]:
    """What can be installed."""
    return ["gguf", "llama.cpp", *(peer.name for peer in PYTHON_PEERS)]


def install(name: str, jobs: int) -> None:
    """Install one peer, or what writes GGUF files.  Raises CalledProcessError when a step fails."""
    if name in ("llama.cpp", "openvino"):
        _environment("gguf", ["gguf"])
    if name == "llama.cpp":
        _build_llama_cpp(jobs)
    else:
        packages = {peer.name: list(peer.packages) for peer in PYTHON_PEERS}
        _environment(name, packages.get(name, [name]))


def _environment(name: str, packages: list[str]) -> None:
    python = environment(name)
    if not python.is_file():
        _run(sys.executable, "-m", "venv", python.parent.parent)
    _run(python, "-m", "pip", "install", "--upgrade", *packages)


def _build_llama_cpp(jobs: int) -> None:
    """Both builds from one folder: only the files with instructions of their own differ."""
    home = cache() / "llama.cpp"
    source = _llama_cpp_source(home)
    for build, options in BUILDS.items():
        _run("cmake", "-S", source, "-B", home / "build", *COMMON, *options)
        _run("cmake", "--build", home / "build", f"-j{jobs}", "--target", *PROGRAMS)
        (home / build).mkdir(exist_ok=True)
        for program in PROGRAMS:
            shutil.copy(home / "build" / "bin" / program, home / build)
        note = f"llama.cpp as in {LLAMA_CPP}, {' '.join(options)}\n"
        (home / build / "VERSION").write_text(note)


def _llama_cpp_source(home: Path) -> Path:
    """The llama.cpp sources out of the source distribution."""
    source = home / "source"
    if not source.is_dir():
        fetch = (sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:")
        _run(*fetch, "--dest", home, LLAMA_CPP)
        archive = next(home.glob("llama_cpp_python-*.tar.gz"))
        unpacked = home / "unpacked"
        with tarfile.open(archive) as file:
            file.extractall(unpacked, filter="data")
        next(unpacked.glob("*/vendor/llama.cpp")).rename(source)
        shutil.rmtree(unpacked)
    return source


def _run(*arguments: object) -> None:
    subprocess.run([str(each) for each in arguments], check=True)
