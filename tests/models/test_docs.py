"""docs/models.md says what the registry says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.oracle
def test_the_page_of_models_is_fresh() -> None:
    pytest.importorskip("transformers")
    command = [sys.executable, "scripts/model_docs.py", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
