"""How often the guesses for one request are right, smoothed."""

from __future__ import annotations

__all__ = ["Acceptance"]

START = 0.5
"""The chance of a guess before any was checked."""
WEIGHT = 0.15
"""What one checked guess counts against all before it."""
RECOVERY = 0.002
"""The share of the way back to START that a step without guesses makes up."""


class Acceptance:
    """chance: that a guess is right where all guesses before it were.

    It sinks with every wrong guess until guessing does not pay, and then slowly rises again, so
    that a request is tried anew every so often: its text may have begun to repeat itself.
    """

    def __init__(self) -> None:
        self.chance = START

    def note(self, num_drafted: int, num_accepted: int) -> None:
        """Learn from a checked draft: its guesses count up to the first wrong one."""
        for _ in range(num_accepted):
            self.chance += WEIGHT * (1.0 - self.chance)
        if num_accepted < num_drafted:
            self.chance -= WEIGHT * self.chance

    def rest(self) -> None:
        """Note a step without guesses."""
        if self.chance < START:
            self.chance += RECOVERY * (START - self.chance)
