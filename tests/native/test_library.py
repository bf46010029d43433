"""The shared library itself: its interface, its errors, and the symbols it must not have."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from quire.backends.native import library as c
from quire.errors import ConfigError, EngineError

ROOT = Path(__file__).parents[2]
needs_nm = pytest.mark.skipif(not shutil.which("nm"), reason="needs nm")


def symbols(path):
    lines = subprocess.run(["nm", "-C", path], capture_output=True, text=True, check=True).stdout
    return [match.groups() for match in re.finditer(r"(?m)^[\da-f ]{16} (\S) (.*)$", lines)]


def library_path():
    return find_spec("quire.backends.native._core").origin


@needs_nm
def test_nothing_is_exported_but_the_c_interface():
    lines = subprocess.run(
        ["nm", "-CD", "--defined-only", library_path()], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    header = (ROOT / "csrc/include/quire.h").read_text()
    declared = set(re.findall(r"\b(quire_\w+)\(", header))
    exported = {line.split()[-1] for line in lines}
    assert exported == declared


@needs_nm
def test_units_of_one_instruction_set_share_no_symbols(tmp_path):
    """A weak symbol of such a unit may replace the same function of the baseline units."""
    flags = {"kernels_avx2.cpp": ["-mavx2", "-mfma", "-mf16c"], "kernels_portable.cpp": []}
    compiler = shutil.which("c++") or pytest.skip("needs a C++ compiler")
    if c.best_isa() == c.PORTABLE:
        del flags["kernels_avx2.cpp"]
    for unit, options in flags.items():
        out = tmp_path / f"{unit}.o"
        source = ROOT / "csrc/cpu" / unit
        command = [compiler, "-std=c++17", "-O1", "-fno-math-errno", *options]
        command += [
            "-fvisibility=hidden",
            "-DQUIRE_WITH_AVX2",
            "-I",
            ROOT / "csrc/include",
            "-c",
            source,
            "-o",
            out,
        ]
        subprocess.run(command, check=True)
        found = symbols(out)
        shared = [(kind, name) for kind, name in found if kind not in "trdbU"]
        assert [name for _, name in shared] in (
            ["quire::kAvx2Kernels"],
            ["quire::kPortableKernels"],
        ), shared
        assert {name for kind, name in found if kind == "U"} <= {
            "memcpy", "memset", "_GLOBAL_OFFSET_TABLE_",
        }, found  # fmt: skip


@needs_nm
def test_the_library_needs_no_openmp_and_no_python():
    ldd = shutil.which("ldd") or pytest.skip("needs ldd")
    text = subprocess.run([ldd, library_path()], capture_output=True, text=True).stdout
    assert not re.search(r"gomp|libomp|python", text)


def test_records_have_the_sizes_of_the_structs():
    sizes = (ctypes.c_int32 * 7)()
    assert c.load().quire_abi_sizes(sizes) == c.ABI_VERSION
    assert sizes[4] == c.SAMPLE_ROW.itemsize and sizes[5] == c.SAMPLE_RESULT.itemsize


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(c, "ABI_VERSION", 77)
    c.load.cache_clear()
    with pytest.raises(ConfigError, match="built from other sources"):
        c.load()
    monkeypatch.undo()
    c.load.cache_clear()
    c.load()


def test_a_missing_library_says_how_to_build_it(monkeypatch):
    monkeypatch.setattr(c, "find_spec", lambda name: None)
    c.load.cache_clear()
    with pytest.raises(ConfigError, match="pip install"):
        c.load()
    monkeypatch.undo()
    c.load.cache_clear()
    c.load()


def run_empty(pool, **fields):
    op = c.Op(kind=fields.pop("kind", c.OP_ADD))
    program = c.Program(body=ctypes.pointer(op), num_body=1, pool=pool.handle, **fields)
    return c.load().quire_run(ctypes.byref(program), ctypes.byref(c.Step()))


def test_statuses(pool):
    assert run_empty(pool) == 0
    for kind, isa, words in ((99, 0, "op"), (-1, 0, "op"), (c.OP_ADD, 7, "instruction set")):
        status = run_empty(pool, kind=kind, isa=isa)
        with pytest.raises(EngineError, match=words):
            c.check(status)
    with pytest.raises(EngineError, match="42"):
        c.check(42)


def test_an_empty_step_runs_every_op(pool, isa):
    weight = np.zeros((4, 4), np.float32)
    for kind in range(12):
        op = c.Op(kind=kind, heads=2, kv_heads=1, head_dim=2, rope_dims=2, num_parts=1)
        op.parts[0] = c.Matrix(weight.ctypes.data, 4, 4, c.F32, 0)
        program = c.Program(body=ctypes.pointer(op), num_body=1, pool=pool.handle, isa=isa,
                            block_tokens=16)  # fmt: skip
        assert c.load().quire_run(ctypes.byref(program), ctypes.byref(c.Step())) == 0
