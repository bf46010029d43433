"""What every route needs: engine, configuration, metrics, and whether the server is stopping."""

from __future__ import annotations

import time
from functools import cached_property
from typing import Protocol

from quire.errors import NotFoundError, QueueFullError
from quire.server.chat_prompts import ChatPrompts
from quire.server.config import ServerConfig
from quire.server.engine_protocol import ServedEngine
from quire.server.metrics import ServerMetrics

__all__ = ["ServerState", "Stoppable"]


class Stoppable(Protocol):
    """Something that runs and can be asked to end early."""

    def stop(self) -> None: ...


class ServerState:
    """One server.

    stopping: it has been asked to shut down.  generations: what runs; each adds and removes itself.
    """

    def __init__(self, engine: ServedEngine, config: ServerConfig) -> None:
        self.engine = engine
        self.config = config
        self.model_names = config.served_model_name or (engine.info.name,)
        self.metrics = ServerMetrics(engine, config.metrics_prefix, self.model_names[0])
        self.chat_prompts = ChatPrompts(engine.tokenizer, config)
        self.started = int(time.time())
        self.stopping = False
        self.generations: set[Stoppable] = set()

    @cached_property
    def fingerprint(self) -> str:
        """Changes when the weights or the numerics do; equal seeds give equal text until then."""
        return f"fp_{self.engine.info.fingerprint[:12]}"

    def served_name(self, wanted: str | None) -> str:
        """The name to answer with.  Raises NotFoundError for a model that is not served."""
        if wanted is None:
            return self.model_names[0]
        if wanted not in self.model_names:
            names = ", ".join(self.model_names)
            raise NotFoundError(
                f"there is no model {wanted[:200]!r} here; served: {names}", "model"
            )
        return wanted

    def stop_generations(self) -> None:
        """End every running request now; each is answered with what it has."""
        for generation in list(self.generations):
            generation.stop()

    def refuse_if_stopping(self) -> None:
        """Raise QueueFullError (HTTP 503) once the server has been asked to stop."""
        if self.stopping:
            raise QueueFullError("the server is shutting down", status=503)
