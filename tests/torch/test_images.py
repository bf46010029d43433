"""What a request with images yields alone on torch: what native gives it, and in any company."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.torch.test_engine import expect_same
from tests.vision.test_invariance import WORLDS, jobs, seeing

pytest.importorskip("PIL")
pytestmark = pytest.mark.oracle
torch.set_num_threads(1)


def test_alone_or_not(tmp_path: Path) -> None:
    vision, bench = seeing(tmp_path, "torch")
    native_vision, native = seeing(tmp_path, "native-portable")
    alone = [bench.alone(job) for job in jobs(vision)]
    for answer, job in zip(alone, jobs(native_vision), strict=True):
        expect_same(answer, native.alone(job))
    for name, world in WORLDS.items():
        run = bench.run(jobs(vision), world)
        for found, expected in zip(run.answers, alone, strict=True):
            expect_same(found, expected)
        assert run.num_preemptions > 0 or name != "preempted"
        assert run.num_hit_tokens > 0 or name != "cached"
