"""Turns texts and pairs of texts into engine requests, and their vectors into answers."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.control.request import Request
from quire.control.stop import StopRules
from quire.errors import EngineError, RequestError
from quire.frontend import Completion, Prepared
from quire.models.pooling import Pooling
from quire.models.spec import ModelSpec
from quire.runtime.rope_tables import RopeTables
from quire.sampling.pooled import PooledState
from quire.sampling_params import SamplingParams
from quire.text.output import OutputAssembler
from quire.text.pairs import encode_judgement, encode_pair, single_token
from quire.text.tokenizer import Tokenizer

__all__ = ["PoolingFrontend"]

Float32 = npt.NDArray[np.float32]


class PoolingFrontend:
    """Knows one embedding or scoring model's tokenizer and limits.

    max_tokens: the longest input.  limit: what sets it, for messages.
    """

    def __init__(
        self,
        spec: ModelSpec,
        tokenizer: Tokenizer,
        pooling: Pooling,
        ropes: RopeTables,
        max_tokens: int,
        limit: str,
    ) -> None:
        self._spec = spec
        self._tokenizer = tokenizer
        self._pooling = pooling
        self._ropes = ropes
        self._max_tokens = max_tokens
        self._limit = limit

    def prepare_text(self, prompt: str | Sequence[int]) -> Prepared:
        """A request for the embedding of a text.  Raises RequestError, naming the field."""
        self._refuse_unless("embed")
        text = prompt if isinstance(prompt, str) else None
        tokens = self._tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        return self._prepared(tokens, text, "input")

    def prepare_pair(self, query: str, document: str, instruction: str | None = None) -> Prepared:
        """A request for the score of a pair.  Raises RequestError, naming the field.

        instruction: what counts as a match, for models that are told.
        """
        self._refuse_unless("score")
        if self._pooling.answers is None:
            if instruction is not None:
                raise RequestError("this model takes no instruction; leave it out", "instruction")
            tokens = encode_pair(self._tokenizer, query, document)
        else:
            tokens = encode_judgement(self._tokenizer, query, document, instruction)
        return self._prepared(tokens, None, "documents")

    def check_dimensions(self, dimensions: int | None) -> None:
        """Raise RequestError for a length that embeddings cannot be cut to."""
        if dimensions is None or dimensions == self._spec.width:
            return
        if not self._pooling.truncatable:
            raise RequestError(
                f"this model's embeddings have {self._spec.width} dimensions and were not trained "
                "to be cut; leave dimensions out, or start with "
                """--hf-overrides '{"is_matryoshka": true}' if they were""",
                "dimensions",
            )
        if not 1 <= dimensions <= self._spec.width:
            raise RequestError(
                f"dimensions is {dimensions}; give 1 to {self._spec.width}", "dimensions"
            )

    def embedding(self, prepared: Prepared, dimensions: int | None = None) -> Float32:
        """The vector of a finished request, cut to `dimensions` and then of length 1 again."""
        whole = _vector(prepared)
        vector = whole[:dimensions]
        if len(vector) < len(whole) and self._pooling.normalize:
            vector = vector / np.float32(max(float(np.linalg.norm(vector)), 1e-12))
        return vector

    def score(self, prepared: Prepared) -> float:
        """How well the pair of a finished request matches, 0 to 1."""
        vector = _vector(prepared)
        if self._pooling.answers is not None:
            no, yes = (single_token(self._tokenizer, each) for each in self._pooling.answers)
            logit = float(vector[yes]) - float(vector[no])
        elif len(vector) == 1:
            logit = float(vector[0])
        else:
            raise RequestError(f"this model has {len(vector)} labels; scoring needs one", "model")
        return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0

    def _refuse_unless(self, task: str) -> None:
        if self._pooling.task != task:
            raise RequestError(
                f"this model is served to {self._pooling.task}; start one with --task {task}",
                "model",
            )

    def _prepared(self, tokens: list[int], text: str | None, field: str) -> Prepared:
        self._check(tokens, field)
        name = uuid.uuid4().hex
        params = SamplingParams()
        rope_class = self._ropes.rope_class(len(tokens))
        request = Request(
            name,
            tokens,
            StopRules(max_tokens=0),
            arrival=time.monotonic(),
            cache_salt=f"\0{rope_class}".encode() if any(rope_class) else b"",
            use_prefix_cache=self._pooling.kind == "last",
            allow_drafts=False,
        )
        assembler = OutputAssembler(0, self._tokenizer, tokens, params)
        return Prepared(name, text, tokens, (Completion(request, PooledState(tokens), assembler),))

    def _check(self, tokens: Sequence[Any], field: str) -> None:
        if not tokens:
            raise RequestError(f"{field} has no tokens; give at least one", field)
        if len(tokens) > self._max_tokens:
            raise RequestError(
                f"{field} has {len(tokens)} tokens; at most {self._max_tokens} fit, by "
                f"{self._limit}: shorten it",
                field,
            )
        for token in tokens:
            if isinstance(token, bool) or not isinstance(token, int):
                raise RequestError(f"{field} holds {token!r}; give token ids", field)
            if not 0 <= token < self._spec.vocab_size:
                raise RequestError(
                    f"{field} holds token id {token}; the vocabulary ends at "
                    f"{self._spec.vocab_size - 1}",
                    field,
                )


def _vector(prepared: Prepared) -> Float32:
    state = prepared.completions[0].state
    if not isinstance(state, PooledState) or state.vector is None:
        raise EngineError("the engine failed on this request; it may be sent again")
    return state.vector
