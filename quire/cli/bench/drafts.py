"""What speculation did during a benchmark: how much was guessed, and how much of it was right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quire.control.stats import SchedulerStats

__all__ = ["DraftCounts"]


@dataclass(frozen=True, slots=True)
class DraftCounts:
    """How often tokens were guessed, how many, and how many were right."""

    drafts: int = 0
    tokens: int = 0
    accepted: int = 0

    @classmethod
    def of(cls, stats: SchedulerStats) -> DraftCounts:
        """The counts of an engine in this process."""
        return cls(stats.num_drafts, stats.num_draft_tokens, stats.num_accepted_tokens)

    @classmethod
    def of_metrics(cls, text: str) -> DraftCounts:
        """The counts that a server's /metrics tells, under vLLM's names and any prefix."""
        totals = [0.0, 0.0, 0.0]
        names = ("num_drafts", "num_draft_tokens", "num_accepted_tokens")
        for line in text.splitlines():
            name = line.partition("{")[0].partition(" ")[0]
            for place, wanted in enumerate(names):
                if name.endswith(f"spec_decode_{wanted}_total"):
                    totals[place] += float(line.rpartition(" ")[2])
        return cls(*map(int, totals))

    def __sub__(self, before: DraftCounts) -> DraftCounts:
        return DraftCounts(
            self.drafts - before.drafts,
            self.tokens - before.tokens,
            self.accepted - before.accepted,
        )

    def rows(self) -> Iterator[tuple[str, float]]:
        """Labels and values as `vllm bench serve` prints them; nothing if nothing was guessed."""
        if self.drafts and self.tokens:
            yield "Acceptance rate (%):", 100 * self.accepted / self.tokens
            yield "Acceptance length:", 1 + self.accepted / self.drafts
            yield "Drafts:", self.drafts
            yield "Draft tokens:", self.tokens
            yield "Accepted tokens:", self.accepted

    def as_json(self) -> dict[str, float]:
        """The same under the names of vLLM's result files."""
        names = ("acceptance_rate", "acceptance_length", "num_drafts", "draft_tokens")
        return {
            f"spec_decode_{name}": value
            for name, (_, value) in zip((*names, "accepted_tokens"), self.rows(), strict=False)
        }
