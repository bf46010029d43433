"""The memory budget: it starts whenever any setting fits, and keeps to what the user set."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from quire.config import EngineConfig
from quire.errors import CapacityError, ConfigError
from quire.ops.kv_cache import KvLayerShape, KvLayout
from quire.runtime.memory_plan import DEFAULT_KV_BYTES, SMALLEST_STEP, MemoryPlan, plan_memory

LAYOUT = KvLayout((KvLayerShape(2, 4),), 16, "float32")  # 1 KiB a block
KIB = 1024
GIB = 1024**3


def plan(
    free: int,
    weights: int = 0,
    length: int = 1024,
    per_token: int = 0,
    layout: KvLayout = LAYOUT,
    window: int | None = None,
    state_bytes: int = 0,
    **options: Any,
) -> MemoryPlan:
    config = EngineConfig("demo", **{"memory_utilization": 1.0, **options})
    activations = lambda tokens: tokens * per_token  # noqa: E731
    return plan_memory(config, free, weights, length, layout, activations, window, state_bytes)


# --- what it chooses


def test_what_libraries_take_is_kept_free_and_said() -> None:
    config = EngineConfig("demo", memory_utilization=1.0)

    def planned(reserved: int) -> MemoryPlan:
        return plan_memory(
            config, 100 * KIB, 0, 10**6, LAYOUT, lambda n: 0, reserved_bytes=reserved, cures="pray"
        )

    assert planned(0).num_blocks - planned(30 * KIB).num_blocks == 30
    assert "libraries 0.0 MiB" in planned(30 * KIB).lines()[0]
    assert "libraries" not in planned(0).lines()[0]
    with pytest.raises(CapacityError, match=r"libraries 0\.1 MiB, .*; pray$"):
        planned(100 * KIB)


def test_captured_steps_get_what_they_take_or_a_share_of_what_is_spare() -> None:
    config = EngineConfig("demo", memory_utilization=1.0, max_model_len=160)

    def planned(graphs: int, free: int = 100 * KIB) -> MemoryPlan:
        return plan_memory(
            config, free, 0, 10**6, LAYOUT, lambda n: 0, graph_bytes=lambda tokens: graphs
        )

    assert planned(4 * KIB).graphs == 4 * KIB and planned(4 * KIB).num_blocks == 96
    assert planned(40 * KIB).graphs == 90 * KIB // 8  # ten blocks are needed
    assert "captured steps 0.0 MiB" in planned(4 * KIB).lines()[0]
    assert planned(40 * KIB, 10 * KIB).graphs == 0 and planned(1, 10 * KIB).num_blocks == 10
    with pytest.raises(CapacityError):
        planned(40 * KIB, 9 * KIB)


def test_every_request_at_full_length_is_all_that_is_useful() -> None:
    found = plan(GIB, weights=KIB, length=100, max_num_seqs=4)
    assert found.num_blocks == 4 * 7  # 7 blocks hold 100 tokens
    assert (found.max_model_len, found.kv_tokens) == (100, 28 * 16)
    assert (found.weights, found.kv_cache) == (KIB, 28 * KIB)
    assert not found.notes


def test_states_for_every_request_and_as_many_for_prefixes() -> None:
    found = plan(GIB, length=100, max_num_seqs=4, state_bytes=KIB)
    assert (found.num_state_records, found.max_num_seqs) == (16, 4)
    assert found.num_blocks == 4 * 7
    assert any("16 records of 0.0 MiB, for 4 requests" in line for line in found.lines())


def test_fewer_requests_at_once_where_their_states_do_not_fit() -> None:
    found = plan(100 * KIB, length=100, max_num_seqs=8, state_bytes=10 * KIB)
    assert (found.num_state_records, found.max_num_seqs) == (5, 2)
    assert found.kv_cache + found.state_records <= 100 * KIB
    assert any("requests at once cut from 8 to 2" in note for note in found.notes)


def test_two_states_are_the_least() -> None:
    with pytest.raises(CapacityError, match="two records of recurrent state"):
        plan(100 * KIB, state_bytes=30 * KIB)


def test_no_more_than_the_default_is_taken_unasked() -> None:
    found = plan(64 * GIB, length=100_000, max_num_seqs=10_000)
    assert found.kv_cache == DEFAULT_KV_BYTES


def test_one_request_at_full_length_may_exceed_the_default() -> None:
    wide = KvLayout((KvLayerShape(8, 128),) * 32, 16, "float32")
    found = plan(64 * GIB, length=32 * KIB, layout=wide)
    assert found.kv_cache > DEFAULT_KV_BYTES
    assert found.max_model_len == 32 * KIB


def test_int8_takes_a_byte_a_number_and_a_float_a_vector() -> None:
    layers = (KvLayerShape(2, 64), KvLayerShape(3, 5))
    layout = KvLayout(layers, 16, "int8")
    assert layout.block_bytes == (2 * 16 * (64 + 64 + 8), 3 * 16 * (6 + 5 + 8))
    assert layout.bytes_of(0, 128) == 136
    found = plan(GIB, length=1600, layout=layout, max_num_seqs=1)
    assert found.kv_cache == 100 * sum(layout.block_bytes)
    assert any("in int8" in line for line in found.lines())


def test_a_window_needs_itself_and_one_step() -> None:
    """64 + 128 - 1 positions can touch 13 blocks, however long the request."""
    found = plan(13 * KIB, length=100_000, window=64, max_num_batched_tokens=128)
    assert (found.num_blocks, found.max_model_len) == (13, 100_000)
    short = plan(12 * KIB, length=100_000, window=64, max_num_batched_tokens=128)
    assert (short.num_blocks, short.max_model_len) == (12, 12 * 16)
    assert plan(GIB, length=100, window=4096, max_num_seqs=4).num_blocks == 4 * 7


def test_the_share_of_free_memory() -> None:
    found = plan(100 * KIB, length=10_000, memory_utilization=0.5)
    assert (found.free, found.usable, found.num_blocks) == (100 * KIB, 50 * KIB, 50)


def test_the_model_length_is_cut_to_what_the_cache_holds() -> None:
    found = plan(10 * KIB, weights=KIB)
    assert (found.num_blocks, found.max_model_len) == (9, 9 * 16)
    assert any("cut from 1024 to 144 tokens" in note for note in found.notes)


def test_a_step_is_made_smaller_first() -> None:
    found = plan(200 * KIB, per_token=KIB, max_num_batched_tokens=1024, length=16)
    assert found.max_num_batched_tokens == 64
    assert any("cut from 1024 to 64 tokens" in note for note in found.notes)
    assert found.activations == 64 * KIB


def test_a_step_is_not_made_smaller_than_it_was_asked_or_than_the_least() -> None:
    assert plan(9 * KIB, per_token=KIB, max_num_batched_tokens=8).max_num_batched_tokens == 8
    found = plan((SMALLEST_STEP + 1) * KIB, per_token=KIB)
    assert (found.max_num_batched_tokens, found.num_blocks) == (SMALLEST_STEP, 1)


def test_the_lines_for_people() -> None:
    found = plan(100 * 1024**2, weights=40 * 1024**2, length=10_000_000)
    text = "\n".join(found.lines())
    assert "100 MiB usable of 100 MiB free = weights 40 MiB" in text
    assert "+ KV cache 60 MiB + 0.0 MiB unused" in text
    assert "blocks of 16 tokens" in text and "cut from" in text


# --- what the user set


def test_a_length_that_the_user_set_is_kept() -> None:
    assert plan(GIB, length=1024, max_model_len=64, max_num_seqs=2).max_model_len == 64
    with pytest.raises(CapacityError, match="5 KV blocks"):
        plan(4 * KIB, max_model_len=80)


def test_a_length_beyond_the_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_model_len 2000 is above the 1024 tokens"):
        plan(GIB, max_model_len=2000)


def test_a_kv_size_that_the_user_set_is_exact_and_overrides_the_share() -> None:
    found = plan(100 * KIB, kv_cache_memory_bytes=60 * KIB + 5, memory_utilization=0.1)
    assert (found.num_blocks, found.kv_cache) == (60, 60 * KIB)


@pytest.mark.parametrize("size", [1, KIB - 1, 101 * KIB])
def test_a_kv_size_that_cannot_be_had_is_an_error(size: int) -> None:
    with pytest.raises(CapacityError, match="kv_cache_memory_bytes"):
        plan(100 * KIB, kv_cache_memory_bytes=size)


def test_a_kv_size_below_what_it_must_hold_names_what_it_takes() -> None:
    with pytest.raises(CapacityError, match="is 1,000, less than the 1,024 of one block"):
        plan(GIB, kv_cache_memory_bytes=1000)
    with pytest.raises(CapacityError, match="less than the 10,240 of 160 tokens"):
        plan(GIB, kv_cache_memory_bytes=9 * KIB, max_model_len=160)


def test_a_smaller_step_makes_room_for_a_length_that_the_user_set() -> None:
    """Activations alone would fit in half of the room, but not beside 80 blocks."""
    options = {"per_token": KIB // 2, "max_num_batched_tokens": 64, "length": 2000}
    found = plan(100 * KIB, max_model_len=1024, **options)
    assert (found.max_num_batched_tokens, found.max_model_len) == (64, 1024)
    found = plan(100 * KIB, max_model_len=1280, **options)
    assert (found.max_num_batched_tokens, found.max_model_len) == (32, 1280)


def test_too_little_memory_is_told_with_the_numbers() -> None:
    with pytest.raises(CapacityError) as caught:
        plan(100 * 1024**2, weights=90 * 1024**2, memory_utilization=0.5)
    message = str(caught.value)
    assert "50 MiB usable (100 MiB free x memory_utilization 0.5)" in message
    assert "weights need 90 MiB" in message and "1 KV blocks" in message
    assert "raise memory_utilization" in message


# --- any machine


@settings(max_examples=300, deadline=None)
@given(
    free=st.integers(0, 300 * KIB),
    weights=st.integers(0, 100 * KIB),
    per_token=st.integers(0, 2 * KIB),
    length=st.integers(1, 4096),
    wanted=st.none() | st.integers(1, 4096),
    kv_bytes=st.none() | st.integers(1, 200 * KIB),
    share=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    tokens=st.integers(1, 512),
    seqs=st.integers(1, 64),
)
def test_it_starts_whenever_the_smallest_step_fits(
    free: int,
    weights: int,
    per_token: int,
    length: int,
    wanted: int | None,
    kv_bytes: int | None,
    share: float,
    tokens: int,
    seqs: int,
) -> None:
    assume(wanted is None or wanted <= length)
    options = {"max_model_len": wanted, "kv_cache_memory_bytes": kv_bytes, "max_num_seqs": seqs}
    options |= {"memory_utilization": share, "max_num_batched_tokens": tokens}
    usable = free if kv_bytes is not None else int(free * share)
    needed = -(-(wanted or 1) // 16)
    if kv_bytes is not None:
        enough = needed <= kv_bytes // KIB
        needed = kv_bytes // KIB
    else:
        enough = True
    least = weights + per_token * min(tokens, SMALLEST_STEP) + needed * KIB
    if not enough or least > usable:
        with pytest.raises(CapacityError):
            plan(free, weights, length, per_token, **options)
        return
    found = plan(free, weights, length, per_token, **options)
    assert found.weights + found.activations + found.kv_cache <= found.usable <= found.free
    assert found.num_blocks >= max(needed, 1)
    assert 1 <= found.max_num_batched_tokens <= tokens
    assert found.activations == per_token * found.max_num_batched_tokens
    assert found.max_model_len <= min(length, found.kv_tokens)
    assert wanted is None or found.max_model_len == wanted
    assert kv_bytes is None or found.num_blocks == kv_bytes // KIB
    assert found.lines()
