"""Every error a user can see, as a tree, with the cure in each message.

QuireError
├── ConfigError            an option or a combination of options that cannot be honoured
├── ModelError             a model that Quire cannot run: unknown architecture, unread config key
│   └── CheckpointError    files damaged, missing, or not fitting their config
├── CapacityError          the machine is too small for what was asked
├── RequestError           one request is wrong (HTTP 400); names the field in `param`
│   ├── NotFoundError      the thing a request names does not exist (HTTP 404)
│   └── QueueFullError     too many requests wait (HTTP 429), or the server stops (HTTP 503)
└── EngineError            the engine failed while running; its cause is chained
"""

from __future__ import annotations

__all__ = [
    "CapacityError",
    "CheckpointError",
    "ConfigError",
    "EngineError",
    "ModelError",
    "NotFoundError",
    "QueueFullError",
    "QuireError",
    "RequestError",
]


class QuireError(Exception):
    """The root of all errors that Quire raises on purpose."""


class ConfigError(QuireError):
    """An option, or a combination of options, cannot be honoured."""


class ModelError(QuireError):
    """The model cannot be run by this version of Quire."""


class CheckpointError(ModelError):
    """A checkpoint file is damaged, missing, or does not fit the model's config."""


class CapacityError(QuireError):
    """The machine has too little memory for what was asked."""


class RequestError(QuireError):
    """One request cannot be served as it is; `param` names the field at fault, if one is."""

    status = 400

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class NotFoundError(RequestError):
    """A request names something that does not exist."""

    status = 404


class QueueFullError(RequestError):
    """The request was not accepted now and may be sent again after `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float = 1.0, status: int = 429) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.status = status


class EngineError(QuireError):
    """The engine failed while running; the cause is chained and the request may be sent again."""
