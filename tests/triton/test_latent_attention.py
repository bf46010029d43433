"""Latent attention's kernels are the reference ops, and a request's bits hang on nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from quire.backends.torch.ops.latent import latent_write
from quire.models.attention_rules import QueryRule
from quire.ops.batch import Batch
from quire.ops.kv_cache import KvLayout
from quire.ops.latent import LatentAttention, LatentQueries, LatentValues, LatentWrite
from quire.ops.latent_cache import LATENT_FORMATS, LatentLayerShape
from tests.torch.one_op import Both
from tests.triton.interpreted_models import Interpreted

pytestmark = pytest.mark.oracle
torch.set_num_threads(1)

STEP = "quire.backends.torch.triton.bodies.attention_step"
Span = tuple[int, int]
KNOWN = {"float32": 5e-6, "float16": 2e-3, "bfloat16": 2e-2, "int8": 2e-2}
"""Format of the cache → what rounding of queries and weights to it may change."""


def batch_of(spans: Sequence[Span], requests: Sequence[int] = ()) -> Batch:
    """The positions first .. end - 1 of requests, each with blocks of its own in no order."""
    tables = np.random.default_rng(7).permutation(96).reshape(4, 24).astype(np.int32)
    positions = np.concatenate([np.arange(*span) for span in spans]).astype(np.int32)
    starts = np.cumsum([0, *(end - first for first, end in spans)]).astype(np.int32)
    chosen = list(requests) or list(range(len(spans)))
    none = np.zeros(0, np.int32)
    return Batch(positions, positions, none, starts, tables[chosen], none, ())


class World:
    """Requests whose latents are cached, and queries of all their tokens."""

    def __init__(
        self, op: LatentAttention, lengths: Sequence[int], format: str, spoil: float | None = None
    ) -> None:
        self.op, self.lengths = op, lengths
        random = np.random.default_rng(3)
        layout = KvLayout((LatentLayerShape(op.rank, op.rope_dims),), 16, format)
        batch = batch_of([(0, n) for n in lengths])
        self.both = Both(layout, batch, 96, device=Interpreted())
        tokens = sum(lengths)
        latents, keys, angles, queries = (
            random.standard_normal((tokens, width)).astype(np.float32)
            for width in (
                op.rank, op.rope_dims, op.rope_dims, op.heads * (op.rank + op.rope_dims),
            )
        )  # fmt: skip
        self.starts = np.cumsum([0, *lengths])
        if spoil is not None:  # of request 0, at position 20
            latents[20, 1] = spoil
        write = LatentWrite(0, op.rope_dims, "interleaved")
        rows = (torch.from_numpy(each) for each in (latents, keys, angles))
        latent_write(self.both.step, write, *rows)
        self.both.reference(write, latents, keys, angles)
        self.queries = queries

    def attended(self, spans: dict[int, Span]) -> list[np.ndarray]:
        """What these tokens of these requests get, in one step."""
        self.both.at(batch_of(list(spans.values()), list(spans)))
        (found,) = self.both.torch(self.op, self._queries(spans))
        return np.split(found, np.cumsum([end - first for first, end in spans.values()])[:-1])

    def expected(self, spans: dict[int, Span]) -> np.ndarray:
        self.both.at(batch_of(list(spans.values()), list(spans)))
        with np.errstate(invalid="ignore"):
            return self.both.reference(self.op, self._queries(spans))[0]

    def _queries(self, spans: dict[int, Span]) -> np.ndarray:
        return np.concatenate(
            [self.queries[self.starts[r] + a : self.starts[r] + b] for r, (a, b) in spans.items()]
        )


CASES = {
    "a few numbers": (LatentAttention(0, 3, 12, 4, 0.3), {0: (0, 21), 1: (16, 17)}),
    "more heads than rows": (LatentAttention(0, 37, 20, 6, 0.2), {0: (18, 20), 1: (0, 3)}),
    "DeepSeek's size": (LatentAttention(0, 20, 512, 64, 0.05), {0: (17, 20), 1: (18, 19)}),
    "queries that grow": (
        LatentAttention(0, 4, 32, 8, 0.3, QueryRule("log", 16)), {0: (10, 21), 1: (18, 19)}
    ),
}  # fmt: skip


@pytest.mark.parametrize("format", LATENT_FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_is_the_reference(case: str, format: str) -> None:
    op, spans = CASES[case]
    world = World(op, (21, 19), format)
    found = np.concatenate(world.attended(spans))
    np.testing.assert_allclose(found, world.expected(spans), atol=KNOWN[format])


@pytest.mark.parametrize("format", ["float16", "int8"])
def test_bits_hang_on_nothing_else(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, beside others, in pieces, and whoever merges the chunks of keys."""
    world = World(LatentAttention(0, 5, 24, 8, 0.2), (262, 9, 259), format)
    alone = world.attended({0: (254, 262)})[0]
    together = world.attended({1: (0, 9), 0: (254, 262), 2: (258, 259)})[1]
    np.testing.assert_array_equal(together, alone)
    pieces = [world.attended({2: (20, 22), 0: span})[1] for span in ((254, 257), (257, 258))]
    np.testing.assert_array_equal(np.concatenate(pieces), alone[:4])
    monkeypatch.setattr(f"{STEP}.PARTIAL_BYTES", 0)
    np.testing.assert_array_equal(world.attended({0: (254, 262)})[0], alone)
    assert np.abs(alone - world.expected({0: (254, 262)})).max() < KNOWN[format]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("format", ["float32", "bfloat16", "int8"])
def test_what_is_not_seen_changes_nothing(format: str, bad: float) -> None:
    op, spans = LatentAttention(0, 3, 12, 4, 0.3), {0: (12, 30), 1: (0, 19)}
    clean = World(op, (30, 19), format).attended(spans)
    found = World(op, (30, 19), format, bad).attended(spans)
    np.testing.assert_array_equal(found[0][:8], clean[0][:8])
    assert np.isnan(found[0][8:]).all()
    np.testing.assert_array_equal(found[1], clean[1])


def test_large_scores() -> None:
    """Of thousands, whose exponentials no format holds."""
    world = World(LatentAttention(0, 4, 16, 8, 4096.0), (40,), "float32")
    np.testing.assert_allclose(
        world.attended({0: (30, 40)})[0], world.expected({0: (30, 40)}), atol=1e-3
    )


@pytest.mark.parametrize("format", LATENT_FORMATS)
@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_stores_what_torch_stores(format: str, pairing: str) -> None:
    """Rows that are zeros, large, or no numbers among them."""
    rank, rope = 12, 6
    layout = KvLayout((LatentLayerShape(rank, rope),), 16, format)
    batch, random = batch_of([(3, 25), (0, 7)]), np.random.default_rng(0)
    latents, keys, angles = (random.standard_normal((29, n)).astype(np.float32) for n in (12, 6, 6))
    latents[2], latents[3], latents[4, 5], keys[5, 0] = 0, latents[3] * 1e4, np.nan, np.inf
    op = LatentWrite(0, rope, pairing)  # type: ignore[arg-type]
    arenas = []
    for both in (Both(layout, batch, 96), Both(layout, batch, 96, device=Interpreted())):
        both.torch(op, latents, keys, angles)
        arenas.append(both.step.kv_cache.blocks[0])
    assert torch.equal(*arenas)


@pytest.mark.parametrize("rows", [1, 5, 20])
@pytest.mark.parametrize(("dims", "rank"), [(16, 32), (7, 70), (128, 12)])
def test_projections(rows: int, dims: int, rank: int) -> None:
    """Through the matrices of keys and of values; a row alone gives the same bits."""
    heads, values, rope, random = 3, 11, 6, np.random.default_rng(0)
    weight = random.standard_normal((heads * (dims + values), rank)).astype(np.float32) / rank**0.5
    layout = KvLayout((LatentLayerShape(rank, rope),), 16, "float32")
    both = Both(layout, batch_of([(0, rows)]), 96, {"w": weight}, device=Interpreted())
    widths = (heads * (dims + rope), rope, heads * rank)
    queries, angles, attended = (
        random.standard_normal((rows, width)).astype(np.float32) for width in widths
    )
    calls = (
        (LatentQueries("w", heads, rank, values, rope, "half"), (queries, angles)),
        (LatentValues("w", heads, values), (attended,)),
    )
    for op, inputs in calls:
        (found,), (expected,) = both.torch(op, *inputs), both.reference(op, *inputs)
        np.testing.assert_allclose(found, expected, atol=2e-5, rtol=1e-5)
        (last,) = both.torch(op, *(each[-1:] for each in inputs))
        np.testing.assert_array_equal(found[-1:], last)
