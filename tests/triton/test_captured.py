"""Kernels in captured steps: what is replayed gives the bits of what is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from quire.backends.torch.triton.launcher import Launcher
from quire.control.plan import UNKNOWN_TOKEN
from quire.ops.batch import Batch
from quire.outputs import Logprob
from quire.sampling.state import SampledRows, SamplingState
from quire.sampling_params import SamplingParams
from tests.engine.driving import random_model
from tests.torch.strict_device import Recordings
from tests.triton.interpreted_models import InterpretedModel

pytestmark = pytest.mark.oracle
torch.set_num_threads(1)

STEPS = (
    {0: (0, 4)},
    {0: (4, 8)},
    {0: (8, 11), 1: (0, 1)},  # three tokens are more than one and a guess
    {0: (11, 12), 1: (1, 2), 2: (0, 1)},
    {1: (2, 3), 2: (1, 2), 3: (0, 1)},
    {3: (1, 2), 2: (2, 3), 1: (3, 4), 0: (12, 13)},
    {2: (3, 4), 0: (13, 14), 3: (2, 3)},
    {1: (4, 6), 3: (3, 4), 2: (4, 5)},
)
"""Of four tokens, mixed, of which the second step is recorded and the third replayed; then the same
of single tokens, of which some steps have three and one that pads them; requests come and go.  In
the last one a request has a guess beside its token."""


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
    "delta nets": (
        "Qwen3_5ForCausalLM", "float32", "auto", "float32",
        {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]},
    ),
    "mamba": (
        "GraniteMoeHybridForCausalLM", "float32", "auto", "float32",
        {"num_hidden_layers": 2, "layer_types": ["mamba", "attention"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_replayed_kernels_give_the_same_bits(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoding step is one graph, and a mixed one a graph around each layer that goes from token
    to token; guesses are like requests of their own, but where there is a state."""
    monkeypatch.setattr("quire.backends.torch.step_captures.MOST_GUESSES", 1)
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
    has_state = captured.program.spec.state_floats > 0
    mixed = counts[1] if has_state else len(plain.program.spec.blocks) + 1
    assert counts == [0, mixed, mixed, mixed, *[mixed + 1] * 4]
    assert recordings.num_replays == 2 * mixed + 3 + (mixed if has_state else 1)
    assert len(recordings.tapes) == mixed + 1


Told = tuple[int, dict[int, Logprob] | None]
PARAMS = (
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=1.0, top_k=7, top_p=0.9),
    SamplingParams(temperature=0.7, min_p=0.02),
)
MORE = (
    SamplingParams(temperature=0.0, repetition_penalty=1.5, logprobs=2),
    SamplingParams(temperature=1.0, frequency_penalty=0.9, logit_bias={5: 3.0, 7: -9.0}),
    SamplingParams(temperature=0.7, min_tokens=3, stop_token_ids=[8], logprobs=0),
)


def drawn(
    model: InterpretedModel,
    prompts: list[list[int]],
    ahead: bool,
    wanted: tuple[SamplingParams, ...] = PARAMS,
) -> list[list[Told]]:
    """Six tokens of each request, by steps that may be launched before the last one is known."""
    executable, launched = model.executable, []
    for slot, (prompt, params) in enumerate(zip(prompts, wanted, strict=True)):
        state = SamplingState(prompt, params, seed=3 + slot, forbidden=params.stop_token_ids)
        executable.admit(slot, state)
    found: list[list[Told]] = [[], [], []]
    batch = model.batch(prompts, {which: (0, len(each)) for which, each in enumerate(prompts)})
    for _ in range(6):
        last = batch.query_start[1:] - 1
        launched.append(executable.launch(replace(batch, logit_rows=last)))
        if not ahead or len(launched) > 1:
            note(found, launched.pop(0).wait())
        known = [UNKNOWN_TOKEN] * 3 if ahead else [each[-1][0] for each in found]
        batch = following(model, batch.positions[last] + 1, known)
    for each in launched:
        note(found, each.wait())
    return found


def note(found: list[list[Told]], sampled: SampledRows) -> None:
    for place, (each, token) in enumerate(zip(found, sampled.tokens, strict=True)):
        each.append((token, sampled.logprobs.get(place)))


def following(model: InterpretedModel, positions: np.ndarray, tokens: list[int]) -> Batch:
    """A step with a token of each request."""
    nothing = [[0] * 40] * len(positions)
    spans = {which: (at, at + 1) for which, at in enumerate(positions.tolist())}
    return replace(model.batch(nothing, spans), token_ids=np.array(tokens, np.int32))


@pytest.mark.parametrize(
    ("case", "wanted"), [("numbers", PARAMS), ("numbers", MORE), ("delta nets", PARAMS)]
)
def test_a_step_that_draws_is_one_replay(case: str, wanted: tuple[SamplingParams, ...]) -> None:
    """From the last tokens, which the host does not know, to the next ones."""
    family, dtype, quantization, kv_format, changes = CASES[case]
    loaded = random_model(family, dtype, quantization, **{"num_hidden_layers": 1, **changes})
    prompts = np.random.default_rng(4).integers(3, loaded.spec.vocab_size, (3, 5)).tolist()
    expected = drawn(InterpretedModel(loaded, kv_format), prompts, False, wanted)
    recordings = KernelRecordings()
    model = InterpretedModel(loaded, kv_format, recordings)
    assert drawn(model, prompts, True, wanted) == expected
    # Prompts, a step as it is, the third is recorded, and every one from there is a replay.
    assert len(recordings.tapes) == 1 and recordings.num_replays == 4
