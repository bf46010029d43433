"""Turns what the engine says about one completion into deltas with text."""

from __future__ import annotations

from collections.abc import Sequence

from quire.control.plan import Update
from quire.outputs import Delta, RequestMetrics, TokenLogprobs
from quire.sampling_params import SamplingParams
from quire.text.detokenize import Detokenizer
from quire.text.stop_strings import StopStringFinder
from quire.text.tokenizer import Tokenizer

__all__ = ["OutputAssembler"]


class OutputAssembler:
    """One completion, from tokens to text.

    stopped: a stop string was found, so the caller must cancel the request in the engine, which
    does not know about text.  finished: a delta with a finish_reason was returned; every later
    update yields that delta again, without text and tokens.
    """

    def __init__(
        self, index: int, tokenizer: Tokenizer, prompt_ids: Sequence[int], params: SamplingParams
    ) -> None:
        self.index = index
        self.stopped = False
        self.finished = False
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer, prompt_ids, params.skip_special_tokens)
        self._finder = StopStringFinder(params.stop, params.include_stop_str_in_output)
        self._min_tokens = params.min_tokens
        self._show_stop_token = params.include_stop_str_in_output
        self._num_tokens = 0
        self._last = Delta(index, "", ())

    def push(
        self,
        update: Update,
        logprobs: Sequence[TokenLogprobs] | None = None,
        prompt_logprobs: Sequence[TokenLogprobs | None] | None = None,
        metrics: RequestMetrics | None = None,
    ) -> Delta:
        """Add what one step brought.

        logprobs: one entry per token of the update; prompt_logprobs: one per token of the prompt,
        the first of them None; entries get their tokens' text here.
        The token that ended the completion is in the delta's token_ids but not in its text, unless
        the parameters include the stop in the output.  Tokens behind a stop string are dropped.
        """
        if self.finished:
            return self._last._replace(metrics=metrics)
        text, num_taken = self._read(update)
        finish_reason: str | None = update.finish_reason
        stop_reason: str | int | None = update.stop_reason
        if finish_reason is not None and not self.stopped:
            text += self._flush()
        if self.stopped:
            finish_reason, stop_reason = "stop", self._finder.found
        named = None if logprobs is None else tuple(map(self.name_tokens, logprobs[:num_taken]))
        if finish_reason is not None:
            self.finished = True
            self._last = Delta(
                self.index, "", (), finish_reason=finish_reason, stop_reason=stop_reason
            )
        prompt = prompt_logprobs
        if prompt is not None:
            prompt = tuple(entry and self.name_tokens(entry) for entry in prompt)
        return Delta(
            self.index,
            text,
            update.tokens[:num_taken],
            logprobs=named,
            finish_reason=finish_reason,
            stop_reason=stop_reason,
            num_cached_tokens=update.num_cached_tokens,
            prompt_logprobs=prompt,
            metrics=metrics,
        )

    def name_tokens(self, entry: TokenLogprobs) -> TokenLogprobs:
        """The entry with the text of every token in it."""
        return {
            token: value._replace(decoded_token=self._tokenizer.token_text(token))
            for token, value in entry.items()
        }

    def _read(self, update: Update) -> tuple[str, int]:
        """The text of the update's tokens, and how many of them count."""
        hide_last = update.finish_reason == "stop" and not self._show_stop_token
        text = ""
        for taken, token in enumerate(update.tokens, start=1):
            self._num_tokens += 1
            if hide_last and taken == len(update.tokens):
                break
            text += self._find_stop(self._detokenizer.push((token,)))
            if self.stopped:
                return text, taken
        return text, len(update.tokens)

    def _flush(self) -> str:
        text = self._find_stop(self._detokenizer.finish())
        return text if self.stopped else text + self._finder.finish()

    def _find_stop(self, text: str) -> str:
        certain = self._finder.push(text, counts=self._num_tokens > self._min_tokens)
        self.stopped = self._finder.found is not None
        return certain
