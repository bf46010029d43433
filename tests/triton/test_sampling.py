"""Draws, penalties and log-probabilities are those of quire/sampling/reference.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quire.backends.torch.sampling.changes import COUNTS, changes_of, on_device
from quire.backends.torch.sampling.randoms import UNITS
from quire.backends.torch.sampling.rows import sample_rows
from quire.backends.torch.triton import draw, logit_changes, logprobs
from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.tiles import Tile
from quire.sampling import reference
from quire.sampling.state import SampleRow, SamplingState
from quire.sampling_params import SamplingParams
from tests.native.sampled_rows import expect_same_logprobs
from tests.native.sampled_rows import row as row_of
from tests.torch.drawn_worlds import live
from tests.triton.interpreted_models import Interpreted

GPU = Launcher("sm_80", {("sampling", ""): Tile(1, 256)})
ONE = 1 << UNITS
NONE = np.zeros(0, np.int32)


def rows_of(params: list[SamplingParams], draws: list[float]) -> draw.DrawRules:
    def column(values: list[float], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype)

    return draw.DrawRules(
        column([p.temperature for p in params], torch.float32),
        column([p.min_p for p in params], torch.float32),
        column([p.top_k for p in params], torch.int32),
        column([round(p.top_p * ONE) for p in params], torch.int32),
        column([round(u * ONE) for u in draws], torch.int32),
    )


def drawn(logits: np.ndarray, params: list[SamplingParams], draws: list[float]) -> list[int]:
    out = torch.full([len(logits)], -7, dtype=torch.int32)
    draw.draw_tokens(GPU, torch.from_numpy(logits), rows_of(params, draws), out)
    return out.tolist()


def expected(logits: np.ndarray, params: list[SamplingParams], draws: list[float]) -> list[int]:
    tokens = []
    for row, p, u in zip(logits, params, draws, strict=True):
        if not (row > -np.inf).any():
            tokens.append(-1)
        elif p.temperature == 0:
            tokens.append(int(np.nanargmax(row)))
        else:
            weights = reference.softmax_weights(row, p.temperature)
            kept = reference.truncate(row, weights, p.min_p, p.top_k, p.top_p)
            tokens.append(reference.draw(np.where(kept, weights, 0.0), u))
    return tokens


FILTERS = {
    "none": {},
    "greedy": {"temperature": 0.0},
    "cold": {"temperature": 0.01},
    "hot": {"temperature": 50.0},
    "top_k": {"top_k": 7},
    "top_k 1": {"top_k": 1},
    "top_k of all": {"top_k": 5000},
    "top_p": {"top_p": 0.75},
    "little top_p": {"top_p": 1e-6},
    "min_p": {"min_p": 0.05},
    "all": {"top_k": 40, "top_p": 0.5, "min_p": 0.01, "temperature": 0.75},
}


@pytest.mark.parametrize(
    ("filters", "kind"),
    [(filters, kind) for filters in FILTERS for kind in ("ties", "strange")]
    + [(filters, kind) for filters in ("none", "all") for kind in ("normal", "equal", "peaked")],
)
def test_draws(filters: str, kind: str) -> None:
    """Ties are kept by id; NaN weighs nothing, and infinite logits count as the largest number."""
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((5, 300)).astype(np.float32) * 3
    if kind == "ties":
        logits = np.round(logits)
    elif kind == "equal":
        logits[:] = -0.0
    elif kind == "peaked":
        logits[:, 100] = 90
    elif kind == "strange":
        logits[0, ::2] = np.nan
        logits[1, :200] = -np.inf
        logits[2, [5, 290]] = np.inf
        logits[3, 1:] = -np.inf
        logits[4] = -np.inf
        logits[4, 2] = np.nan
    draws = [0.05, 0.3, 0.9, 0.6, 1 - 2**-24]
    if kind != "strange":
        logits, draws = logits[:2], draws[1:3]
    params = [SamplingParams(**FILTERS[filters])] * len(logits)
    draws = [round(u * ONE) / ONE for u in draws]
    assert drawn(logits, params, draws) == expected(logits, params, draws)


def test_draws_have_the_right_shares() -> None:
    """Every token of a small row is drawn for its share of the numbers."""
    logits = np.log(np.array([1, 2, 3, 2, 8], np.float32))
    params = [SamplingParams(top_k=4)] * 15
    draws = [(i + 0.5) / 15 for i in range(15)]
    counts = np.bincount(drawn(np.tile(logits, (15, 1)), params, draws), minlength=5)
    weights = np.array([0, 2, 3, 2, 8])
    assert counts.tolist() == weights.tolist()


def test_rows_alone() -> None:
    """Neither the other rows nor the tile change a draw."""
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((4, 700)).astype(np.float32)
    params = [
        SamplingParams(top_p=0.9),
        SamplingParams(top_k=9),
        SamplingParams(),
        SamplingParams(),
    ]
    draws = [0.1, 0.2, 0.3, 0.4]
    found = drawn(logits, params, draws)
    for row in range(4):
        out = torch.empty(1, dtype=torch.int32)
        wide = Launcher("sm_80", {("sampling", ""): Tile(1, 1024)})
        one = torch.from_numpy(logits[row : row + 1])
        draw.draw_tokens(wide, one, rows_of(params[row : row + 1], draws[row : row + 1]), out)
        assert out.tolist() == found[row : row + 1]


def test_masks_and_penalties() -> None:
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((3, 300)).astype(np.float32)
    prompt, output = [5, 7, 7, 200, 999], [7, 8, 8, 8, 299]
    params = SamplingParams(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=-0.25)
    state = SamplingState(prompt, params, 0)
    mask = rng.integers(-(2**31), 2**31, 10, np.int64).astype(np.int32)
    plain = SamplingState(prompt, SamplingParams(), 0)
    plain.mask = mask
    rows = [
        SampleRow(state, np.array(output, np.int32)),
        SampleRow(plain, NONE),
        SampleRow(SamplingState(prompt, SamplingParams(), 0), NONE),
    ]
    wanted = np.stack(
        [reference.adjust_logits(each, row) for each, row in zip(logits, rows, strict=True)]
    )
    tokens = torch.tensor([prompt + output + [-1], [1] * 11], dtype=torch.int32)
    counts, prompts = torch.zeros(2, 300, dtype=torch.int32), torch.tensor([len(prompt), 0])
    at = torch.tensor([1, 0], dtype=torch.int32)  # the second is nobody's
    logit_changes.count_tokens(GPU, counts, at, tokens, prompts.int())
    assert not counts[0].any()
    changes = changes_of(rows, 300)
    changes.columns[COUNTS, 0] = 1
    given, found = torch.from_numpy(logits), torch.empty(3, 300)
    logit_changes.adjust_logits(GPU, given, on_device(changes, counts, given), found)
    assert np.array_equal(found.numpy(), wanted)


def test_log_probabilities() -> None:
    rng = np.random.default_rng(4)
    logits = np.round(rng.standard_normal((3, 300)) * 4).astype(np.float32)  # with ties
    logits[1, 20] = 80
    logits[2, 3:] = np.nan
    chosen = [250, 3, 1]
    ids, values = torch.empty(3, 6, dtype=torch.int32), torch.empty(3, 6)
    ranks = torch.empty(3, dtype=torch.int32)
    tokens = torch.tensor(chosen, dtype=torch.int32)
    told = torch.tensor([6] * 3, dtype=torch.int32)
    logprobs.log_probabilities(GPU, torch.from_numpy(logits), tokens, told, ids, values, ranks)
    for row in range(3):
        one = logits[row]
        ranked = np.argsort(-one, kind="stable")
        numbers = ranked[~np.isnan(one[ranked])][:5].tolist()
        padding = [-1] * (5 - len(numbers))
        assert ids[row].tolist() == [chosen[row], *numbers, *padding]
        assert ranks[row] == 1 + ranked.tolist().index(chosen[row])
        exact = reference.log_probabilities(one)[[chosen[row], *numbers]]
        np.testing.assert_allclose(values[row, : len(exact)].numpy(), exact, rtol=2e-6, atol=2e-6)


def test_skips_rows_without_a_token_or_a_question() -> None:
    """And of others no more is told than they want."""
    ids, values = torch.full((3, 3), -5, dtype=torch.int32), torch.empty(3, 3)
    tokens, told = torch.tensor([[-1, 2, 2], [3, 0, 2]], dtype=torch.int32)
    logprobs.log_probabilities(GPU, torch.zeros(3, 9), tokens, told, ids, values, tokens.clone())
    assert ids.tolist() == [[-5] * 3, [-5] * 3, [2, 0, -5]]


def test_whole_sampler() -> None:
    """Rows with parameters of all kinds in one batch, as the torch backend samples them."""
    rng = np.random.default_rng(5)
    logits = (rng.standard_normal((9, 120)) * 2).astype(np.float32)
    penalties = {"repetition_penalty": 1.4, "presence_penalty": 0.5, "frequency_penalty": 0.25}
    drawn_rows = [
        row_of(temperature=0.0, logprobs=3),
        row_of(temperature=0.0, output=[5, 7, 7], prompt=[1, 5], **penalties),
        row_of(temperature=0.9, output=[5, 7, 7], seed=2, top_p=0.9, frequency_penalty=1.0),
        row_of(temperature=0.8, top_k=5, logit_bias={3: 4.0, 9: -100.0}, logprobs=0),
        row_of(temperature=1.2, min_p=0.1, allowed_token_ids=list(range(20))),
        row_of(temperature=1.0, output=[1], forbidden=[2], min_tokens=3),
        row_of(temperature=1.0, bad_words=[[4, 6]], output=[4], top_k=50),
        row_of(prompt=[1, 17], target=17, prompt_logprobs=2),
    ]
    guided = row_of(temperature=0.0)
    guided.state.mask = np.array([0, 1 << 5, 0, 0], np.int32)
    made = [*drawn_rows, guided]
    given = torch.from_numpy(logits.copy())
    found, expected = sample_rows(given, made, Interpreted()), reference.sample_rows(logits, made)
    assert found.tokens == expected.tokens and found.tokens[-1] == 37
    np.testing.assert_array_equal(given.numpy(), logits)
    assert found.logprobs.keys() == expected.logprobs.keys()
    for place, theirs in expected.logprobs.items():
        expect_same_logprobs(found.logprobs[place], theirs)


def test_what_captured_steps_draw() -> None:
    """As in tests/torch/test_drawn_rules.py."""
    assert live(Interpreted(), 1, 15) > 5
