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

STEPS = (
    {0: (0, 4)},
    {0: (4, 8)},
    {0: (8, 11), 1: (0, 1)},
    {0: (11, 12), 1: (1, 2), 2: (0, 1)},
    {1: (2, 3), 2: (1, 2), 3: (0, 1)},
    {3: (1, 2), 2: (2, 3), 1: (3, 4), 0: (12, 13)},
    {2: (3, 4), 0: (13, 14), 3: (2, 3)},
)
"""Of four tokens, mixed, of which the second step is recorded and the third replayed; then the same
of single tokens, of which some steps have three and one that pads them; requests come and go."""


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


CASES = {
    "numbers": ("Qwen2ForCausalLM", "float32", "auto", "float32", {}),
    "codes, windows": ("Gemma2ForCausalLM", "bfloat16", "int4", "int8", {"sliding_window": 9}),
    "latents": ("DeepseekV2ForCausalLM", "float32", "auto", "int8", {"num_hidden_layers": 1}),
    "experts": ("Qwen3MoeForCausalLM", "bfloat16", "auto", "fp8", {"num_hidden_layers": 1}),
}


@pytest.mark.parametrize("case", CASES)
def test_replayed_kernels_give_the_same_bits(case: str) -> None:
    """A decoding step is one graph, and a mixed one a graph around each attention."""
    family, dtype, quantization, kv_format, changes = CASES[case]
    loaded = random_model(family, dtype, quantization, **changes)
    prompts = np.random.default_rng(4).integers(3, loaded.spec.vocab_size, (4, 14)).tolist()
    recordings = KernelRecordings()
    plain = InterpretedModel(loaded, kv_format)
    captured = InterpretedModel(loaded, kv_format, recordings)
    counts = []
    for spans in STEPS:
        expected, found = plain.step(prompts, spans), captured.step(prompts, spans)
        for mine, its in zip(found, expected, strict=True):
            np.testing.assert_array_equal(mine, its)
        counts.append(captured.executable.captured[0])
    mixed = len(captured.executable.kv_cache.layout.layers) + 1
    assert counts == [0, mixed, mixed, mixed, mixed + 1, mixed + 1, mixed + 1]
    assert recordings.num_replays == 2 * mixed + 3 and len(recordings.tapes) == mixed + 1
