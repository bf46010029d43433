"""Finds the path that routes are matched against."""

from __future__ import annotations

from starlette.types import Scope

__all__ = ["route_path"]


def route_path(scope: Scope) -> str:
    """The request's path without the prefix of --root-path, cut exactly as the router cuts it."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "")
    if prefix and path.startswith(prefix + "/"):
        return path[len(prefix) :]
    return path
