"""Turns what the engine says about one completion into deltas with text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from quire.control.plan import Update
from quire.outputs import Delta, TokenLogprobs
from quire.sampling_params import SamplingParams
from quire.text.detokenize import make_detokenizer
from quire.text.stop_strings import StopStringFinder
from quire.text.tokenizer import Tokenizer

__all__ = ["OutputAssembler"]


class OutputAssembler:
    """One completion, from tokens to text.

    stopped: a stop string was found, so the caller must cancel the request in the engine, which
    does not know about text.  finished: a delta with a finish_reason was returned; every later
    update yields that delta again, without text and tokens.
    """

    __slots__ = (
        "_detokenizer",
        "_finder",
        "_last",
        "_min_tokens",
        "_num_tokens",
        "_show_stop_token",
        "_tokenizer",
        "index",
        "stopped",
    )

    def __init__(
        self, index: int, tokenizer: Tokenizer, prompt_ids: Sequence[int], params: SamplingParams
    ) -> None:
        self.index = index
        self.stopped = False
        self._tokenizer = tokenizer
        self._detokenizer = make_detokenizer(tokenizer, prompt_ids, params.skip_special_tokens)
        self._show_stop_token = params.include_stop_str_in_output
        self._finder: StopStringFinder | None = None
        if params.stop:
            self._finder = StopStringFinder(params.stop, params.include_stop_str_in_output)
        self._min_tokens = params.min_tokens
        self._num_tokens = 0
        self._last: Delta | None = None

    @property
    def finished(self) -> bool:
        """Whether the last delta has been returned."""
        return self._last is not None

    def push(self, update: Update) -> Delta:
        """Add what one step brought; log-probabilities get their tokens' text here.

        The token that ended the completion is in the delta's token_ids but not in its text, unless
        the parameters include the stop in the output.  Tokens behind a stop string are dropped.
        """
        if self._last is not None:
            return replace(self._last, metrics=update.details.metrics)
        stop_reason: str | int | None
        tokens, finish_reason, stop_reason = update.tokens, update.finish_reason, update.stop_reason
        logprobs, prompt_logprobs, metrics = update.details
        is_over, shown = finish_reason is not None, tokens
        if finish_reason == "stop" and not self._show_stop_token:
            shown = tokens[:-1]
        if self._finder is None:
            text = self._detokenizer.push(shown)
            if is_over:
                text += self._detokenizer.finish()
        else:
            text, num_taken = self._find_stop(self._finder, tokens, len(shown), is_over)
            if self.stopped:
                tokens, finish_reason, stop_reason = tokens[:num_taken], "stop", self._finder.found
        if logprobs is not None:
            logprobs = tuple(map(self.name_tokens, logprobs[: len(tokens)]))
        if prompt_logprobs is not None:
            prompt_logprobs = tuple(entry and self.name_tokens(entry) for entry in prompt_logprobs)
        if finish_reason is not None:
            self._last = Delta(self.index, "", (), None, finish_reason, stop_reason)
        return Delta(
            self.index,
            text,
            tokens,
            logprobs,
            finish_reason,
            stop_reason,
            update.num_cached_tokens,
            prompt_logprobs,
            metrics,
        )

    def name_tokens(self, entry: TokenLogprobs) -> TokenLogprobs:
        """The entry with the text of every token in it."""
        return {
            token: value._replace(decoded_token=self._tokenizer.token_text(token))
            for token, value in entry.items()
        }

    def _find_stop(
        self, finder: StopStringFinder, tokens: Sequence[int], num_shown: int, is_over: bool
    ) -> tuple[str, int]:
        """The text of the tokens up to a stop string, and how many tokens that takes."""
        text = ""
        for taken, token in enumerate(tokens[:num_shown], start=1):
            self._num_tokens += 1
            text += self._certain(finder, self._detokenizer.push((token,)))
            if self.stopped:
                return text, taken
        self._num_tokens += len(tokens) - num_shown
        if is_over:
            text += self._certain(finder, self._detokenizer.finish())
            text += finder.finish()
        return text, len(tokens)

    def _certain(self, finder: StopStringFinder, text: str) -> str:
        certain = finder.push(text, counts=self._num_tokens > self._min_tokens)
        self.stopped = finder.found is not None
        return certain
