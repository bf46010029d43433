"""The shared library itself: its interface, its errors, and the symbols it must not have."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from quire.backends.native import abi as c
from quire.backends.native import library
from quire.errors import ConfigError, EngineError

ROOT = Path(__file__).parents[2]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
TRAITS = [
    ("x86_64", AVX2, ("integer_avx2.h", "vector_avx2.h")),
    ("x86_64", [*AVX512, "-mavx512vnni"], ("integer_avx512vnni.h", "vector_avx512.h")),
    ("x86_64", [*AVX512, "-mavx512bf16"], ("bfloat16_avx512.h",)),
    ("x86_64", [*AVX512, "-mavx512vnni"], ("integer_amx.h",)),
    ("aarch64", [], ("vector_neon.h",)),
    ("aarch64", ["-march=armv8.2-a+dotprod"], ("integer_neon_dotprod.h",)),
    ("aarch64", ["-march=armv8.2-a+dotprod+i8mm"], ("integer_neon_i8mm.h",)),
]
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


def compile_unbound(tmp_path, *arguments):
    """The symbols of a unit built without optimisation, so that none hides by being inlined."""
    compiler = shutil.which("c++") or pytest.skip("needs a C++ compiler")
    out = tmp_path / "unit.o"
    command = [compiler, "-std=c++17", "-O0", "-fno-exceptions", "-fvisibility=hidden"]
    command += ["-I", ROOT / "csrc/include", "-I", ROOT / "csrc/cpu", *arguments]
    subprocess.run([*command, "-c", "-o", out], check=True)
    return [(kind, name) for kind, name in symbols(out) if kind not in "trdb"]


@needs_nm
def test_kernels_share_no_symbols(tmp_path):
    """A weak symbol of such a unit may replace the same function of the baseline units.

    Of the portable one: it has all kernels, which are templates of a trait.
    """
    found = compile_unbound(tmp_path, ROOT / "csrc/cpu/kernels_portable.cpp")
    assert [name for kind, name in found if kind != "U"] == ["quire::kPortableKernels"]
    needed = {name for kind, name in found if kind == "U"}
    mathematics = {"expf", "floor", "log", "log1pf", "sqrtf"}  # of the C library
    assert needed <= {"memcpy", "memset", *mathematics, "_GLOBAL_OFFSET_TABLE_"}


@needs_nm
@pytest.mark.parametrize(
    "machine, options, traits", TRAITS, ids=lambda x: x if type(x) is str else ""
)
def test_traits_share_no_symbols(tmp_path, machine, options, traits):
    """Nor do the functions that the kernels are made of, which differ from unit to unit."""
    if platform.machine() not in (machine, {"x86_64": "AMD64", "aarch64": "arm64"}[machine]):
        pytest.skip(f"needs a compiler for {machine}")
    includes = [part for trait in traits for part in ("-include", trait)]
    found = compile_unbound(
        tmp_path, "-fkeep-inline-functions", *options, *includes, "-x", "c++", os.devnull
    )
    assert not [name for _, name in found if name.startswith("quire::")]


@needs_nm
def test_the_library_needs_no_openmp_and_no_python():
    ldd = shutil.which("ldd") or pytest.skip("needs ldd")
    text = subprocess.run([ldd, library_path()], capture_output=True, text=True).stdout
    assert not re.search(r"gomp|libomp|python", text)


def test_records_have_the_sizes_of_the_structs():
    sizes = (ctypes.c_int32 * 11)()
    assert library.load().quire_abi_sizes(sizes) == c.ABI_VERSION
    assert sizes[4] == c.SAMPLE_ROW.itemsize and sizes[5] == c.SAMPLE_RESULT.itemsize
    assert sizes[8] == ctypes.sizeof(c.Router) and sizes[9] == ctypes.sizeof(c.Experts)
    assert sizes[10] == ctypes.sizeof(c.Recurrence)


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(c, "ABI_VERSION", 77)
    library.load.cache_clear()
    with pytest.raises(ConfigError, match="built from other sources"):
        library.load()
    monkeypatch.undo()
    library.load.cache_clear()
    library.load()


def test_a_library_without_a_function_is_refused_as_another_version(monkeypatch):
    monkeypatch.setattr(library, "_declare", lambda functions: functions.no_such_function)
    monkeypatch.setattr(c, "ABI_VERSION", 77)
    library.load.cache_clear()
    with pytest.raises(ConfigError, match="built from other sources"):
        library.load()
    monkeypatch.undo()
    library.load.cache_clear()


def test_instruction_sets_by_name():
    assert library.available_isas()[0] == c.PORTABLE
    assert (
        library.choose_isa("auto")
        == library.best_isa()
        == max({*library.available_isas()} - {c.AMX})
    )
    for isa, name in enumerate(c.ISA_NAMES):
        if isa in library.available_isas():
            assert library.choose_isa(name) == isa
        else:
            with pytest.raises(ConfigError, match=f"'{name}' cannot run on this machine"):
                library.choose_isa(name)
    assert [library.load().quire_can_run(isa) for isa in (-1, len(c.ISA_NAMES), 99)] == [0, 0, 0]


@pytest.mark.parametrize("name", ["amx", "portable"])
def test_an_instruction_set_that_no_machine_has_run_is_met_with_a_warning(
    monkeypatch, caplog, name
):
    monkeypatch.setattr(library, "available_isas", lambda: (c.PORTABLE, c.AMX))
    assert c.ISA_NAMES[library.choose_isa(name)] == name
    assert ("only been tested with a model" in caplog.text) == (name == "amx")


@pytest.mark.parametrize("record", [c.Op, c.Matrix, c.Experts, c.Step])
def test_a_record_refuses_a_field_that_it_does_not_have(record):
    with pytest.raises(AttributeError, match="num_row"):
        record(num_row=1)
    with pytest.raises(AttributeError, match="num_row"):
        record().num_row = 1


def test_a_missing_library_says_how_to_build_it(monkeypatch):
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    library.load.cache_clear()
    with pytest.raises(ConfigError, match="pip install"):
        library.load()
    monkeypatch.undo()
    library.load.cache_clear()
    library.load()


def run_empty(pool, **fields):
    op = c.Op(kind=fields.pop("kind", c.OP_ADD))
    program = c.Program(body=ctypes.pointer(op), num_body=1, pool=pool.handle, **fields)
    return library.load().quire_run(ctypes.byref(program), ctypes.byref(c.Step()))


def test_statuses(pool):
    assert run_empty(pool) == 0
    for kind, isa, words in ((99, 0, "op"), (-1, 0, "op"), (c.OP_ADD, 99, "instruction set")):
        status = run_empty(pool, kind=kind, isa=isa)
        with pytest.raises(EngineError, match=words):
            library.check(status)
    assert run_empty(pool, kind=c.OP_ATTENTION, block_tokens=8) == 1  # not a whole vector
    with pytest.raises(EngineError, match="42"):
        library.check(42)


def test_an_empty_step_runs_every_op(pool, isa):
    weight = np.zeros((4, 4), np.float32)
    for kind in range(c.OP_QUANTIZE + 1):
        op = c.Op(kind=kind, heads=2, kv_heads=1, head_dim=2, rope_dims=2, num_parts=1)
        op.parts[0] = c.Matrix(weight.ctypes.data, 4, 4, c.F32, 0)
        program = c.Program(body=ctypes.pointer(op), num_body=1, pool=pool.handle, isa=isa,
                            block_tokens=16)  # fmt: skip
        assert library.load().quire_run(ctypes.byref(program), ctypes.byref(c.Step())) == 0
