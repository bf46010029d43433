"""Which records of recurrent state requests use, and which are kept so that others start from them.

A layer with a recurrent state cannot go back to any position that blocks are cached for: only to
one whose state was kept.  Records are a pool of their own, with the states of blocks and the same
keys: the record behind a prefix has the key of the prefix's last block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from quire.control.blocks import BlockPool
from quire.control.plan import NO_RECORD, StateUse
from quire.control.prefix import PrefixCache
from quire.control.request import Request

__all__ = ["StateRecords", "num_records_needed"]


def num_records_needed(max_num_seqs: int) -> int:
    """The least records with which any plan can be made: one that is read and one written, each."""
    return 2 * max_num_seqs


@dataclass(slots=True)
class _Held:
    """The records of one running request.

    current: its state behind the computed tokens, NO_RECORD before the first.  uses: what the open
    plans do, the oldest first.  latest: key of the record that it kept last, if the next one takes
    its place.
    """

    current: int
    uses: list[StateUse] = field(default_factory=list)
    latest: bytes | None = None

    @property
    def records(self) -> list[int]:
        """All of them."""
        found = {self.current, *(each for use in self.uses for each in (use.write, use.kept))}
        return sorted(found - {NO_RECORD})


class StateRecords:
    """Gives records to running requests; a step reads one and writes one, often the same.

    A record that others can find, or that several hold, is never written: the step writes another
    one, which costs nothing, as the whole state is written anyway.  So a state that stands right
    behind a full block is kept by giving it the block's key; and one inside a chunk by letting the
    step leave a second record there.  Kept are, as long as there is room, the least recently used
    first to go: the state behind the last full block of a prompt, behind every
    `blocks_per_checkpoint` blocks, and of what else a request passes by only the last.

    A plan made ahead follows on the record that the open one writes.  Steps run in order, so a
    record can have another holder as soon as it is given up: what is on its way to it comes before.
    """

    def __init__(
        self,
        num_records: int,
        max_num_seqs: int,
        block_tokens: int,
        blocks_per_checkpoint: int,
        prefix: PrefixCache,
    ) -> None:
        assert num_records >= num_records_needed(max_num_seqs), "too few records"
        self._pool = BlockPool(num_records)
        self._least_free = max_num_seqs
        self._block_tokens = block_tokens
        self._every = block_tokens * blocks_per_checkpoint
        self._prefix = prefix
        self._held: dict[Request, _Held] = {}

    def usable(self, request: Request, hits: list[int]) -> list[int]:
        """Of the cached blocks of a prefix, the leading ones that a record stands behind."""
        for count in range(len(hits), 0, -1):
            if self._pool.find(self._prefix.key(request, count - 1)) is not None:
                return hits[:count]
        return []

    def start(self, request: Request, num_blocks: int) -> None:
        """Begin behind so many cached blocks, as `usable` found them."""
        record = NO_RECORD
        if num_blocks:
            found = self._pool.find(self._prefix.key(request, num_blocks - 1))
            assert found is not None, "the record of a prefix is gone"
            record = found
            self._pool.hold([record])
        self._held[request] = _Held(record)

    @property
    def has_room(self) -> bool:
        """Whether one more use can be planned, which is certain where no plan is open."""
        return self._pool.num_free > 0

    def plan(self, request: Request, start: int, end: int) -> StateUse:
        """The records with which positions start .. end - 1 are computed."""
        held, pool = self._held[request], self._pool
        read = held.uses[-1].write if held.uses else held.current
        write = read
        if read == NO_RECORD or not pool.is_private(read) or self._will_be_kept(held, start):
            (write,) = pool.take(1)
        mark, kept = self._mark(request, start, end), NO_RECORD
        if mark and pool.num_free > self._least_free:
            (kept,) = pool.take(1)
        held.uses.append(StateUse(read, write, mark if kept != NO_RECORD else 0, kept))
        return held.uses[-1]

    def undo(self, request: Request) -> None:
        """Take back what was planned last."""
        use = self._held[request].uses.pop()
        taken = {use.write, use.kept} - {use.read, NO_RECORD}
        self._pool.release(sorted(taken))

    def advance(self, request: Request, start: int, end: int) -> None:
        """Note that the oldest use is computed; keep the states that are worth it."""
        held, pool = self._held[request], self._pool
        use = held.uses.pop(0)
        if use.write != held.current and held.current != NO_RECORD:
            pool.release([held.current])
        held.current = use.write
        if use.kept != NO_RECORD:
            self._keep(request, use.kept, start + use.mark)
            pool.release([use.kept])
        if end % self._block_tokens == 0:
            self._keep(request, use.write, end)

    def give_up(self, request: Request) -> None:
        """Take back the records of a request that stops running, perhaps within a plan."""
        self._pool.release(self._held.pop(request).records)

    def check(self, running: Sequence[Request]) -> None:
        """Assert that the running requests hold what is held."""
        assert set(self._held) == set(running), "records of requests that do not run"
        self._pool.check([held.records for held in self._held.values()])

    def _will_be_kept(self, held: _Held, position: int) -> bool:
        """Whether the commit of the open plan lets others find the state behind it."""
        return bool(held.uses) and self._prefix.enabled and position % self._block_tokens == 0

    def _mark(self, request: Request, start: int, end: int) -> int:
        """How many tokens of a chunk stand before a position to keep; 0: none is inside it."""
        if not self._prefix.enabled:
            return 0
        last = self._prompt_end(request)
        position = last if start < last < end else (end - 1) // self._every * self._every
        return position - start if start < position < end else 0

    def _keep(self, request: Request, record: int, position: int) -> None:
        """Let others find the state behind a position, which ends a block."""
        if not self._prefix.enabled:
            return
        held, size = self._held[request], self._block_tokens
        key = self._prefix.key(request, position // size - 1)
        self._pool.publish(record, key)
        if held.latest is not None and held.latest != key:
            self._pool.forget(held.latest)
        lasting = position % self._every == 0 or position == self._prompt_end(request)
        held.latest = None if lasting or self._pool.find(key) != record else key

    def _prompt_end(self, request: Request) -> int:
        """Behind the last block of a prompt that can be a hit: one token is always computed."""
        return (request.num_prompt - 1) // self._block_tokens * self._block_tokens
