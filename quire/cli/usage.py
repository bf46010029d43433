"""The error of a command line that makes no sense."""

from __future__ import annotations

from quire.errors import ConfigError

__all__ = ["UsageError"]


class UsageError(ConfigError):
    """The command line itself is wrong; exit code 2."""
