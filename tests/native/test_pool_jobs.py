"""Every unit of a job is done exactly once, whoever comes late."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs g++ or clang++")
    built = tmp_path_factory.mktemp("pool") / "pool_jobs"
    sources = [str(HERE / "pool_jobs.cpp"), str(CSRC / "cpu" / "thread_pool.cpp")]
    folders = [f"-I{CSRC / 'cpu'}", f"-I{CSRC / 'include'}"]
    options = ["-std=c++17", "-O1", "-pthread", "-o", str(built)]
    subprocess.run([compiler, *sources, *folders, *options], check=True)
    return built


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_every_unit_once(program: Path, threads: int) -> None:
    command = [str(program), str(threads), "3000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
