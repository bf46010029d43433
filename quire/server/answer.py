"""What every answer to a generating request carries, whole or in chunks."""

from __future__ import annotations

import time
import uuid
from dataclasses import asdict
from typing import Any

from msgspec import UNSET, UnsetType

from quire.server.generation import Generation
from quire.server.protocol.sampling import GenerationRequest, StreamOptions
from quire.server.protocol.usage import Usage
from quire.server.state import ServerState

__all__ = ["AnswerHead"]


class AnswerHead:
    """The id, names and options of one answer, and the usage so far.

    Raises NotFoundError for a model that is not served.
    """

    def __init__(self, state: ServerState, request: GenerationRequest, prefix: str) -> None:
        self.id = f"{prefix}-{request.request_id or uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = state.served_name(request.model)
        self.fingerprint = state.fingerprint
        self.tokenizer = state.engine.tokenizer
        self.as_ids = bool(request.return_tokens_as_token_ids)
        self.with_ids = bool(request.return_token_ids)
        self.num_output = 0
        self._with_params = bool(request.return_sampling_params)
        options = request.stream_options or StreamOptions()
        self.usage_at_end = bool(options.include_usage)
        self._usage_always = bool(options.continuous_usage_stats)

    def ids(self, tokens: list[int] | tuple[int, ...]) -> list[int] | UnsetType:
        """Token ids, if they were asked for."""
        return list(tokens) if self.with_ids else UNSET

    def sampling_params(self, generation: Generation) -> dict[str, Any] | UnsetType:
        """The parameters in effect, if they were asked for."""
        return asdict(generation.params) if self._with_params else UNSET

    def chunk_usage(self, generation: Generation) -> Usage | UnsetType | None:
        """The usage to put into a chunk that is not the last."""
        if self._usage_always:
            return generation.usage(self.num_output)
        return None if self.usage_at_end else UNSET
