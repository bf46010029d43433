"""Turns a requested output format into the set of tokens allowed next, through llguidance."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from quire.errors import RequestError
from quire.sampling_params import StructuredOutput
from quire.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    from llguidance import LLMatcher, LLTokenizer

__all__ = ["GrammarCompiler", "GrammarMatcher"]

NUM_KEPT = 64  # compiled grammars; one takes 1 MB or so, and up to seconds to compile
MAX_MESSAGE = 500  # characters of a message that may repeat the whole grammar
LINE = "\n"  # text behind it gets no extra space in front
# White space is unbounded by default, and a small model may write it for ever.
JSON_OPTIONS: Any = {"whitespace_pattern": r"(\n {0,8}| )?"}


class GrammarMatcher:
    """Where one output stands in its grammar."""

    def __init__(
        self, matcher: LLMatcher, vocab_size: int, eos_token_ids: frozenset[int], param: str
    ) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._mask_bytes = (vocab_size + 31) // 32 * 4
        self._eos_token_ids = eos_token_ids
        self._param = param

    def copy(self) -> GrammarMatcher:
        """Another output that stands in the same place."""
        matcher, size = self._matcher.deep_copy(), self._vocab_size
        return GrammarMatcher(matcher, size, self._eos_token_ids, self._param)

    def fill_mask(self, row: np.ndarray[Any, np.dtype[np.int32]]) -> None:
        """Set one bit for each token allowed next; end-of-text tokens where the grammar may end.

        row: [ceil(vocab_size / 32)] int32, contiguous; token t is bit t % 32 of word t // 32.
        Raises RequestError where the grammar turns out to be too complex.
        """
        if row.nbytes != self._mask_bytes or not row.flags.c_contiguous:
            raise ValueError(f"the mask row has {row.nbytes} bytes; it needs {self._mask_bytes}")
        self._matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        _check(self._matcher, self._param)

    def accept(self, token: int) -> bool:
        """Go on by one token; False, and no step, if the grammar does not allow it."""
        if token in self._eos_token_ids and self._matcher.is_accepting():
            return self._matcher.consume_token(token)
        return self._matcher.try_consume_tokens([token]) == 1

    def is_finished(self) -> bool:
        """Whether nothing but the end of the text may follow."""
        return self._matcher.is_stopped()


class GrammarCompiler:
    """Compiles formats for one tokenizer; its own table is built at the first use.

    For 150,000 tokens that takes 1.4 s.  Raises RequestError for a model without end of text.

    vocab_size: the model's, which may be larger than the tokenizer's; ids that the tokenizer does
    not know are never allowed.  eos_token_ids: allowed where the grammar may end.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        if not eos_token_ids:
            raise RequestError(
                "structured output needs an end-of-text token, and the model has none",
                "structured_outputs",
            )
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_token_ids = list(eos_token_ids)
        self._compiled = functools.lru_cache(NUM_KEPT)(self._compile)

    def compile(
        self, structured: StructuredOutput, param: str = "structured_outputs"
    ) -> GrammarMatcher:
        """A matcher at the beginning of the grammar; equal grammars are compiled once.

        Raises RequestError, with `param` as the field at fault, for a grammar that is not valid.
        """
        matcher = self._compiled(_grammar(structured, param), param).deep_copy()
        return GrammarMatcher(matcher, self._vocab_size, frozenset(self._eos_token_ids), param)

    def _compile(self, grammar: str, param: str) -> LLMatcher:
        from llguidance import LLMatcher

        matcher = LLMatcher(self._table, grammar, log_level=0)
        _check(matcher, param)
        return matcher

    @functools.cached_property
    def _table(self) -> LLTokenizer:
        from llguidance import LLTokenizer, TokenizerWrapper

        words = _Words(self._tokenizer, self._vocab_size, self._eos_token_ids[0])
        return LLTokenizer(TokenizerWrapper(words), eos_token=self._eos_token_ids)


class _Words:
    """The vocabulary as llguidance wants it: the bytes of every id, empty where there is none.

    Where a grammar leaves one text only, llguidance asks how that text is usually tokenized.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_id: int) -> None:
        self.eos_token_id = eos_token_id
        self.bos_token_id = None
        self.special_token_ids = [i for i in tokenizer.special_ids if i < vocab_size]
        self.tokens = [tokenizer.token_bytes(token) for token in range(vocab_size)]
        self._encode = functools.partial(tokenizer.encode, add_special_tokens=False)
        self._special = tokenizer.special_ids

    def __call__(self, data: bytes) -> list[int]:
        """The tokens of text that stands after other text; special tokens are not recognised."""
        text = data.decode("utf-8", "replace")
        prefix = self._encode(LINE)
        for ids in (self._encode(text), self._encode(LINE + text)[len(prefix) :]):
            exact = b"".join(map(self.tokens.__getitem__, ids)) == data
            if exact and not self._special.intersection(ids):
                return ids
        return self._longest_matches(data)

    def _longest_matches(self, data: bytes) -> list[int]:
        ids, at = [], 0
        while at < len(data):
            end = min(len(data), at + self._longest)
            while end > at + 1 and data[at:end] not in self._ids:
                end -= 1
            ids += [self._ids[data[at:end]]] if data[at:end] in self._ids else []
            at = end
        return ids

    @functools.cached_property
    def _ids(self) -> dict[bytes, int]:
        return {word: i for i, word in enumerate(self.tokens) if i not in self._special}

    @functools.cached_property
    def _longest(self) -> int:
        return max(map(len, self.tokens))


def _grammar(structured: StructuredOutput, param: str) -> str:
    from llguidance import LLMatcher, regex_to_lark

    if structured.regex is not None:  # `\d` means 0-9, as in other engines
        return LLMatcher.grammar_from_lark("start: /" + regex_to_lark(structured.regex, "d") + "/")
    if structured.grammar is not None:
        return LLMatcher.grammar_from_lark(structured.grammar)
    if structured.choice is not None:
        return LLMatcher.grammar_from_lark(_choice(structured.choice, param))
    schema = {"type": "object"} if structured.json_object else _schema(structured.json, param)
    try:
        return LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=JSON_OPTIONS)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"the JSON schema is not valid: {error}", param) from error


def _schema(schema: Any, param: str) -> Mapping[str, Any]:
    """The schema as an object; `true` allows any value."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"the JSON schema is not JSON: {error}", param) from error
    if schema is True:
        return {}
    if not isinstance(schema, Mapping):
        raise RequestError(f"the JSON schema is {schema!r}; give a JSON object", param)
    return schema


def _choice(choices: Sequence[str], param: str) -> str:
    if not choices or not all(isinstance(choice, str) and choice for choice in choices):
        raise RequestError(f"choice is {list(choices)!r}; give non-empty strings", param)
    return "start: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)


def _check(matcher: LLMatcher, param: str) -> None:
    """llguidance never raises; it goes into an error state instead."""
    if matcher.is_error():
        message = matcher.get_error().strip()[:MAX_MESSAGE]
        raise RequestError(f"the grammar cannot be used: {message}", param)
