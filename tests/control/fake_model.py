"""A fake model, with cache, store and drafter, that notices every wrong block.

The fake cache holds one number per cell.  The number at a position is a hash of every number the
request reads before it *through its block table*, and of its own token; the next token is a hash of
all of them.  So a wrong prefix hit, a stale, shared or doubly used block changes the output, which
must equal that of the request alone.  It may have recurrent layers: then requests carry the hash of
all their numbers in records, and what they read there must be what their blocks say.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from quire.control.plan import NO_RECORD, NO_STATE, Chunk
from quire.control.request import Request
from quire.control.stop import StopRules

VOCABULARY = 200


def root(salt: bytes) -> int:
    """Where a request's values begin; the salt changes all of them."""
    return hash((7, *salt))


def pick(state: int, forbidden: frozenset[int]) -> int:
    """The greedy token of the fake model in this state, among those not forbidden."""
    token = state % VOCABULARY
    while token in forbidden:
        token = (token + 1) % VOCABULARY
    return token


def state_of(salt: bytes, values: Sequence[int], window: int | None) -> int:
    """What a token sees that stands behind these values: the last window - 1 of them, or all."""
    state = root(salt)
    for value in values if window is None else values[max(0, len(values) - window + 1) :]:
        state = hash((state, value))
    return state


def alone(
    salt: bytes, values: list[int], state: int, stop: StopRules, num_output: int, window: int | None
) -> Iterator[int]:
    """The tokens behind these values when nothing is cached, batched or cut; never ends.

    state: all that the next token is drawn from.
    """
    stops = stop.stop_token_ids | (frozenset() if stop.ignore_eos else stop.eos_token_ids)
    values = values.copy()
    while True:
        token = pick(state, stops if num_output < stop.min_tokens else frozenset())
        yield token
        before = state if window is None else state_of(salt, values, window)
        values.append(hash((before, token)))
        state, num_output = hash((before, values[-1])), num_output + 1


def expected(
    request: Request, prompt: Sequence[int], window: int | None
) -> tuple[list[int], str, int | None]:
    """The output of a request run by itself, and why it ends, by rules written a second time."""
    stop, output, values, state = request.stop, [], [], root(request.cache_salt)
    for token in prompt:
        state = state_of(request.cache_salt, values, window)
        values.append(hash((state, token)))
        state = hash((state, values[-1]))
    for token in alone(request.cache_salt, values, state, stop, 0, window):
        output.append(token)
        if len(output) - 1 >= stop.min_tokens:
            if token in stop.eos_token_ids and not stop.ignore_eos:
                return output, "stop", None
            if token in stop.stop_token_ids:
                return output, "stop", token
        if len(output) == stop.max_tokens:
            return output, "length", None
    raise AssertionError("unreachable")


class FakeDrafter:
    """Guesses what it looks up in the truth, often spoilt from some place on.

    truth: all output of a request.  right: the chance of each guess to stay right.
    """

    def __init__(
        self, random: random.Random, right: float, truth: Callable[[Request], Sequence[int]]
    ) -> None:
        self.random = random
        self.right = right
        self.truth = truth
        self.started: set[Request] = set()
        self.num_wrong = self.num_right = 0

    def propose(self, requests: Sequence[Request], num_tokens: int, room: int) -> list[list[int]]:
        drafts = []
        for request in requests:
            assert request.allow_drafts
            self.started.add(request)
            draft = list(self.truth(request)[request.num_output :][: self.random.randint(0, 7)])
            for place in range(len(draft)):
                if self.random.random() >= self.right:
                    draft[place] = (draft[place] + 1) % VOCABULARY
            draft = draft[:room]
            drafts.append(draft)
            room -= len(draft)
        return drafts

    def note(self, request: Request, num_drafted: int, num_accepted: int) -> None:
        assert request in self.started
        assert 0 <= num_accepted <= num_drafted > 0
        self.num_right += num_accepted
        self.num_wrong += num_drafted - num_accepted

    def observe(self, num_tokens: int, seconds: float) -> None:
        assert num_tokens > 0 and seconds == 0.5

    def finish(self, request: Request) -> None:
        self.started.discard(request)


class FakeStore:
    """Keeps contents of blocks, but drops some, and fails to load some: then it forgets them."""

    def __init__(
        self, random: random.Random, model: FakeModel, reliable: float, outlives_process: bool
    ) -> None:
        self.outlives_process = outlives_process
        self.random = random
        self.model = model
        self.reliable = reliable
        self.contents: dict[bytes, list[int]] = {}
        self.num_loaded = self.num_failed = 0

    def has(self, key: bytes) -> bool:
        return key in self.contents

    def save(self, key: bytes, block: int) -> None:
        content = self.model.cells[self._cells(block)]
        assert self.contents.get(key, content) == content, "one key, two contents"
        if self.random.random() < self.reliable:
            self.contents[key] = content

    def touch(self, keys: list[bytes]) -> None:
        assert keys

    def load(self, chunk: Chunk) -> int:
        """Load what a chunk asks for; how many of the first blocks were loaded."""
        size, keys, blocks = self.model.block_tokens, chunk.load_keys, chunk.load_blocks
        first = chunk.start // size - len(keys)
        assert list(blocks) == list(chunk.block_table[first : chunk.start // size])
        for count, (key, block) in enumerate(zip(keys, blocks, strict=True)):
            if key not in self.contents or self.random.random() >= self.reliable:
                self.contents.pop(key, None)
                self.num_failed += 1
                return count
            self.model.cells[self._cells(block)] = self.contents[key]
            self.num_loaded += 1
        return len(keys)

    def _cells(self, block: int) -> slice:
        size = self.model.block_tokens
        return slice(block * size, (block + 1) * size)


class FakeModel:
    """Runs plans over cells of numbers.

    window: how many positions a token sees, its own included; it reads no others.
    """

    def __init__(
        self, num_blocks: int, block_tokens: int, window: int | None, num_records: int | None
    ) -> None:
        self.block_tokens = block_tokens
        self.window = window
        self.cells = [0] * (num_blocks * block_tokens)
        self.pending: list[tuple[int, int]] = []
        self.records = None if num_records is None else [0] * num_records
        self.pending_records: list[tuple[int, int]] = []

    def run(self, chunk: Chunk, request: Request) -> list[int]:
        """The next tokens of a chunk if it samples, else []; its values stay aside until `write`.

        So no chunk sees what another one of the same step computes.  Wrong guesses leave their
        values behind like right ones.
        """
        assert len(chunk.block_table) * self.block_tokens >= chunk.start + len(chunk.tokens)
        salt, window = request.cache_salt, self.window
        first = 0 if window is None else max(0, chunk.start - window + 1)
        values = [0] * first  # nobody sees these
        values += [self.cells[self._cell(chunk, at)] for at in range(first, chunk.start)]
        state = state_of(salt, values, window)
        self._check_record(chunk, salt, state)
        guessed_from = chunk.start + len(chunk.tokens) - chunk.num_drafts
        right, yielded = chunk.samples, list[int]()
        for at, token in enumerate(chunk.tokens, chunk.start):
            if at >= guessed_from:
                right = right and yielded[-1] == token
            if window is not None:
                state = state_of(salt, values, window)
            values.append(hash((state, token)))
            self.pending.append((self._cell(chunk, at), values[-1]))
            state = hash((state, values[-1]))
            if at + 1 - chunk.start == chunk.state.mark:
                self.pending_records.append((chunk.state.kept, state))
            if right and at + 1 >= guessed_from:
                num_output = at + 1 - request.num_prompt
                yielded.append(next(alone(salt, values, state, request.stop, num_output, window)))
        if self.records is not None:
            self.pending_records.append((chunk.state.write, state))
        return yielded

    def _check_record(self, chunk: Chunk, salt: bytes, state: int) -> None:
        """What stands in the record that a chunk reads must be the state behind its blocks."""
        if self.records is None:
            assert chunk.state is NO_STATE
            return
        read, found = chunk.state.read, root(salt)
        if read != NO_RECORD:
            found = self.records[read]
        assert found == state, "the state of other tokens"
        assert (read == NO_RECORD) == (chunk.start == 0)

    def _cell(self, chunk: Chunk, position: int) -> int:
        block = chunk.block_table[position // self.block_tokens]
        assert block >= 0, "a block that the window has passed is read"
        return block * self.block_tokens + position % self.block_tokens

    def write(self) -> None:
        """Store what the step computed; two values for one cell would be a doubly used block."""
        assert len(dict(self.pending)) == len(self.pending), "a cell is written twice"
        for cell, value in self.pending:
            self.cells[cell] = value
        self.pending.clear()
        written = dict(self.pending_records)
        assert len(written) == len(self.pending_records), "a record is written twice"
        for record, state in written.items():
            assert self.records is not None
            self.records[record] = state
        self.pending_records.clear()
