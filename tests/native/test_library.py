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
AVX512 = ["-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
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
@pytest.mark.parametrize(
    "unit, options",
    [
        ("Portable", []),
        ("Avx2", ["-mavx2", "-mfma", "-mf16c"]),
        ("Avx512", AVX512),
        ("Avx512Vnni", [*AVX512, "-mavx512vnni"]),
        ("Neon", []),
        ("NeonDotprod", ["-march=armv8.2-a+dotprod"]),
    ],
)
def test_a_unit_of_kernels_shares_no_symbols(tmp_path, unit, options):
    """A weak symbol of such a unit may replace the same function of the baseline units.

    Built without optimisation, so that no such symbol hides by being inlined.
    """
    compiler = shutil.which("c++") or pytest.skip("needs a C++ compiler")
    name = re.sub(r"(?<=n)(?=D)", "_", unit).lower()
    if c.ISA_NAMES.index(name) not in c.available_isas():
        pytest.skip(f"this machine does not run {unit}")
    out = tmp_path / "unit.o"
    command = [compiler, "-std=c++17", "-O0", "-fno-exceptions", "-fvisibility=hidden", *options]
    command += [f"-DQUIRE_WITH_{name.upper()}", "-I", ROOT / "csrc/include"]
    source = ROOT / f"csrc/cpu/kernels_{name}.cpp"
    subprocess.run([*command, "-c", source, "-o", out], check=True)
    found = symbols(out)
    shared = [name for kind, name in found if kind not in "trdbU"]
    table = "Integers" if unit in ("Avx512Vnni", "NeonDotprod") else "Kernels"
    assert shared == [f"quire::k{unit}{table}"]
    needed = {name for kind, name in found if kind == "U"}
    mathematics = {"expf", "floor", "log", "log1pf", "sqrtf"}  # of the C library
    assert needed <= {"memcpy", "memset", *mathematics, "_GLOBAL_OFFSET_TABLE_"}


@needs_nm
def test_the_library_needs_no_openmp_and_no_python():
    ldd = shutil.which("ldd") or pytest.skip("needs ldd")
    text = subprocess.run([ldd, library_path()], capture_output=True, text=True).stdout
    assert not re.search(r"gomp|libomp|python", text)


def test_records_have_the_sizes_of_the_structs():
    sizes = (ctypes.c_int32 * 11)()
    assert c.load().quire_abi_sizes(sizes) == c.ABI_VERSION
    assert sizes[4] == c.SAMPLE_ROW.itemsize and sizes[5] == c.SAMPLE_RESULT.itemsize
    assert sizes[8] == ctypes.sizeof(c.Router) and sizes[9] == ctypes.sizeof(c.Experts)
    assert sizes[10] == ctypes.sizeof(c.Recurrence)


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(c, "ABI_VERSION", 77)
    c.load.cache_clear()
    with pytest.raises(ConfigError, match="built from other sources"):
        c.load()
    monkeypatch.undo()
    c.load.cache_clear()
    c.load()


def test_a_library_without_a_function_is_refused_as_another_version(monkeypatch):
    monkeypatch.setattr(c, "_declare", lambda library: library.no_such_function)
    monkeypatch.setattr(c, "ABI_VERSION", 77)
    c.load.cache_clear()
    with pytest.raises(ConfigError, match="built from other sources"):
        c.load()
    monkeypatch.undo()
    c.load.cache_clear()


def test_instruction_sets_by_name():
    assert c.available_isas()[0] == c.PORTABLE
    assert c.choose_isa("auto") == c.best_isa() == max(c.available_isas())
    for isa, name in enumerate(c.ISA_NAMES):
        if isa in c.available_isas():
            assert c.choose_isa(name) == isa
        else:
            with pytest.raises(ConfigError, match=f"'{name}' cannot run on this machine"):
                c.choose_isa(name)
    assert [c.load().quire_can_run(isa) for isa in (-1, len(c.ISA_NAMES), 99)] == [0, 0, 0]


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
    assert run_empty(pool, kind=c.OP_ATTENTION, block_tokens=8) == 1  # not a whole vector
    with pytest.raises(EngineError, match="42"):
        c.check(42)


def test_an_empty_step_runs_every_op(pool, isa):
    weight = np.zeros((4, 4), np.float32)
    for kind in range(c.OP_QUANTIZE + 1):
        op = c.Op(kind=kind, heads=2, kv_heads=1, head_dim=2, rope_dims=2, num_parts=1)
        op.parts[0] = c.Matrix(weight.ctypes.data, 4, 4, c.F32, 0)
        program = c.Program(body=ctypes.pointer(op), num_body=1, pool=pool.handle, isa=isa,
                            block_tokens=16)  # fmt: skip
        assert c.load().quire_run(ctypes.byref(program), ctypes.byref(c.Step())) == 0
