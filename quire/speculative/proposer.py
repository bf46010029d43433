"""What guesses the continuation of one request, and what a method remembers between requests."""

from __future__ import annotations

from typing import Protocol

from quire.control.request import Request

__all__ = ["Method", "Proposer"]


class Proposer(Protocol):
    """Guesses how one growing list of tokens goes on."""

    def propose(self, most: int) -> list[int]:
        """The guessed next tokens, at most `most`; [] where nothing is known."""
        ...


class Method(Protocol):
    """A way to guess: makes a proposer for each request."""

    def start(self, request: Request) -> Proposer:
        """A proposer that follows the request's tokens as they are appended."""
        ...

    def finish(self, request: Request) -> None:
        """Learn from a request that is over."""
        ...
