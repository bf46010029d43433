"""Random worlds for the scheduler: what each request says must be what it says alone.

A world ahead of itself makes each plan before the one before it is committed, which a device may
run at any time in between.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from quire.control.plan import UNKNOWN_TOKEN, Chunk, Plan, Update
from quire.control.policy import POLICIES
from quire.control.request import Request
from quire.control.scheduler import Scheduler
from quire.control.state_records import num_records_needed
from quire.control.stop import StopRules
from quire.control.window import num_blocks_at_once
from quire.errors import QueueFullError, RequestError
from tests.control.fake_model import (
    VOCABULARY,
    FakeDrafter,
    FakeModel,
    FakeStore,
    expected,
)


@dataclass
class Life:
    """One submitted request, its place in a static order, and what came out."""

    request: Request
    prompt: list[int]
    rank: tuple[object, int]
    output: list[int] = field(default_factory=list)
    ends: list[tuple[str, int | None]] = field(default_factory=list)
    cancelled: bool = False
    truth: list[int] = field(default_factory=list)


@dataclass
class Flight:
    """A plan on its way, with the requests of its chunks, and what came of it once it has run."""

    plan: Plan
    chunks: list[Chunk]
    owners: dict[str, Life]
    sampled: list[tuple[int, ...]] = field(default_factory=list)
    unloaded: dict[str, int] = field(default_factory=dict)


class World:
    """One scheduler, one fake model and the requests of one seed; `run` asserts every property.

    ahead: every plan is made before the one before it is committed.
    """

    def __init__(self, seed: int, ahead: bool = False) -> None:
        self.ahead = ahead
        self.flights: list[Flight] = []
        self.sampled: dict[Request, int] = {}
        self.pace = random.Random(f"pace {seed}")
        self.random = rng = random.Random(seed)
        self.block_tokens = rng.choice([1, 2, 3, 4, 8])
        num_blocks = rng.randint(max(3, 12 // self.block_tokens), 60 // self.block_tokens + 3)
        self.capacity = num_blocks * self.block_tokens
        chunked = rng.random() < 0.7
        aside = random.Random(f"recurrent {seed}")
        recurrent = aside.random() < 0.2
        self.window = rng.choice([None, None, 1, 3, 8, 15])
        self.window = None if recurrent else self.window
        budget = rng.choice([1, 2, 5, 16, 64] if chunked else [16, 64])
        at_once = num_blocks_at_once(10**9, self.block_tokens, self.window, budget)
        if self.window is not None and at_once <= num_blocks and chunked:
            self.capacity *= 2  # a request longer than the pool
        self.policy = rng.choice(sorted(POLICIES))
        right = rng.choice([None, None, 0.0, 0.7, 1.0])
        right = None if recurrent else right
        self.drafter = None if right is None else FakeDrafter(rng, right, self._truth)
        records = num_records_needed(8) + aside.choice([0, 1, 8, 100])
        self.num_records = records if recurrent else None
        self.model = FakeModel(num_blocks, self.block_tokens, self.window, self.num_records)
        reliable = rng.choice([None, 0.5, 0.5, 0.8, 1.0])
        stores = reliable is not None and self.window is None and not recurrent
        outlives = random.Random(f"outlives {seed}").random() < 0.5
        self.store = FakeStore(rng, self.model, reliable or 0.0, outlives) if stores else None
        self.scheduler = Scheduler(
            num_blocks,
            self.block_tokens,
            max_num_batched_tokens=budget,
            max_num_seqs=rng.choice([1, 2, 4, 8, 8, 8]),
            policy=POLICIES[self.policy],
            max_model_len=rng.choice([self.capacity, self.capacity, self.capacity * 3 // 4]),
            enable_prefix_caching=rng.random() < 0.8,
            max_queued=rng.choice([None, None, None, 6]),
            enable_chunked_prefill=chunked,
            lookahead_tokens=rng.choice([0, 0, 0, 1, 4, 64]),
            window=self.window,
            drafter=self.drafter,
            store=self.store,
            num_state_records=self.num_records,
            blocks_per_checkpoint=aside.choice([1, 2, 5]),
        )
        self.stems = [self._tokens(self.capacity // 2) for _ in range(rng.choice([1, 1, 3]))]
        self.hurry = rng.random() < 0.2
        self.meddle = rng.choice([0.0, 0.0, 0.01, 0.06])
        self.lives: list[Life] = []
        self.live: dict[str, Life] = {}
        self.refused = self.num_chunks = self.steps = self.births = self.num_passed = 0
        self.num_ahead = self.num_overshot = 0

    # --- the story

    def run(self) -> World:
        """Live through all arrivals, check every step and the end; returns itself."""
        arrivals = sorted(self.random.randint(0, 20) for _ in range(self.random.randint(1, 14)))
        now = 0
        while arrivals or self.scheduler.has_work or self.flights:
            while arrivals and arrivals[0] <= now:
                arrivals.pop(0)
                self._submit(f"r{len(self.lives)}", now)
            self._meddle(now)
            self._step(now)
            now += 1
        self._check_end()
        return self

    def _step(self, now: int) -> None:
        num_before = len(self.flights)
        self._launch(now)
        self._check_flights()
        self._meddle(now)
        self._check_flights()
        if self.ahead and self.pace.random() < 0.3:  # a fast device
            self._run_flights(len(self.flights))
        if num_before or not self.ahead:
            self._land(now)

    def _launch(self, now: int) -> None:
        """Make a plan; what is laid side by side for the device never changes."""
        before = list(self.scheduler._running)
        plan = self.scheduler.plan(now)
        self.scheduler.check()
        self._check_plan(plan, before)
        self.num_ahead += bool(self.flights and plan.chunks)
        if plan.chunks:
            chunks = [each._replace(block_table=list(each.block_table)) for each in plan.chunks]
            owners = {each.request_id: self.live[each.request_id] for each in chunks}
            self.flights.append(Flight(plan, chunks, owners))

    def _run_flights(self, count: int) -> None:
        """Compute what was launched, in order."""
        for flight in self.flights[:count]:
            if not flight.sampled:
                self._run(flight)

    def _run(self, flight: Flight) -> None:
        for key, block in flight.plan.evicted:
            assert self.store is not None and not self.store.outlives_process
            self.store.save(key, block)
        for chunk in flight.chunks:
            request = flight.owners[chunk.request_id].request
            if chunk.load_keys:
                assert self.store is not None
                count = self.store.load(chunk)
                if count < len(chunk.load_keys):
                    flight.unloaded[chunk.request_id] = count
                    flight.sampled.append(())
                    continue
            if chunk.tokens[0] == UNKNOWN_TOKEN:
                chunk = chunk._replace(tokens=[self.sampled[request]])
            tokens = self.model.run(chunk, request)
            flight.sampled.append(tuple(tokens))
            if chunk.samples:
                self.sampled[request] = tokens[-1]
        self.model.write()

    def _land(self, now: int) -> None:
        """Commit the oldest plan."""
        if not self.flights:
            return
        self._run_flights(1)
        self._meddle(now)
        flight = self.flights.pop(0)
        stale = [each for each in flight.owners.values() if each.ends]
        updates = self.scheduler.commit(flight.plan, flight.sampled, 0.5, flight.unloaded)
        self._check_window()
        for update in updates:
            assert self.live[update.request_id] is flight.owners[update.request_id], "stale update"
        self._take(updates)
        self.scheduler.check()
        self.steps += 1
        self.num_overshot += len(stale)

    def _submit(self, name: str, now: int) -> None:
        life = self._new_life(name, now)
        try:
            self.scheduler.submit(life.request)
        except (QueueFullError, RequestError):
            self.refused += 1
            return
        self.lives.append(life)
        self.live[name] = life

    def _new_life(self, name: str, now: int) -> Life:
        rng = self.random
        stem = rng.choice(self.stems)[: rng.choice([4, 8, 999])]
        prompt = stem[: rng.choice([len(stem), rng.randint(1, len(stem))])]
        prompt = prompt + self._tokens(rng.choice([0, rng.randint(1, 6)]))
        stop = StopRules(
            max_tokens=rng.randint(1, max(1, min(self.capacity * 2 // 3, 60))),
            min_tokens=rng.choice([0, 0, 3]),
            eos_token_ids=frozenset({0}),
            stop_token_ids=frozenset(rng.sample(range(1, 5), rng.randint(0, 2))),
            ignore_eos=rng.random() < 0.5,
        )
        request = Request(
            name,
            prompt,
            stop,
            priority=rng.randint(-1, 1),
            arrival=now,
            deadline=now + rng.randint(1, 80) if self.hurry and rng.random() < 0.5 else None,
            cache_salt=rng.choice([b"", b"", b"tenant"]),
            use_prefix_cache=rng.random() < 0.9,
            allow_drafts=rng.random() < 0.8,
            plan_ahead=self.pace.random() < 0.95,
        )
        self.births += 1
        truth = expected(request, prompt, self.window)[0]
        return Life(request, prompt, (POLICIES[self.policy](request), self.births), truth=truth)

    def _meddle(self, now: int) -> None:
        """End what is due; sometimes cancel a request, sometimes use its id again at once."""
        self._take(self.scheduler.expire(now))
        if not self.live or self.random.random() >= self.meddle:
            return
        name = self.random.choice(sorted(self.live))
        self.live[name].cancelled = True
        update = self.scheduler.cancel(name)
        assert update is not None and update.finish_reason == "abort"
        self._take([update])
        assert self.scheduler.cancel(name) is None
        if self.random.random() < 0.5:
            self._submit(name, now)

    def _truth(self, request: Request) -> list[int]:
        assert self.live[request.id].request is request
        return self.live[request.id].truth

    def _tokens(self, count: int) -> list[int]:
        return [self.random.randrange(VOCABULARY) for _ in range(count)]

    # --- the properties

    def _take(self, updates: Sequence[Update]) -> None:
        for update in updates:
            life = self.live[update.request_id]
            life.output += update.tokens
            assert not life.ends, "an update after the end"
            if update.finish_reason is not None:
                life.ends.append((update.finish_reason, update.stop_reason))
                del self.live[update.request_id]

    def _check_plan(self, plan: Plan, before: list[Request]) -> None:
        scheduler, limits = self.scheduler, self.scheduler.limits
        names = [chunk.request_id for chunk in plan.chunks]
        self.num_chunks += len(names)
        assert len(set(names)) == len(names), "two chunks of one request"
        assert plan.num_tokens <= limits.max_num_batched_tokens, "over the budget"
        assert all(chunk.tokens for chunk in plan.chunks), "an empty chunk"
        if not self.flights:
            assert bool(plan.chunks) == scheduler.has_work, "work, but no plan"
            urgency = [(scheduler._policy(each), each.order, each.id) for each in before]
            assert not before or names[0] == min(urgency)[-1], "the most urgent pauses"
        for chunk in plan.chunks:
            request = self.live[chunk.request_id].request
            num_known = len(chunk.tokens) - chunk.num_drafts
            end = chunk.start + num_known
            known = self._known_then(request)
            assert chunk.tokens[:num_known] == known[chunk.start : end]
            assert chunk.samples == (end == len(known)) and end < request.max_len
            if chunk.num_drafts:
                assert chunk.samples and request.allow_drafts and num_known > 0
                assert end + chunk.num_drafts < request.max_len, "guesses that nothing follows"
            if not limits.enable_chunked_prefill:
                assert end >= request.num_prompt, "a prompt in parts"
        started = [self.live[each.id].rank for each in scheduler._running if each not in before]
        waiting = [self.live[each.id].rank for each in scheduler._waiting]
        if self.policy != "shortest_remaining" and started and waiting:
            assert max(started) < min(waiting), "not admitted in order"

    def _known_then(self, request: Request) -> list[int]:
        """The tokens of a request once the plan on its way is committed."""
        chunks = self.flights[-1].plan.chunks if self.flights else ()
        open_chunk = next((each for each in chunks if each.request_id == request.id), None)
        mine = open_chunk is not None and self.flights[-1].owners[request.id].request is request
        if not mine:
            return request.tokens
        assert open_chunk is not None and (request.plan_ahead or not open_chunk.samples)
        assert not open_chunk.num_drafts and not open_chunk.load_keys
        return [*request.tokens, UNKNOWN_TOKEN] if open_chunk.samples else request.tokens

    def _check_flights(self) -> None:
        """No block of a plan on its way can be given to another request."""
        holders = self.scheduler._pool._holders
        for flight in self.flights:
            for chunk in flight.chunks:
                first, end = chunk.start, chunk.start + len(chunk.tokens)
                written = chunk.block_table[first // self.block_tokens :]
                assert end <= len(chunk.block_table) * self.block_tokens
                assert all(holders[block] > 0 for block in written), "a free block is written"

    def _check_window(self) -> None:
        """Running requests hold what their next token sees, and no block behind it."""
        for request in self.scheduler._running:
            window = request.num_computed + 1 if self.window is None else self.window
            seen = max(0, request.num_computed - window + 1) // self.block_tokens
            held = [block >= 0 for block in request.block_table]
            assert held == [False] * seen + [True] * (len(held) - seen)
            self.num_passed += seen

    def _check_end(self) -> None:
        scheduler = self.scheduler
        assert not self.live and not len(scheduler._waiting) and not scheduler._running
        stats = scheduler.stats()
        assert stats.num_free_blocks == scheduler.limits.num_blocks, "a block leaked"
        scheduler.check()
        if self.drafter is not None:
            assert not self.drafter.started, "the drafter still follows what is over"
            assert stats.num_accepted_tokens == self.drafter.num_right
            assert stats.num_draft_tokens == self.drafter.num_right + self.drafter.num_wrong
        for life in self.lives:
            self._check_life(life)
        self._check_waste()

    def _check_life(self, life: Life) -> None:
        output, reason, stop_reason = expected(life.request, life.prompt, self.window)
        assert len(life.ends) == 1, "a request finishes exactly once"
        if life.ends[0][0] == "abort":
            assert life.cancelled or life.request.deadline is not None
            assert life.output == output[: len(life.output)], "wrong before the abort"
        else:
            assert life.output == output, f"{life.request.id}: {life.output} is not {output}"
            assert life.ends == [(reason, stop_reason)]
        assert life.request.num_peak <= len(life.request.tokens), "computed more than is known"
        cached = life.request.num_cached_tokens
        assert cached < life.request.num_prompt
        assert life.request.use_prefix_cache or not cached

    def _check_waste(self) -> None:
        """The bounds that Scheduler's docstring claims."""
        stats, limits = self.scheduler.stats(), self.scheduler.limits
        generated = sum(len(life.output) for life in self.lives)
        bursts = generated // (limits.lookahead_tokens + 1)
        bursts = generated if self.ahead else bursts  # plans made ahead reserve a token less
        assert stats.num_preemptions <= bursts * (limits.max_num_seqs - 1), "thrashing"
        assert stats.num_wasted_tokens <= stats.num_preemptions * limits.max_model_len
        known = sum(len(life.request.tokens) for life in self.lives)
        idle = 24 + (0 if self.store is None else self.store.num_failed)
        steps = self.steps - self.num_overshot
        assert steps <= known + stats.num_wasted_tokens + idle, "steps without progress"
