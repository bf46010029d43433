"""What running requests hold: blocks, records of recurrent state, and what is computed in them."""

from __future__ import annotations

from collections.abc import Sequence

from quire.control.blocks import BlockPool
from quire.control.limits import Limits
from quire.control.open_plans import OpenPlans
from quire.control.plan import Chunk
from quire.control.prefix import PrefixCache
from quire.control.request import Request
from quire.control.state_records import StateRecords
from quire.control.window import NO_BLOCK, num_passed_blocks

__all__ = ["Holdings"]


class Holdings:
    """Gives requests what they hold and takes it back; decides nothing.

    states: None for models without recurrent layers.  num_wasted_tokens: see SchedulerStats.
    """

    def __init__(
        self,
        pool: BlockPool,
        prefix: PrefixCache,
        states: StateRecords | None,
        open_plans: OpenPlans,
        limits: Limits,
    ) -> None:
        self.num_wasted_tokens = 0
        self._pool = pool
        self._prefix = prefix
        self._states = states
        self._open = open_plans
        self._block_tokens, self._window = limits.block_tokens, limits.window

    def find(self, request: Request) -> tuple[list[int], list[bytes]]:
        """What is computed of a waiting request: blocks of the pool, then keys of the store."""
        hits = self._prefix.find(request)
        if self._states is not None:
            hits = self._states.usable(request, hits)
        return hits, self._prefix.find_stored(request, len(hits))

    def start(self, request: Request, hits: list[int], num_stored: int) -> None:
        """Hold the blocks that were found, and take `num_stored` that its first chunk loads."""
        passed = hits.count(NO_BLOCK)
        self._pool.hold(hits[passed:])
        if self._states is not None:
            self._states.start(request, len(hits))
        request.block_table = hits + self._pool.take(num_stored)
        request.num_passed = passed
        request.num_computed = len(request.block_table) * self._block_tokens

    def take_in_loaded(self, chunk: Chunk, request: Request, num_loaded: int | None) -> None:
        """Publish the blocks that a chunk loaded: all of them if None, else only the first ones."""
        size = self._block_tokens
        first = chunk.start - len(chunk.load_keys) * size
        end = chunk.start if num_loaded is None else first + num_loaded * size
        self._prefix.publish(request, first, end)
        request.num_computed = end
        if request.num_preemptions == 0:  # the first admission, which is what is counted
            request.num_cached_tokens = end
            self._prefix.num_store_hit_tokens += end - first

    def advance(self, request: Request, end: int) -> None:
        """Note that all before position `end` is computed; blocks may be full now, or passed."""
        start, size = request.num_computed, self._block_tokens
        self.num_wasted_tokens += request.advance(end)
        if end // size > start // size:
            self._prefix.publish(request, start, end)
        if self._states is not None:
            self._states.advance(request, start, end)
        if self._window is not None:
            self._release_passed(request)

    def undo(self, planned: Sequence[Request]) -> None:
        """Forget a plan for some requests; blocks that they took for it they will need soon."""
        if self._states is not None:
            for request in planned:
                self._states.undo(request)

    def give_up(self, request: Request) -> None:
        """Take back all of a request; its table is replaced, as a plan may still hold it."""
        self._open.release(request)
        if self._states is not None:
            self._states.give_up(request)
        request.block_table, request.num_passed = [], 0
        request.num_lost = request.num_peak
        request.num_computed = 0

    def check(self, running: Sequence[Request]) -> None:
        """Assert that what the running requests hold is all that is held."""
        held = [request.held_blocks for request in running]
        self._pool.check([*held, *self._open.waiting_tables()])
        if self._states is not None:
            self._states.check(running)

    def _release_passed(self, request: Request) -> None:
        """Give back the blocks that no later token of the request sees."""
        table, start = request.block_table, request.num_passed
        passed = num_passed_blocks(request.num_computed, self._block_tokens, self._window)
        self._pool.release(table[start:passed])
        table[start:passed] = [NO_BLOCK] * (passed - start)
        request.num_passed = passed
