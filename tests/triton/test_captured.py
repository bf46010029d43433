"""Kernels in captured steps: what is replayed gives the bits of what is run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from quire.backends.torch.triton.launcher import Launcher
from tests.engine.driving import random_model
from tests.torch.strict_device import Recordings
from tests.triton.interpreted_models import InterpretedModel

pytestmark = pytest.mark.oracle
torch.set_num_threads(1)

STEPS = ({0: (0, 4)}, {0: (4, 8)}, {0: (8, 11), 1: (0, 1)}, {1: (1, 3)}, {1: (3, 6)})
"""Of four tokens, the third of which is the first replay; of two; of three and a padded one."""


class KernelRecordings(Recordings):
    """Launches are noted and not done, for the interpreter reads its tensors on the host."""

    def record(self, compute: Callable[[], None]) -> Callable[[], None]:
        launched: list[Any] = []
        with pytest.MonkeyPatch.context() as patch:
            run = Launcher.run

            def note(*args: Any, **arguments: Any) -> None:
                tape: Any = torch.utils._python_dispatch._get_current_dispatch_mode()
                tape.calls.append((partial(run, *args, **arguments), (), {}, []))
                launched.append(args[1])

            patch.setattr(Launcher, "run", note)
            replay = super().record(compute)
        assert launched, "a segment without kernels"
        return replay


@pytest.mark.parametrize(
    ("family", "quantization", "kv_format"),
    [("Qwen2ForCausalLM", "auto", "float32"), ("Gemma2ForCausalLM", "int4", "int8")],
)
def test_replayed_kernels_give_the_same_bits(
    family: str, quantization: str, kv_format: str
) -> None:
    dtype = "float32" if quantization == "auto" else "bfloat16"
    loaded = random_model(family, dtype, quantization)
    prompts = np.random.default_rng(4).integers(3, loaded.spec.vocab_size, (2, 12)).tolist()
    recordings = KernelRecordings()
    plain = InterpretedModel(loaded, kv_format)
    captured = InterpretedModel(loaded, kv_format, recordings)
    for spans in STEPS:
        expected, found = plain.step(prompts, spans), captured.step(prompts, spans)
        for mine, its in zip(found, expected, strict=True):
            np.testing.assert_array_equal(mine, its)
    assert recordings.num_replays >= 3 * len(recordings.tapes) > 0
