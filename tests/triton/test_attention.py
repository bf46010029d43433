"""Paged attention is the reference op, whatever the tile, the split, the batch and the cache."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from quire.backends.torch.kv_codes import to_codes
from quire.backends.torch.triton.attention import (
    AttentionInputs,
    AttentionRules,
    CachedHeads,
    attend,
    num_chunks,
    query_tiles,
    tokens_per_tile,
)
from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.tiles import Tile
from quire.models.attention_rules import QueryRule
from quire.ops.attention import PagedAttention
from quire.ops.batch import Batch
from quire.ops.kv_cache import KvCache, KvLayerShape, KvLayout
from quire.ops.op import Environment

SIZES = ("64", "128", "256", "64, int4")
SMALL = Launcher("sm_80", {("attention", each): Tile(16, 32) for each in SIZES})
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
STEPS = {"float32": 2**-20, "float16": 2**-10, "bfloat16": 2**-7}  # relative, with some room


class World:
    """Requests of (known, new) tokens over one paged cache, in numpy and in torch."""

    def __init__(self, op: PagedAttention, lengths: list[tuple[int, int]], format: str, seed=0):
        self.op, self.format, self.lengths = op, format, lengths
        self.rng = np.random.default_rng(seed)
        self.size = 16
        needed = [-(-(known + new) // self.size) for known, new in lengths]
        self.blocks = sum(needed) + 1
        order = 1 + self.rng.permutation(self.blocks - 1)
        self.tables = np.zeros((len(lengths), max(needed)), np.int32)
        for row, count, end in zip(self.tables, needed, np.cumsum(needed), strict=True):
            row[:count] = order[end - count : end]
        shape = (self.blocks, self.size, op.kv_heads, op.head_dim)
        self.keys, self.values = (
            self.rounded(self.rng.standard_normal(shape).astype(np.float32)) for _ in range(2)
        )

    def rounded(self, x: np.ndarray) -> np.ndarray:
        if self.format not in DTYPES:
            return x
        return torch.from_numpy(x).to(DTYPES[self.format]).float().numpy()

    def batch(self, requests: list[int], cut: int | None = None) -> Batch:
        """These requests' new tokens; cut: not more than so many of them."""
        spans = [(self.lengths[r][0], min(self.lengths[r][1], cut or 10**9)) for r in requests]
        counts = np.array([new for _, new in spans])
        positions = np.concatenate([np.arange(k, k + n) for k, n in spans]).astype(np.int32)
        none = np.zeros(0, np.int32)
        return Batch(
            positions, positions, none,
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int32), self.tables[requests],
            none, (),
        )  # fmt: skip

    def cached(self) -> CachedHeads:
        if self.format in DTYPES:
            dtype = DTYPES[self.format]
            return CachedHeads(
                torch.from_numpy(self.keys).to(dtype), torch.from_numpy(self.values).to(dtype)
            )
        codes, facts = zip(
            *(to_codes(torch.from_numpy(x), self.format) for x in (self.keys, self.values)),
            strict=True,
        )
        if self.format == "int8":
            codes = tuple(each.view(torch.int8) for each in codes)
        lows = facts if self.format == "int4" else ()
        return CachedHeads(*codes, *(each[0] for each in facts), *(each[1] for each in lows))

    def expected(self, queries: np.ndarray, batch: Batch, weights=None) -> np.ndarray:
        layout = KvLayout(
            (KvLayerShape(self.op.kv_heads, self.op.head_dim),), self.size, self.format
        )
        cache = KvCache(layout, self.blocks)
        for block in range(self.blocks):
            for offset in range(self.size):
                cache.write(0, block, offset, self.keys[block, offset], self.values[block, offset])
        env = Environment(batch, cache, weights or {})
        return self.op.reference(env, queries.reshape(len(queries), -1))[0]

    def inputs(self, batch: Batch, tokens: int, factors: list[float] | None) -> AttentionInputs:
        return AttentionInputs(
            torch.from_numpy(batch.positions.copy()),
            torch.from_numpy(batch.query_start),
            torch.from_numpy(batch.block_tables.copy()),
            torch.from_numpy(query_tiles(batch.query_start, tokens)),
            None if factors is None else torch.tensor(factors, dtype=torch.float32),
        )

    def computed(
        self, queries: np.ndarray, batch: Batch, dtype: torch.dtype, split: bool,
        gpu: Launcher = SMALL, sinks=None, programs: int = 0,
    ) -> np.ndarray:  # fmt: skip
        op = self.op
        is_int4 = self.format == "int4"
        tokens = tokens_per_tile(gpu, op.heads, op.kv_heads, op.head_dim, is_int4)
        rule = op.query_rule
        factors = None if rule is None else [rule.at(int(p)) for p in batch.positions]
        step = self.inputs(batch, tokens, factors)
        split = split and not op.bidirectional
        chunks = num_chunks(0, int(batch.positions.max())) if split else 0
        step = replace(step, chunks=chunks, programs=programs)
        rules = AttentionRules(
            op.scale, op.window or 0, op.chunk or 0, op.softcap or 0.0, op.bidirectional,
            torch.tensor(op.slopes) if op.slopes else None, sinks,
        )  # fmt: skip
        q = torch.from_numpy(queries).to(dtype)
        out = torch.full(q.shape, 7.0)
        attend(gpu, q, self.cached(), step, rules, out)
        return out.numpy().reshape(len(queries), -1)

    def queries(self, batch: Batch, dtype: torch.dtype) -> np.ndarray:
        x = self.rng.standard_normal((batch.num_tokens, self.op.heads, self.op.head_dim))
        return torch.from_numpy(x).to(dtype).float().numpy()


def plain(heads: int = 4, kv_heads: int = 2, head_dim: int = 64, **rules) -> PagedAttention:
    return PagedAttention(0, heads, kv_heads, head_dim, head_dim**-0.5, **rules)


CASES = {
    "one token": (plain(), [(0, 1)]),
    "a token behind three chunks": (plain(), [(530, 1)]),
    "prompts and tokens": (plain(), [(40, 1), (0, 19), (255, 3), (300, 1)]),
    "head size 80": (plain(4, 2, 80), [(10, 5)]),
    "head size 96": (plain(2, 2, 96), [(31, 4)]),
    "head size 128, seven to one": (plain(7, 1, 128), [(60, 6)]),
    "head size 256": (plain(2, 1, 256), [(33, 2)]),
    "more heads than rows": (plain(20, 1, 64), [(30, 3)]),
    "window": (plain(window=37), [(290, 20), (0, 40)]),
    "chunk": (plain(chunk=64), [(120, 20), (300, 1)]),
    "softcap": (plain(softcap=3.0), [(70, 9)]),
    "slopes": (plain(slopes=(0.5, 0.25, 0.125, 0.0625)), [(270, 9)]),
    "query rule": (plain(query_rule=QueryRule("log", 16)), [(60, 9)]),
    "bidirectional": (plain(bidirectional=True), [(0, 23), (0, 9)]),
}


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
@pytest.mark.parametrize("case", CASES)
def test_is_the_reference(case: str, split: bool) -> None:
    op, lengths = CASES[case]
    world = World(op, lengths, "float16")
    batch = world.batch(list(range(len(lengths))))
    queries = world.queries(batch, torch.float16)
    found = world.computed(queries, batch, torch.float16, split)
    assert np.abs(found - world.expected(queries, batch)).max() < STEPS["float16"] * 4


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("format", ["float32", "float16", "bfloat16", "int8", "fp8", "int4"])
def test_formats(format: str, dtype: str) -> None:
    world = World(plain(), [(270, 3), (5, 1)], format)
    batch = world.batch([0, 1])
    queries = world.queries(batch, DTYPES[dtype])
    found = world.computed(queries, batch, DTYPES[dtype], True)
    assert np.abs(found - world.expected(queries, batch)).max() < STEPS[dtype] * 4


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
def test_sinks(split: bool) -> None:
    world = World(plain(sinks="sinks"), [(270, 3), (0, 1)], "float16")
    batch = world.batch([0, 1])
    queries = world.queries(batch, torch.float16)
    sinks = np.array([1.0, -3.0, 9.0, 0.0], np.float32)
    found = world.computed(queries, batch, torch.float16, split, sinks=torch.from_numpy(sinks))
    expected = world.expected(queries, batch, {"sinks": sinks})
    assert np.abs(found - expected).max() < STEPS["float16"] * 4


@pytest.mark.parametrize("window", [None, 45])
@pytest.mark.parametrize("format", ["float16", "int8"])
def test_bits_hang_on_nothing_else(format: str, window: int | None) -> None:
    """The same bits alone and in a batch, cut in steps, split or not, in every place of a tile."""
    lengths = [(250, 9), (300, 1), (0, 17)]
    world = World(plain(6, 2, window=window), lengths, format)
    batch = world.batch([0, 1, 2])
    queries = world.queries(batch, torch.float16)
    whole = world.computed(queries, batch, torch.float16, False)
    assert np.array_equal(whole, world.computed(queries, batch, torch.float16, True))
    starts = batch.query_start
    for request, (known, new) in enumerate(lengths):
        mine = slice(starts[request], starts[request + 1])
        alone = world.computed(
            queries[mine], world.batch([request]), torch.float16, request % 2 > 0
        )
        assert np.array_equal(whole[mine], alone)
        for done in range(0, new, 7):
            world.lengths = [*lengths]
            world.lengths[request] = (known + done, min(7, new - done))
            part = slice(mine.start + done, min(mine.start + done + 7, mine.stop))
            step = world.computed(queries[part], world.batch([request]), torch.float16, False)
            assert np.array_equal(whole[part], step)
        world.lengths = lengths


@pytest.mark.parametrize(
    ("what", "bad"), [("keys", np.nan), ("values", np.nan), ("values", np.inf)]
)
@pytest.mark.parametrize("where", ["behind", "before", "between"])
def test_what_is_not_seen_changes_nothing(where: str, what: str, bad: float) -> None:
    """Cells behind the last position, before a window, and of later tokens of the same tile."""
    world = World(plain(window=20), [(40, 6)], "float16")
    batch = world.batch([0])
    queries = world.queries(batch, torch.float16)
    clean = world.computed(queries, batch, torch.float16, False)
    batch = replace(batch, block_tables=batch.block_tables.copy())
    batch.block_tables[0, 0] = 2**30  # of blocks before the window the table says nothing
    position = {"behind": 46, "before": 20, "between": 44}[where]
    block = world.tables[0, position // 16]
    stored = getattr(world, what)
    stored[block, position % 16] = stored[0] = bad  # block 0 is no request's
    spoilt = world.expected(queries, replace(batch, block_tables=world.tables))
    assert not np.isfinite(spoilt[4:]).any() or where != "between"
    for split in (False, True):
        found = world.computed(queries, batch, torch.float16, split)
        sees = 44 - 40 if where == "between" else 6
        assert np.array_equal(found[:sees], clean[:sees])
        assert np.array_equal(np.isinf(found[sees:]), np.isinf(spoilt[sees:]))
        assert np.array_equal(np.isnan(found[sees:]), np.isnan(spoilt[sees:]))


def test_large_scores() -> None:
    """Scores of thousands, whose exponentials no format holds."""
    world = World(plain(), [(300, 4)], "bfloat16")
    batch = world.batch([0])
    queries = world.queries(batch, torch.bfloat16) * 2048
    for split in (False, True):
        found = world.computed(queries, batch, torch.bfloat16, split)
        assert np.abs(found - world.expected(queries, batch)).max() < 0.1


def test_any_number_of_programs_shares_the_chunks() -> None:
    """And partial results may stand in as many places as a tile sees chunks, and no more."""
    world = World(plain(window=600), [(1500, 1), (3, 1), (900, 2)], "float16")
    batch = world.batch([0, 1, 2])
    queries = world.queries(batch, torch.float16)
    whole = world.computed(queries, batch, torch.float16, False)
    for programs in (1, 2, 3, 99):
        found = world.computed(queries, batch, torch.float16, True, programs=programs)
        assert np.array_equal(whole, found)
    inputs = world.inputs(batch, 1, None)
    step = replace(inputs, chunks=4, programs=2)  # chunks 3 to 5 and 1 to 3
    out = torch.full(queries.shape, 7.0)
    rules = AttentionRules(world.op.scale, 600)
    attend(SMALL, torch.from_numpy(queries).half(), world.cached(), step, rules, out)
    assert np.array_equal(out.numpy().reshape(len(out), -1), whole)


@pytest.mark.parametrize("chunks", [0, 2])
def test_tokens_of_nobody_read_nothing(chunks: int) -> None:
    """A captured step is padded with them; their tables lead nowhere."""
    world = World(plain(), [(300, 1), (20, 1)], "float16")
    batch = world.batch([0, 1])
    queries = torch.from_numpy(world.queries(batch, torch.float16)).half()
    inputs = replace(world.inputs(batch, 1, None), chunks=chunks)
    rules, outs = AttentionRules(world.op.scale), torch.full((2, *queries.shape), 7.0)
    attend(SMALL, queries, world.cached(), inputs, rules, outs[0])
    inputs.positions[1], inputs.block_tables[1] = -1, 2**30
    attend(SMALL, queries, world.cached(), inputs, rules, outs[1])
    assert torch.equal(outs[1, 0], outs[0, 0]) and outs[0, 1].all() and not outs[1, 1].any()


def test_padded_tiles_are_skipped() -> None:
    world = World(plain(), [(20, 1)], "float16")
    batch = world.batch([0])
    queries = torch.from_numpy(world.queries(batch, torch.float16)).half()
    step = AttentionInputs(
        torch.from_numpy(batch.positions), torch.from_numpy(batch.query_start),
        torch.from_numpy(batch.block_tables), torch.tensor([[-1, 0], [0, 0]], dtype=torch.int32),
    )  # fmt: skip
    out = torch.full(queries.shape, 7.0)
    rules = AttentionRules(world.op.scale)
    attend(SMALL, queries, world.cached(), step, rules, out)
    assert not (out == 7).any()
    out.fill_(7)
    attend(SMALL, queries, world.cached(), replace(step, tiles=step.tiles[:1]), rules, out)
    assert (out == 7).all()
