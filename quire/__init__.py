"""Quire: an LLM inference and serving engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quire.async_engine import AsyncEngine
    from quire.config import EngineConfig
    from quire.errors import QuireError
    from quire.llm import LLM
    from quire.outputs import CompletionOutput, RequestOutput
    from quire.sampling_params import SamplingParams, StructuredOutput

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "AsyncEngine",
    "CompletionOutput",
    "EngineConfig",
    "QuireError",
    "RequestOutput",
    "SamplingParams",
    "StructuredOutput",
]

_HOMES = {
    "AsyncEngine": "quire.async_engine",
    "CompletionOutput": "quire.outputs",
    "EngineConfig": "quire.config",
    "LLM": "quire.llm",
    "QuireError": "quire.errors",
    "RequestOutput": "quire.outputs",
    "SamplingParams": "quire.sampling_params",
    "StructuredOutput": "quire.sampling_params",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import quire` itself costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'quire' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
