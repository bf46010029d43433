"""What the sampler must know of one request: parameters as arrays, and the tokens so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from quire.errors import RequestError
from quire.outputs import Logprob
from quire.sampling_params import SamplingParams

__all__ = ["GrammarState", "SampleRow", "SampledRow", "SampledRows", "SamplingState"]

Int32 = npt.NDArray[np.int32]


class GrammarState(Protocol):
    """The grammar that one completion must follow, and how far it has come."""

    def fill_mask(self, row: Int32) -> None:
        """Set the bit of every token that may come next; row: ceil(V / 32) words."""
        ...

    def accept(self, token: int) -> bool:
        """Move past a token; False when the grammar does not allow it."""
        ...


class SamplingState:
    """One completion's sampling parameters and history; lives as long as the request runs.

    prompt: token ids.  seed: fixes every draw together with the output index.  forbidden: tokens
    that may not be drawn before min_tokens.  bad_words: token id sequences that may not appear.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        seed: int,
        forbidden: Sequence[int] = (),
        bad_words: Sequence[Sequence[int]] = (),
        grammar: GrammarState | None = None,
        vocab_size: int = 0,
    ) -> None:
        self.params = params
        self.seed = seed % 2**64
        self.prompt = np.asarray(prompt, np.int32)
        self.forbidden = np.asarray(sorted(forbidden), np.int32)
        self.bias_ids = np.asarray(list(params.logit_bias), np.int32)
        self.bias = np.asarray(list(params.logit_bias.values()), np.float32)
        self.allowed = np.asarray(params.allowed_token_ids or (), np.int32)
        flat = [token for word in bad_words for token in (len(word), *word)]
        self.bad_words = np.asarray(flat, np.int32)
        self.grammar = grammar
        self.mask = np.zeros(-(-vocab_size // 32), np.int32) if grammar is not None else None
        self._output = np.zeros(16, np.int32)
        self.num_output = 0
        self.native: Any = None  # the native backend keeps its record of this state here, as bytes

    @property
    def output(self) -> Int32:
        """The tokens generated so far."""
        return self._output[: self.num_output]

    @property
    def output_address(self) -> int:
        """Where the generated tokens stand; it changes only when `native` is reset."""
        return int(self._output.ctypes.data)

    def guess(self, tokens: Sequence[int]) -> None:
        """Write guesses behind the output, for rows that are sampled as if they were right."""
        end = self.num_output + len(tokens)
        self._reserve(end)
        self._output[self.num_output : end] = tokens

    def output_with_guesses(self, num_guesses: int) -> Int32:
        """The output and the first guesses behind it."""
        return self._output[: self.num_output + num_guesses]

    def append(self, token: int) -> None:
        """Note a generated token and move the grammar past it."""
        if self.num_output == len(self._output):
            self._reserve(self.num_output + 1)
        self._output[self.num_output] = token
        self.num_output += 1
        if self.grammar is not None:
            self.grammar.accept(token)

    def _reserve(self, size: int) -> None:
        if size > len(self._output):
            grown = np.zeros(max(size, 2 * len(self._output)), np.int32)
            grown[: len(self._output)] = self._output
            self._output, self.native = grown, None


class SampleRow(NamedTuple):
    """What one row of logits is for.

    target < 0: draw the next token.  target >= 0: draw nothing, report on that token (the next
    token of the prompt).  num_logprobs < 0: report no log-probabilities.
    num_guesses: how many guessed tokens stand before the one drawn, as if they were output.
    guess: what was guessed to be drawn, -1 for nothing.
    """

    state: SamplingState
    num_logprobs: int = -1
    target: int = -1
    num_guesses: int = 0
    guess: int = -1

    @property
    def output_index(self) -> int:
        """The place in the output of the token that is drawn."""
        return self.state.num_output + self.num_guesses

    def refresh_mask(self) -> None:
        """Ask the grammar which tokens may come next; none, if it turns out to be too complex."""
        state = self.state
        if state.grammar is None or state.mask is None or self.target >= 0:
            return
        try:
            state.grammar.fill_mask(state.mask)
        except RequestError:  # ends this request, whose row then has nothing to choose from
            state.mask[:] = 0


class SampledRow(NamedTuple):
    """What came of a SampleRow; token -1: the logits held nothing to choose from.

    logprobs: the token first, then the most likely ones; None when not asked for.
    """

    token: int
    logprobs: dict[int, Logprob] | None = None


@dataclass(frozen=True, slots=True)
class SampledRows(Sequence[SampledRow]):
    """What came of a step's rows, in columns, as most steps want one number of each row.

    logprobs: by the place of a row that asked for them and has a token.
    """

    tokens: list[int]
    logprobs: Mapping[int, dict[int, Logprob]]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, place: int) -> SampledRow:  # type: ignore[override]
        return SampledRow(self.tokens[place], self.logprobs.get(place))
