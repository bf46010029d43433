"""Kernels run in Triton's interpreter here: numpy on the CPU, one program after the other."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

MISSING = [name for name in ("torch", "triton") if find_spec(name) is None]


class SkippedModule(pytest.Module):
    """A file of tests that is not even imported."""

    def collect(self) -> Any:
        pytest.skip(
            f"{' and '.join(MISSING)} not installed: scripts/test brings them",
            allow_module_level=True,
        )


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> Any:
    """Tests of kernels need what kernels need."""
    return SkippedModule.from_parent(parent, path=module_path) if MISSING else None


@pytest.fixture(autouse=True, scope="package")
def complete_interpreter() -> Iterator[None]:
    """See interpreter.py."""
    from tests.triton.interpreter import complete

    with complete():
        yield


@pytest.fixture
def gpu() -> Any:
    """A launcher of the interpreter."""
    from quire.backends.torch.triton.launcher import Launcher

    return Launcher("sm_80")
