"""Says how the server should listen and whom it should trust; the CLI options derive from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from quire.errors import ConfigError

__all__ = ["ServerConfig", "environment_api_keys"]


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where to listen, who may ask, and what a request may cost.

    Closed by default: only this machine, no other web origin, no template from a request.
    Raises ConfigError, naming the option, for a value that cannot be honoured.
    """

    host: str = field(
        default="127.0.0.1", metadata={"help": "address to listen on; 0.0.0.0 for every network"}
    )
    port: int = field(default=8000, metadata={"help": "port to listen on; 0 takes a free one"})
    uds: str | None = field(
        default=None, metadata={"help": "listen on this Unix socket instead of host and port"}
    )
    root_path: str = field(
        default="", metadata={"help": "path prefix that a proxy in front strips off"}
    )
    ssl_keyfile: str | None = field(default=None, metadata={"help": "PEM file of the TLS key"})
    ssl_certfile: str | None = field(
        default=None, metadata={"help": "PEM file of the TLS certificate chain"}
    )
    served_model_name: tuple[str, ...] = field(
        default=(), metadata={"help": "names the API answers to; default: the model argument"}
    )
    api_key: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "keys, for every route but /health, /live and /ready; also QUIRE_API_KEY"
        },
    )
    allowed_origins: tuple[str, ...] = field(
        default=(), metadata={"help": "web origins that may call the API from a browser, or *"}
    )
    max_request_bytes: int = field(
        default=64 * 2**20, metadata={"help": "largest request body in bytes"}
    )
    max_logprobs: int = field(
        default=20, metadata={"help": "most alternatives per token a request may ask for"}
    )
    chat_template: str | None = field(
        default=None, metadata={"help": "file with a Jinja chat template instead of the model's"}
    )
    default_chat_template_kwargs: Mapping[str, Any] = field(
        default_factory=dict, metadata={"help": "JSON object of variables for the chat template"}
    )
    trust_request_chat_template: bool = field(
        default=False, metadata={"help": "let requests bring their own chat template"}
    )
    write_timeout: float = field(
        default=60.0,
        metadata={"help": "seconds after which a client that stops reading is dropped"},
    )
    stall_timeout: float = field(
        default=120.0,
        metadata={"help": "seconds without a step, with work, until /health says 503"},
    )
    shutdown_timeout: float = field(
        default=30.0, metadata={"help": "seconds that running requests get to finish at shutdown"}
    )
    metrics_prefix: str = field(
        default="vllm", metadata={"help": "prefix of the metric names: vllm or quire"}
    )
    enable_log_requests: bool = field(
        default=False, metadata={"help": "log one line per request, without its text"}
    )
    access_log: bool = field(default=False, metadata={"help": "log one line per HTTP exchange"})

    def __post_init__(self) -> None:
        _require(0 <= self.port <= 65535, "port", self.port, "0 to 65535")
        _require(0 <= self.max_logprobs <= 256, "max_logprobs", self.max_logprobs, "0 to 256")
        _require(self.max_request_bytes > 0, "max_request_bytes", self.max_request_bytes, "above 0")
        for name in ("write_timeout", "stall_timeout", "shutdown_timeout"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "seconds above 0")
        prefix = self.metrics_prefix
        _require(prefix.isidentifier() and prefix.isascii(), "metrics_prefix", prefix, "a name")
        _require(all(self.api_key), "api_key", "an empty string", "keys that are not empty")
        pair = (self.ssl_keyfile is None) == (self.ssl_certfile is None)
        _require(pair, "ssl_keyfile", self.ssl_keyfile, "both or neither of key and certificate")

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The option names, in order."""
        return tuple(option.name for option in fields(cls))


def environment_api_keys() -> tuple[str, ...]:
    """The keys in QUIRE_API_KEY, separated by commas."""
    given = os.environ.get("QUIRE_API_KEY", "").split(",")
    return tuple(filter(None, map(str.strip, given)))


def _require(good: bool, name: str, value: object, wanted: str) -> None:
    if not good:
        raise ConfigError(f"{name} is {value!r}; give {wanted}")
