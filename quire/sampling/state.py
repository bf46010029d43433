"""What the sampler must know of one request: its parameters as arrays, and its prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from quire.errors import RequestError
from quire.outputs import Logprob
from quire.sampling_params import SamplingParams

__all__ = ["GrammarState", "SampleRow", "SampledRows", "SamplingState"]

Int32 = npt.NDArray[np.int32]


class GrammarState(Protocol):
    """The grammar that one completion must follow, and how far it has come."""

    def copy(self) -> GrammarState:
        """The same for another completion."""
        ...

    def fill_mask(self, row: Int32) -> None:
        """Set the bit of every token that may come next; row: ceil(V / 32) words."""
        ...

    def accept(self, token: int) -> bool:
        """Move past a token; False when the grammar does not allow it."""
        ...


class SamplingState:
    """One completion's sampling parameters; only the mask of a grammar changes while it runs.

    prompt: token ids.  seed: fixes every draw together with the output index.  forbidden: tokens
    that may not be drawn before min_tokens.  bad_words: token id sequences that may not appear.
    reads_output: what was generated so far changes what is drawn next.
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
        penalties = params.repetition_penalty, params.presence_penalty, params.frequency_penalty
        self.reads_output = bool(flat) or penalties != (1.0, 0.0, 0.0)

    def refresh_mask(self) -> None:
        """Ask the grammar which tokens may come next; none, if it turns out to be too complex."""
        if self.grammar is None or self.mask is None:
            return
        try:
            self.grammar.fill_mask(self.mask)
        except RequestError:  # ends this request, whose row then has nothing to choose from
            self.mask[:] = 0


class SampleRow(NamedTuple):
    """What one row of logits is for.

    output: the tokens that the request generated before, guesses included; the last one may be
    UNKNOWN_TOKEN, where a device samples while it is not known on the host.
    target < 0: draw the next token.  target >= 0: draw nothing, report on that token (the next
    token of the prompt).
    """

    state: SamplingState
    output: Int32
    target: int = -1

    @property
    def num_logprobs(self) -> int:
        """How many of the most likely tokens to report; < 0: no log-probabilities at all."""
        params = self.state.params
        wanted = params.logprobs if self.target < 0 else params.prompt_logprobs
        return -1 if wanted is None else wanted


class SampledRows(NamedTuple):
    """What came of a step's logit rows, in columns, as most steps want one number of each row.

    tokens: what was drawn, or the row's target; -1: the logits held nothing to choose from.
    logprobs: by the place of each row that asked for them and has a token: the token first, then
    the most likely ones.
    """

    tokens: list[int]
    logprobs: Mapping[int, dict[int, Logprob]]
