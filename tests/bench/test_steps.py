"""scripts/profile: a profile adds up, and its table knows what an op must read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.steps.__main__ import main
from bench.steps.op_table import OpRow, op_rows, table
from bench.steps.workload import PARTS, StepProfiler, Workload
from quire.assembly import Assembly
from quire.backends.native.program import NativeExecutable
from quire.config import EngineConfig
from quire.weights.hub import DEMO

RATES = {"read": 10e9, "fma": 100e9, "int8": 400e9}


@pytest.fixture(scope="module")
def assembly() -> Assembly:
    return Assembly(EngineConfig("demo", threads=1, enable_prefix_caching=False, max_num_seqs=4))


@pytest.fixture(scope="module")
def profiler(assembly: Assembly) -> Iterator[StepProfiler]:
    yield StepProfiler(assembly)


@pytest.mark.parametrize("workload", [Workload.decode(3, 16), Workload.prefill(20)])
def test_ops_and_python_make_a_step(
    workload: Workload, assembly: Assembly, profiler: StepProfiler
) -> None:
    profile = profiler.run(workload, 4)
    assert len(profile.step_s) == len(profile.op_s) == 4
    assert all(len(profile.part_s[name]) == 4 for name in PARTS)
    for step, ops in zip(profile.step_s, profile.op_s, strict=True):
        assert 0 < ops.sum() < step
        assert (ops > 0).all()  # of every op, and the sampler
    assert profile.median_python_s > 0
    assert not assembly.engine.has_work

    executable = assembly.model.executable
    assert isinstance(executable, NativeExecutable)
    rows = op_rows(executable.program, executable.weights, 2, workload, profile.best_op_s)
    assert sum(row.seconds for row in rows) == pytest.approx(profile.best_op_s.sum())
    assert sum(row.count for row in rows) == len(profile.best_op_s)
    linears = [row for row in rows if row.name.startswith("MatMul")]
    matrices = {each.weight.name for each in assembly.model.spec.linears()}
    stored = sum(executable.weights[name].data.nbytes for name in matrices)
    assert sum(row.num_bytes for row in linears) == pytest.approx(stored, rel=0.01)  # less biases
    (attention,) = (row for row in rows if row.name == "PagedAttention")
    kv_heads = sum(
        2 * b.attention.kv_heads * b.attention.head_dim for b in assembly.model.spec.blocks
    )
    assert attention.num_bytes == workload.requests * workload.context * kv_heads * 2


def test_prefill_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--decode", "--requests", "--prefill", "16", "--steps", "2", "--threads", "1"]
    monkeypatch.setattr("sys.argv", ["scripts/profile", str(DEMO), *options])
    main()
    assert "prefill, 16 tokens" in capsys.readouterr().out


def test_the_roof_is_the_slower_of_reading_and_arithmetic() -> None:
    decode = OpRow("a", 1, 2e-3, num_bytes=10e6, operations=20e6, peak="int8")
    prefill = OpRow("b", 1, 2e-3, num_bytes=1e6, operations=200e6, peak="int8")
    assert decode.roof_s(RATES) == pytest.approx(1e-3)
    assert prefill.roof_s(RATES) == pytest.approx(0.5e-3)
    lines = list(table([decode, prefill], RATES))
    assert lines[1].endswith(" 50%") and lines[2].endswith(" 25%")
    assert lines[3].startswith("all") and lines[3].endswith(" 38%")
