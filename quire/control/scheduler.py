"""Decides which tokens run next, under a token budget and a block budget."""

from __future__ import annotations

from collections.abc import Collection
from operator import attrgetter

from quire.control.block_store import BlockStore
from quire.control.blocks import BlockPool
from quire.control.deadlines import Deadlines
from quire.control.drafting import Drafter, Drafting
from quire.control.holdings import Holdings
from quire.control.limits import Limits
from quire.control.open_plans import OpenChunks, OpenPlans
from quire.control.plan import NOTHING, UNKNOWN_TOKEN, Chunk, Plan, Sampled, Unloaded, Update
from quire.control.policy import Policy, fcfs
from quire.control.prefix import PrefixCache
from quire.control.request import Request, RequestState
from quire.control.state_records import StateRecords
from quire.control.stats import SchedulerStats
from quire.control.stop import Finish
from quire.control.waiting import WaitingQueue
from quire.control.window import NO_BLOCK
from quire.errors import RequestError

__all__ = ["Scheduler"]


UNKNOWN_TOKENS = [UNKNOWN_TOKEN]


class _NothingAheadError(Exception):
    """A plan made ahead would have to preempt a request, or lacks a record of recurrent state."""


class Scheduler:
    """Repeats plan → commit over the requests it was given.

    A plan serves the running requests first, by policy, each with what is known but not computed;
    then it admits waiting requests, strictly in the order of the policy, while budget and blocks
    last.  A running request that needs a block when none is free takes those of the least urgent
    one, which loses its computed tokens and waits again; the least urgent one itself just pauses.

    **Why it ends, and wastes little.**  Admission reserves blocks for `lookahead_tokens` further
    output tokens of every running request and of the one admitted, whose whole known length must
    fit as well.  (1) Progress: the most urgent running request may take the blocks of all others,
    and the pool holds any one request whole, so every plan computes a token of it; where nothing
    runs, the first waiting request fits, so a plan is empty only when there is no work.  (2) Waste:
    blocks can run out only after some request generated more than `lookahead_tokens` tokens since
    the last admission.  Known tokens survive preemption, so no token is generated twice: with G
    output tokens in all, preemptions come in at most G / (lookahead_tokens + 1) bursts of fewer
    than `max_num_seqs` each, and each costs at most `max_model_len` recomputed tokens.  By (1) and
    (2) the number of steps is bounded, under any policy.  (3) No ping-pong: two requests too long
    for the pool together run one after the other, as the one that lost its blocks is readmitted
    only when more blocks are free than it gave up.  (4) No starvation: nothing is admitted before
    the first waiting request, and by (2) those that run come to an end.

    max_num_batched_tokens: most tokens in one plan.  max_num_seqs: most running requests.
    max_model_len: most tokens of one request, None for as many as the pool holds.
    max_queued: most waiting requests, None for no limit.  fingerprint: see PrefixCache.
    enable_chunked_prefill: False computes every prompt in one plan.  window: a token sees that many
    positions at most, in every layer, so blocks behind it are given back; None: it sees all.
    drafter: guesses tokens, which the step computes and checks beside the known ones; see Drafting.
    store: keeps blocks beside the pool; what it has of a prompt is loaded into blocks that the
    request needs anyway; not together with a window.
    num_state_records: how many records of recurrent state there are, at least what
    `num_records_needed` says; None: the model has no such layers.  Not together with a window, a
    drafter or a store.  blocks_per_checkpoint: the state behind every so many blocks is kept.
    """

    def __init__(
        self,
        num_blocks: int,
        block_tokens: int,
        max_num_batched_tokens: int,
        max_num_seqs: int,
        policy: Policy = fcfs,
        max_model_len: int | None = None,
        enable_prefix_caching: bool = True,
        max_queued: int | None = None,
        fingerprint: bytes = b"",
        enable_chunked_prefill: bool = True,
        lookahead_tokens: int = 64,
        window: int | None = None,
        drafter: Drafter | None = None,
        store: BlockStore | None = None,
        num_state_records: int | None = None,
        blocks_per_checkpoint: int = 64,
    ) -> None:
        assert num_state_records is None or (window, drafter, store) == (None, None, None)
        self.limits = Limits(
            num_blocks,
            block_tokens,
            max_num_batched_tokens,
            max_num_seqs,
            num_blocks * block_tokens if max_model_len is None else max_model_len,
            max_queued,
            enable_chunked_prefill,
            lookahead_tokens,
            window,
        )
        self._policy = policy
        self._pool = BlockPool(num_blocks)
        self._prefix = PrefixCache(
            self._pool, block_tokens, fingerprint, enable_prefix_caching, window, store
        )
        self._states: StateRecords | None = None
        if num_state_records is not None:
            self._states = StateRecords(
                num_state_records, max_num_seqs, block_tokens, blocks_per_checkpoint, self._prefix
            )
        self._requests: dict[str, Request] = {}
        self._waiting = WaitingQueue(policy)
        self._running: list[Request] = []
        self._deadlines = Deadlines()
        self._open = OpenPlans(self._pool)
        self._holdings = Holdings(self._pool, self._prefix, self._states, self._open, self.limits)
        self._ordered = OpenChunks()  # what the open plan computes of each request
        self._planned: list[Request] = []  # of the newest plan, in the order of its chunks
        self._now = 0.0
        self._drafting = Drafting(drafter, self.limits, self._pool)
        self._goes_ahead = drafter is None
        self._step = self._num_submitted = self._num_preemptions = 0

    @property
    def has_work(self) -> bool:
        """True while any request is unfinished."""
        return bool(self._requests)

    def submit(self, request: Request) -> None:
        """Queue a new request.

        Raises QueueFullError when the queue is full; RequestError when the request could never run.
        """
        if request.id in self._requests:
            raise RequestError(f"request id {request.id!r} is in use; choose another", "request_id")
        self.limits.refuse_impossible(request)
        self.limits.refuse_full(len(self._waiting))
        self._num_submitted += 1
        request.order = self._num_submitted
        self._requests[request.id] = request
        self._waiting.add(request)
        self._deadlines.add(request)

    def cancel(self, request_id: str, finish_reason: str = "abort") -> Update | None:
        """End a request now, also between plan and commit; None if it is unknown or over.

        finish_reason: "stop" when a stop string was found in the text, "error" when a run failed.
        """
        request = self._requests.get(request_id)
        return None if request is None else self._cut(request, finish_reason)

    def expire(self, now: float) -> tuple[Update, ...]:
        """End with "abort" every request whose deadline has come."""
        due = [(self._requests.get(each), order) for each, order in self._deadlines.pop_due(now)]
        return tuple(
            self._cut(request, "abort")
            for request, order in due
            if request is not None and request.order == order
        )

    def plan(self, now: float) -> Plan:
        """Say what the next step computes.

        While one plan is open, the next may be made: it starts from the ends of the open chunks,
        and a token that the open plan samples is ordered as UNKNOWN_TOKEN.  Such a plan leaves out
        requests of which too little is known (a last token by length, blocks being loaded),
        preempts nobody, and is empty where a request lets none be made (see Request.plan_ahead), a
        block or record is missing, or there are drafts.  Empty plans need no commit.
        """
        self._now = now
        self._planned = []
        self._ordered = self._open.chunks()
        chunks: list[Chunk] = []
        if not self._ordered:
            self._fill(chunks)
        elif self._goes_ahead and self._ordered.can_be_followed():
            try:
                self._fill(chunks)
            except _NothingAheadError:
                chunks.clear()
                self._holdings.undo(self._planned)
        self._step += 1
        evicted = self._pool.pop_evicted() if chunks else ()  # else they wait for a step that runs
        num_tokens = sum([len(each.tokens) for each in chunks])
        if not self._prefix.saves_evicted:
            evicted = ()
        plan = Plan(self._step, tuple(chunks), num_tokens, evicted)
        if chunks:
            self._open.open(plan, self._planned)
        return plan

    def commit(
        self,
        plan: Plan,
        sampled: Sampled,
        seconds: float = 0.0,
        unloaded: Unloaded = NOTHING,
        failed: Collection[str] = (),
    ) -> tuple[Update, ...]:
        """Take in what the oldest open plan computed; `sampled` has tokens for each of its chunks.

        Several tokens for one request are taken in order up to the first that finishes it.  A
        request that is over since the plan was made is skipped, even if its id is in use again.
        It reads the plan and the requests planned, nothing that a later plan changes.
        seconds: how long the run took, 0 if nobody looked.  unloaded: requests whose chunk was not
        run because a block could not be loaded; what is missing is computed in the steps to come.
        failed: requests that no token could be sampled for; they end with "error".
        """
        if not plan.chunks:
            return ()
        updates, running = [], RequestState.RUNNING
        requests = self._open.close(plan)
        for chunk, request, new_tokens in zip(plan.chunks, requests, sampled, strict=True):
            if request.state is not running:
                continue
            if chunk.load_keys:
                self._holdings.take_in_loaded(chunk, request, unloaded.get(request.id))
                if request.id in unloaded:
                    continue
            if not chunk.samples:
                self._holdings.advance(request, chunk.start + len(chunk.tokens))
                continue
            if failed and request.id in failed:
                updates.append(self._cut(request, "error"))
                continue
            end = len(request.tokens)
            update = request.accept(new_tokens)
            is_over = update.finish_reason is not None
            assert update.tokens or is_over, f"no token was sampled for request {request.id!r}"
            if chunk.num_drafts:
                # A right guess is in the cache; a wrong one is not counted and will be overwritten.
                end += min(self._drafting.count(chunk, request, new_tokens), len(update.tokens))
            self._holdings.advance(request, end)
            if is_over:
                self._finish(request)
            updates.append(update)
        self._drafting.observe(plan, seconds)
        return tuple(updates)

    def stats(self) -> SchedulerStats:
        """Look at the state between two calls, in time linear in the number of requests."""
        pool, size = self._pool, self.limits.block_tokens
        unused = sum(len(each.block_table) * size - each.num_computed for each in self._running)
        oldest = min((each.queued_since for each in self._waiting), default=self._now)
        return SchedulerStats(
            num_running=len(self._running),
            num_waiting=len(self._waiting),
            num_used_blocks=pool.num_used,
            num_free_blocks=pool.num_free,
            num_cached_blocks=pool.num_cached,
            kv_usage=pool.num_used / pool.num_blocks,
            fragmentation=unused / (pool.num_used * size) if pool.num_used else 0.0,
            oldest_wait_s=max(0.0, self._now - oldest),
            num_preemptions=self._num_preemptions,
            prefix_query_tokens=self._prefix.num_query_tokens,
            prefix_hit_tokens=self._prefix.num_hit_tokens,
            store_query_tokens=self._prefix.num_store_query_tokens,
            store_hit_tokens=self._prefix.num_store_hit_tokens,
            num_wasted_tokens=self._holdings.num_wasted_tokens,
            num_drafts=self._drafting.num_drafts,
            num_draft_tokens=self._drafting.num_draft_tokens,
            num_accepted_tokens=self._drafting.num_accepted_tokens,
        )

    def check(self) -> None:
        """Assert the invariants that hold between any two calls."""
        self._holdings.check(self._running)
        assert all(each.state is RequestState.RUNNING for each in self._running)
        assert all(each.state is RequestState.WAITING for each in self._waiting)
        assert not any(each.block_table or each.num_computed for each in self._waiting)
        assert {*self._running, *self._waiting} == {*self._requests.values()}, "a request is lost"
        assert len(self._running) <= self.limits.max_num_seqs, "too many requests run"

    def _fill(self, chunks: list[Chunk]) -> None:
        """Plan what runs, then what waits, then guesses."""
        budget = self._continue_running(chunks, self.limits.max_num_batched_tokens)
        if self._waiting and budget > 0 and len(self._running) < self.limits.max_num_seqs:
            budget = self._admit_waiting(chunks, budget)
        self._drafting.extend(chunks, self._planned, self._running, budget)

    # The running requests.

    def _continue_running(self, chunks: list[Chunk], budget: int) -> int:
        """Plan the running requests, the most urgent first; return the budget that is left."""
        self._running.sort(key=attrgetter("order"))  # what the policy does not tell apart
        self._running.sort(key=self._policy)
        index = 0
        while budget > 0 and index < len(self._running):  # preemption shortens the list
            budget -= self._schedule(self._running[index], budget, chunks)
            index += 1
        return budget

    def _schedule(self, request: Request, budget: int, chunks: list[Chunk]) -> int:
        """Add a chunk of what a running request misses; return how many tokens it has."""
        tokens, table, size = request.tokens, request.block_table, self.limits.block_tokens
        start, known, room = request.num_computed, len(tokens), len(table) * size
        if self._ordered and request in self._ordered:
            start, known = self._ordered.behind(request)
        end = known
        if end - start > budget:
            end = start + budget
        if end > room:
            table += self._take_blocks(request, -(-(end - room) // size))
            end = min(end, len(table) * size)
        if end > start:
            ids = tokens[start:end] or UNKNOWN_TOKENS
            chunk = Chunk(request.id, start, ids, table, end == known)
            if self._states is not None:
                if self._ordered and not self._states.has_room:
                    raise _NothingAheadError
                chunk = chunk._replace(state=self._states.plan(request, start, end))
            chunks.append(chunk)
            self._planned.append(request)
        return end - start

    def _take_blocks(self, request: Request, count: int) -> list[int]:
        """Take `count` blocks, preempting less urgent requests; fewer if there are none left."""
        while self._pool.num_free < count and self._running[-1] is not request:
            if self._ordered:
                raise _NothingAheadError
            self._preempt(self._running[-1])
        return self._pool.take(min(count, self._pool.num_free))

    def _preempt(self, request: Request) -> None:
        """Give up what the least urgent running request has computed, and let it wait again."""
        self._stop_running(request)
        self._num_preemptions += 1
        request.num_preemptions += 1
        request.queued_since = self._now
        request.state = RequestState.WAITING
        self._waiting.add(request)

    # The waiting requests.

    def _admit_waiting(self, chunks: list[Chunk], budget: int) -> int:
        """Start waiting requests in order until one does not fit; return the budget left."""
        limits = self.limits
        spare = self._pool.num_free - sum(map(limits.num_blocks_reserved, self._running))
        while self._waiting and budget > 0 and len(self._running) < limits.max_num_seqs:
            request = self._waiting.first
            hits, stored = self._holdings.find(request)
            start = (len(hits) + len(stored)) * limits.block_tokens
            wanted = min(len(request.tokens) - start, budget)
            whole = limits.enable_chunked_prefill or start + wanted >= request.num_prompt
            passed = hits.count(NO_BLOCK)
            held = hits[passed:]
            spare -= limits.num_blocks_ahead(request, passed, len(held))
            spare -= self._pool.count_free(held)
            if spare < 0 or not whole:
                break
            self._start(request, hits, len(stored))
            budget -= self._schedule(request, budget, chunks)
            if stored:
                blocks = request.block_table[len(hits) : len(hits) + len(stored)]
                chunks[-1] = chunks[-1]._replace(load_keys=stored, load_blocks=blocks)
        return budget

    def _start(self, request: Request, hits: list[int], num_stored: int) -> None:
        """Move a waiting request to the running ones, with the blocks found in the cache.

        num_stored: blocks behind them that its first chunk loads.
        """
        self._waiting.remove(request)
        self._running.append(request)
        self._holdings.start(request, hits, num_stored)
        request.state = RequestState.RUNNING
        if request.first_scheduled is None:
            request.first_scheduled = self._now
            request.num_cached_tokens = request.num_computed
            self._prefix.count(request, len(hits))

    # The end of a request.

    def _cut(self, request: Request, finish_reason: str) -> Update:
        self._finish(request)
        return request.update((), Finish(finish_reason))

    def _finish(self, request: Request) -> None:
        if request.state is RequestState.WAITING:
            self._waiting.remove(request)
        else:
            self._stop_running(request)
        request.state = RequestState.FINISHED
        del self._requests[request.id]
        self._drafting.finish(request)
        self._prefix.finish(request)

    def _stop_running(self, request: Request) -> None:
        self._running.remove(request)
        self._holdings.give_up(request)
