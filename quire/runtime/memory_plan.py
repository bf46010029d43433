"""Decides how much memory goes where, so that the engine starts whenever any setting fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from quire.config import EngineConfig
from quire.control.state_records import num_records_needed
from quire.control.window import num_blocks_at_once
from quire.errors import CapacityError, ConfigError
from quire.ops.kv_cache import KvLayout

__all__ = [
    "CURES",
    "DEFAULT_KV_BYTES",
    "MIB",
    "MemoryPlan",
    "least_beside_weights",
    "plan_memory",
    "usable_bytes",
]

MIB = 1024**2
DEFAULT_KV_BYTES = 4 * 1024**3
"""What the KV cache takes when there is room for more and nobody said how much."""
STATE_SHARE = 0.5
"""The most of what weights and activations leave that records of recurrent state take."""
DEFAULT_STATE_BYTES = 4 * 1024**3
"""What they take when there is room for more."""
GRAPH_SHARE = 0.125
"""The most of what is left for the KV cache that captured steps get."""
CURES = "free some memory, raise memory_utilization, lower max_model_len, or choose a smaller model"
SMALLEST_STEP = 32
"""The token budget below which the plan does not shrink a step to save activation memory."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The budget: all sizes in bytes.

    free: what was free when the plan was made.  usable: the part that may be used.
    num_state_records: records of recurrent state, of state_bytes each; they are enough for
    max_num_seqs requests.  reserved: for what a device's libraries take.  graphs: what captured
    steps may take.
    """

    free: int
    usable: int
    weights: int
    activations: int
    kv_cache: int
    num_blocks: int
    block_tokens: int
    max_model_len: int
    max_num_batched_tokens: int
    kv_format: str
    max_num_seqs: int
    num_state_records: int = 0
    state_bytes: int = 0
    reserved: int = 0
    graphs: int = 0
    notes: tuple[str, ...] = ()

    @property
    def kv_tokens(self) -> int:
        """Tokens that fit in the KV cache."""
        return self.num_blocks * self.block_tokens

    def lines(self) -> list[str]:
        """The budget for people."""
        return [
            f"memory: {_mib(self.usable)} usable of {_mib(self.free)} free = "
            f"weights {_mib(self.weights)} + activations {_mib(self.activations)} + "
            f"KV cache {_mib(self.kv_cache)} + {self._others}{_mib(self._rest)} unused",
            f"KV cache: {self.num_blocks} blocks of {self.block_tokens} tokens = "
            f"{self.kv_tokens} tokens in {self.kv_format}; model length {self.max_model_len}; "
            f"step budget {self.max_num_batched_tokens} tokens",
            *self._state_lines,
            *self.notes,
        ]

    @property
    def state_records(self) -> int:
        """Bytes of all records of recurrent state."""
        return self.num_state_records * self.state_bytes

    @property
    def _others(self) -> str:
        found = {
            "recurrent states": self.state_records,
            "captured steps": self.graphs,
            "libraries": self.reserved,
        }
        return "".join(f"{name} {_mib(size)} + " for name, size in found.items() if size)

    @property
    def _state_lines(self) -> list[str]:
        if not self.num_state_records:
            return []
        return [
            f"recurrent states: {self.num_state_records} records of {_mib(self.state_bytes)}, for "
            f"{self.max_num_seqs} requests at once and the prefixes they share"
        ]

    @property
    def _rest(self) -> int:
        used = self.weights + self.activations + self.kv_cache + self.state_records
        return max(self.usable - used - self.reserved - self.graphs, 0)


def plan_memory(
    config: EngineConfig,
    free_bytes: int,
    weight_bytes: int,
    model_length: int,
    layout: KvLayout,
    activation_bytes: Callable[[int], int],
    window: int | None = None,
    state_bytes: int = 0,
    default_kv_bytes: int = DEFAULT_KV_BYTES,
    reserved_bytes: int = 0,
    cures: str = CURES,
    graph_bytes: Callable[[int], int] = lambda tokens: 0,
) -> MemoryPlan:
    """Fit weights, activations and KV cache into the usable share of the free memory.

    activation_bytes: bytes of activations for a step of so many tokens.  model_length: the longest
    sequence the model is made for.  A step is made smaller, then the model length shorter, before
    giving up; a length or KV size that the user set is never changed.  window: the widest window
    where every layer has one; a request then never holds more blocks than its window and one step.
    state_bytes: of one record of recurrent state.  They take STATE_SHARE of the room beside the KV
    cache at most; where that is too little for max_num_seqs requests, fewer run at once.
    default_kv_bytes: what the cache takes where there is more room and nobody said how much.
    reserved_bytes: that nothing here may use.  cures: what to do where nothing fits.
    graph_bytes: the most that captured steps of so many tokens take; they get GRAPH_SHARE of what
    is left for more KV blocks than are needed at most, and do with less.
    Raises CapacityError with the numbers when nothing fits, ConfigError for a length above
    model_length.
    """
    wanted = config.max_model_len or model_length
    if wanted > model_length:
        raise ConfigError(
            f"max_model_len {wanted} is above the {model_length} tokens this model is made for"
        )
    usable = usable_bytes(config, free_bytes)
    needed = _needed_blocks(config, layout, window)
    needed_bytes = needed * layout.bytes_per_block
    _refuse_small_cache(config, needed_bytes)
    room = usable - weight_bytes - reserved_bytes
    budget = _step_budget(config, room, needed_bytes, activation_bytes)
    activations = activation_bytes(budget)
    room -= activations
    num_records = _num_state_records(config, room, state_bytes)
    room -= num_records * state_bytes
    graphs = max(0, min(graph_bytes(budget), int((room - needed_bytes) * GRAPH_SHARE)))
    room -= graphs
    of_one = num_blocks_at_once(wanted, layout.block_tokens, window, budget)
    num_blocks = _num_blocks(config, room, layout, of_one, default_kv_bytes)
    plan = MemoryPlan(
        free=free_bytes,
        usable=usable,
        weights=weight_bytes,
        activations=activations,
        kv_cache=num_blocks * layout.bytes_per_block,
        num_blocks=num_blocks,
        block_tokens=layout.block_tokens,
        max_model_len=wanted
        if num_blocks >= of_one
        else min(wanted, num_blocks * layout.block_tokens),
        max_num_batched_tokens=budget,
        kv_format=layout.format,
        max_num_seqs=_requests_at_once(config, num_records) if state_bytes else config.max_num_seqs,
        num_state_records=num_records,
        state_bytes=state_bytes,
        reserved=reserved_bytes,
        graphs=graphs,
    )
    _refuse_if_short(config, plan, needed, needed_bytes, cures)
    return replace(plan, notes=_cuts(config, plan, wanted))


def _refuse_if_short(
    config: EngineConfig, plan: MemoryPlan, needed: int, needed_bytes: int, cures: str
) -> None:
    """Raise CapacityError for a plan that lacks what it needs at least.  needed: KV blocks."""
    if plan.max_num_seqs < 1:
        raise CapacityError(
            f"not enough memory: weights {_mib(plan.weights)} and activations "
            f"{_mib(plan.activations)} leave too little of {_mib(plan.usable)} for two records of "
            f"recurrent state, {_mib(plan.state_bytes)} each; {_cure(config, cures)}"
        )
    length = config.max_model_len
    if plan.num_blocks < needed or (length is not None and plan.max_model_len < length):
        libraries = f"libraries {_mib(plan.reserved)}, " if plan.reserved else ""
        raise CapacityError(
            f"not enough memory: {_mib(plan.usable)} usable ({_mib(plan.free)} free x "
            f"memory_utilization {plan.usable / max(plan.free, 1):.3g}), but weights need "
            f"{_mib(plan.weights)}, {libraries}activations {_mib(plan.activations)} and {needed} "
            f"KV blocks {_mib(needed_bytes)}; {_cure(config, cures)}"
        )


def _cuts(config: EngineConfig, plan: MemoryPlan, wanted_length: int) -> tuple[str, ...]:
    """What the plan has less of than was asked for, in words."""
    notes = []
    if plan.max_num_batched_tokens < config.max_num_batched_tokens:
        notes.append(
            f"step budget cut from {config.max_num_batched_tokens} to "
            f"{plan.max_num_batched_tokens} tokens to fit memory"
        )
    if plan.max_num_seqs < config.max_num_seqs:
        notes.append(
            f"requests at once cut from {config.max_num_seqs} to {plan.max_num_seqs} to fit their "
            "recurrent states"
        )
    if plan.max_model_len < wanted_length:
        notes.append(
            f"model length cut from {wanted_length} to {plan.max_model_len} tokens to fit the KV "
            "cache"
        )
    return tuple(notes)


def usable_bytes(config: EngineConfig, free_bytes: int) -> int:
    """The share of the free memory that may be used; an exact size of the KV cache overrides it."""
    if config.kv_cache_memory_bytes is not None:
        return free_bytes
    return int(free_bytes * config.memory_utilization)


def least_beside_weights(
    config: EngineConfig,
    layout: KvLayout,
    activation_bytes: Callable[[int], int],
    window: int | None,
) -> int:
    """Bytes without which plan_memory gives up: of the smallest step and of the KV cache."""
    blocks = _needed_blocks(config, layout, window)
    step = min(config.max_num_batched_tokens, SMALLEST_STEP)
    return activation_bytes(step) + blocks * layout.bytes_per_block


def _needed_blocks(config: EngineConfig, layout: KvLayout, window: int | None) -> int:
    """The least KV blocks: what the user asked for, else one."""
    step_tokens = config.max_num_batched_tokens
    length = config.max_model_len or 1
    of_one = num_blocks_at_once(length, layout.block_tokens, window, step_tokens)
    return max(of_one, (config.kv_cache_memory_bytes or 0) // layout.bytes_per_block)


def _refuse_small_cache(config: EngineConfig, least: int) -> None:
    """Raise CapacityError for a KV cache that the user made smaller than what it must hold."""
    given = config.kv_cache_memory_bytes
    if given is not None and given < least:
        holds = f"{config.max_model_len} tokens" if config.max_model_len else "one block"
        raise CapacityError(
            f"kv_cache_memory_bytes is {given:,}, less than the {least:,} of {holds}; give at "
            "least that, or leave it out"
        )


def _step_budget(
    config: EngineConfig,
    room: int,
    kv_bytes: int,
    activation_bytes: Callable[[int], int],
) -> int:
    """The token budget, halved while its activations leave the KV cache too little.

    kv_bytes: what the KV cache needs; it may want half the room.
    """
    budget = config.max_num_batched_tokens
    least = min(budget, SMALLEST_STEP)
    while budget > least and activation_bytes(budget) > room - max(kv_bytes, room // 2):
        budget = max(budget // 2, least)
    return budget


def _num_blocks(
    config: EngineConfig, room: int, layout: KvLayout, of_one: int, default_kv_bytes: int
) -> int:
    """Blocks for what was asked, else for every request at full length, within room and default.

    of_one: the most blocks that one request holds.
    """
    if config.kv_cache_memory_bytes is not None:
        room = min(room, config.kv_cache_memory_bytes)
        return max(room // layout.bytes_per_block, 0)
    useful = of_one * config.max_num_seqs
    default = max(default_kv_bytes // layout.bytes_per_block, of_one)
    return max(min(useful, default, room // layout.bytes_per_block), 0)


def _num_state_records(config: EngineConfig, room: int, state_bytes: int) -> int:
    """Records for every request, and once more as many for prefixes, within their share."""
    if not state_bytes:
        return 0
    useful = 2 * num_records_needed(config.max_num_seqs)
    share = min(int(room * STATE_SHARE), max(DEFAULT_STATE_BYTES, 2 * state_bytes))
    return max(min(useful, share // state_bytes), 0)


def _requests_at_once(config: EngineConfig, num_records: int) -> int:
    """How many requests the records of recurrent state are enough for."""
    return min(config.max_num_seqs, num_records // num_records_needed(1))


def _cure(config: EngineConfig, cures: str) -> str:
    if config.kv_cache_memory_bytes is not None:
        return "free some memory, or raise or lower kv_cache_memory_bytes to what fits"
    return cures


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f} MiB" if size >= 10 * MIB else f"{size / MIB:.1f} MiB"
