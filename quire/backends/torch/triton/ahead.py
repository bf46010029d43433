"""Compiles kernels for a GPU that is not there, and says what they take of it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from quire.backends.torch.triton.launcher import Launcher, build_options
from quire.backends.torch.triton.tiles import Tile

__all__ = ["AheadLauncher", "Compiled", "compile_ahead", "specialised"]

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
POINTERS = {
    torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int8: "*i8",
    torch.uint8: "*u8", torch.int32: "*i32", torch.int64: "*i64",
}  # fmt: skip
PRODUCTS = re.compile(r"\b(?:wgmma\.mma_async|mma)\.sync\.aligned[.\w]*|\bv_mfma_\w+")


@dataclass(frozen=True, slots=True)
class Compiled:
    """What became of one kernel, specialised for its arguments.

    shared: bytes of shared memory of a program.  registers: of a thread.  spilled: bytes of a
    thread that had no room there.  products: the matrix instructions in it.
    """

    kernel: str
    tile: Tile
    shared: int
    registers: int
    spilled: int
    products: frozenset[str]


class AheadLauncher(Launcher):
    """Compiles what it is told to start; tensors may be on the device "meta", without memory."""

    def __init__(self, architecture: str) -> None:
        super().__init__(architecture)
        self.compiled: list[Compiled] = []

    def run(self, kernel: Any, grid: tuple[int, ...], tile: Tile, /, **arguments: Any) -> None:
        """Compile the kernel for these arguments."""
        self.compiled.append(compile_ahead(kernel, tile, self.architecture, arguments))


def compile_ahead(
    kernel: Any, tile: Tile, architecture: str, arguments: dict[str, Any]
) -> Compiled:
    """Compile one kernel as a start with these arguments would."""
    source = ASTSource(kernel, *specialised(kernel, arguments))
    options = {"num_warps": tile.warps, "num_stages": tile.stages, **build_options(architecture)}
    built = triton.compile(source, target=TARGETS[architecture], options=options)
    return _facts(kernel.__name__, tile, built)


def specialised(
    kernel: Any, arguments: dict[str, Any]
) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int], Any]]:
    """What Triton compiles a kernel for: types, constants, and what is divisible.

    Triton builds one specialisation for integers that are 1, and another for addresses and
    integers that are multiples of 16; tensors on "meta" count as allocated by torch, at such.
    """
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int], Any] = {}
    for place, (name, param) in enumerate(zip(kernel.arg_names, kernel.params, strict=True)):
        value = arguments[name]
        if param.do_not_specialize and type(value) is int:
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
        elif param.is_constexpr or value is None or (type(value) is int and value == 1):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = POINTERS[value.dtype]
            attributes[(place,)] = [["tt.divisibility", 16]]
        elif type(value) is int:
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(place,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32"
    return signature, constants, attributes


def _facts(name: str, tile: Tile, built: Any) -> Compiled:
    text = built.asm["amdgcn"] if "amdgcn" in built.asm else built.asm["ptx"]
    products = frozenset(PRODUCTS.findall(text))
    if "amdgcn" in built.asm:
        registers = _number(r"\.vgpr_count:\s+(\d+)", text)
        # What went to AMD's accumulators instead is in registers still.
        spilled = _number(r"\.private_segment_fixed_size:\s+(\d+)", text)
    else:
        usage = _resource_usage(built.asm["cubin"])
        registers = _number(r"\bREG:(\d+)", usage)
        spilled = _number(r"\bSTACK:(\d+)", usage) + _number(r"\bLOCAL:(\d+)", usage)
    return Compiled(name, tile, built.metadata.shared, registers, spilled, products)


def _resource_usage(cubin: bytes) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run(
            [tool, "--dump-resource-usage", file.name], check=True, capture_output=True, text=True
        ).stdout


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found is not None, pattern
    return int(found[1])
