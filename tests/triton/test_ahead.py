"""Every kernel with every shipped tile compiles for GPUs that are not there, and fits in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quire.backends.torch.triton.tiles import ARCHITECTURES, SHARED_BYTES, TILES
from quire.backends.torch.triton.tuner import ATTENTION

ROOT = Path(__file__).parents[2]
MOST_REGISTERS = {"sm_80": 255, "sm_90": 255, "gfx942": 512}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Architecture → what became of each kernel, compiled in processes without the interpreter."""
    env = {**os.environ, "TRITON_INTERPRET": "0"}
    env["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    command = [sys.executable, "-m", "tests.triton.launches"]
    running = {
        each: subprocess.Popen(
            [*command, each], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
        )
        for each in ARCHITECTURES
    }
    lines = {each: process.communicate()[0].splitlines() for each, process in running.items()}
    assert not any(process.returncode for process in running.values())
    return {each: [json.loads(line) for line in found] for each, found in lines.items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_steps_of_other_sizes_compile_nothing(
    compiled: dict[str, list[dict[str, Any]]], architecture: str
) -> None:
    """A kernel is compiled once for a model, not again when the batch or a context has grown."""
    variants = compiled[architecture][0]["variants"]
    assert set(variants) > {"attend_tiles", "merge_chunks", "multiply_floats", "add_segments"}
    assert set(variants.values()) == {1}, variants


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fits(compiled: dict[str, list[dict[str, Any]]], architecture: str) -> None:
    found = compiled[architecture][1:]
    assert {(each["body"], each["shapes"]) for each in found} >= set(TILES[architecture])
    for each in found:
        assert each["shared"] <= SHARED_BYTES[architecture], each
        assert each["registers"] <= MOST_REGISTERS[architecture], each
        assert each["spilled"] == 0, each


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_products_add_in_one_order(
    compiled: dict[str, list[dict[str, Any]]], architecture: str
) -> None:
    """Tiles for few and for many rows use the same instructions on the same numbers."""
    kinds: dict[tuple[str, str], set[str]] = {}
    for each in compiled[architecture][1:]:
        # The tile of attention follows the size of heads, which no two steps of a model differ in.
        shapes = each["shapes"] if each["body"] in ATTENTION else ""
        name = (f"{each['kernel']} {shapes}", each["what"])
        kinds.setdefault(name, set()).update(kind_of(product) for product in each["products"])
    assert kinds
    assert all(len(found) <= 1 for found in kinds.values()), kinds


def kind_of(instruction: str) -> str:
    """Without the shape of what one of wgmma computes beside 64 rows, which changes no sum."""
    return instruction.split(".")[0] if instruction.startswith("wgmma") else instruction
