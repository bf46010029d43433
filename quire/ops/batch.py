"""The arrays that describe one step's tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["Batch"]

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Batch:
    """T tokens of R requests, the tokens of a request side by side; every array int32, contiguous.

    token_ids, positions: [T].  rope_rows: [T], the row of the rope tables to rotate by.
    query_start: [R + 1], request r owns tokens query_start[r] .. query_start[r + 1] - 1.
    block_tables: [R, any], the block ids of each request, enough for its last position.
    logit_rows: [S], ascending token indices whose logits are wanted.
    states: [R, 4], read, write, mark, kept: the record of recurrent state that a request follows on
    (-1: none, it begins here) and the one that it leaves; behind its first `mark` tokens of this
    step, unless that is 0, it leaves `kept` as well.  Unused by models without such layers.
    frequencies: one table per distinct rope of the model, [rows, dims/2 + 1] float32; a row for
    each rope class in use has the inverse frequencies and a factor on cosines and sines.
    slots: [R], where an executable that samples knows each request; see Executable.
    given_rows: [any, E] float32, rows that stand in the place of embeddings: the token id -1 - i
    is row i of them.  axis_positions: [T, 3], time, row and column of each token, which ropes with
    sections turn by; None: its position, three times.
    A token id UNKNOWN_TOKEN is known to the device alone, see LaunchingExecutable; elsewhere there
    is none.
    A batch may serve for steps in turn: then token_ids, positions and block_tables are filled anew.
    """

    token_ids: Int32
    positions: Int32
    rope_rows: Int32
    query_start: Int32
    block_tables: Int32
    logit_rows: Int32
    frequencies: tuple[npt.NDArray[np.float32], ...]
    slots: Int32 = field(default_factory=lambda: np.zeros(0, np.int32))
    states: Int32 = field(default_factory=lambda: np.zeros((0, 4), np.int32))
    given_rows: npt.NDArray[np.float32] | None = None
    axis_positions: Int32 | None = None

    @classmethod
    def single(
        cls,
        tokens: Sequence[int],
        start: int,
        block_table: Sequence[int],
        frequencies: tuple[npt.NDArray[np.float32], ...],
    ) -> Batch:
        """One request's tokens at positions start and on; the logits of every one are wanted.

        Its recurrent state stands in record 0.
        """
        count = len(tokens)
        return cls(
            token_ids=np.asarray(tokens, np.int32),
            positions=np.arange(start, start + count, dtype=np.int32),
            rope_rows=np.zeros(count, np.int32),
            query_start=np.asarray([0, count], np.int32),
            block_tables=np.asarray([block_table], np.int32),
            logit_rows=np.arange(count, dtype=np.int32),
            frequencies=frequencies,
            states=np.asarray([[0 if start else -1, 0, 0, 0]], np.int32),
        )

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.token_ids)

    @property
    def num_requests(self) -> int:
        """R."""
        return len(self.query_start) - 1

    @property
    def is_decoding(self) -> bool:
        """Whether each request has a single token."""
        return bool((np.diff(self.query_start) == 1).all())

    def request_of_token(self) -> Int32:
        """[T]: the request each token belongs to."""
        counts = np.diff(self.query_start)
        return np.repeat(np.arange(self.num_requests, dtype=np.int32), counts)

    def state_segments(self) -> Iterator[tuple[int, int, int, int]]:
        """First token, the one behind the last, record to read and to write; in running order."""
        ends = self.query_start.tolist()
        for request, (read, write, mark, kept) in enumerate(self.states.tolist()):
            start, end = ends[request], ends[request + 1]
            if mark:
                yield start, start + mark, read, kept
                start, read = start + mark, kept
            yield start, end, read, write
