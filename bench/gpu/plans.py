"""How much is measured of each shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench.gpu.models import FORMATS
from bench.peers.workloads import SHAREGPT_MEAN, Workload

__all__ = ["PLANS", "Plan"]


@dataclass(frozen=True)
class Plan:
    """How much is measured of a shape.  decode: batches.  steps: timed.  context, prompts: tokens.

    prompts: (how many at once, tokens of each).  requests: of a workload.  rates: a second.
    """

    decode: tuple[int, ...]
    steps: int
    context: int
    prompts: tuple[tuple[int, int], ...]
    requests: int
    rates: tuple[float, ...]
    rate_s: float
    lengths: Mapping[str, tuple[int, int]]
    served: tuple[str, ...]
    starts: int
    options: Mapping[str, Any]

    def workloads(self) -> Iterator[Workload]:
        """Requests over HTTP: all at once, and at so many a second."""
        count = self.requests
        wanted, output = SHAREGPT_MEAN
        yield Workload("sharegpt", "serve", wanted, output, batch=count, total=count, varied=True)
        for name, (wanted, output) in self.lengths.items():
            yield Workload(name, "serve", wanted, output, batch=count, total=count)
        for rate in self.rates:
            total = max(round(rate * self.rate_s), 1)
            yield Workload(
                f"sharegpt-{rate:g}/s", "serve", batch=total, total=total, rate=rate, varied=True
            )


PLANS = {
    "llama-3-8b": Plan(
        (1, 32, 100, 256), 64, 512, ((1, 2048), (4, 2048)), 500, (8.0, 24.0), 40.0,
        {"decode-heavy": (462, 256), "prefill-heavy": (462, 16)}, tuple(FORMATS), 2,
        {"max_num_seqs": 256, "max_num_batched_tokens": 8192, "memory_utilization": 0.9},
    ),
    "tiny": Plan(
        (1, 3), 4, 24, ((1, 40),), 2, (8.0,), 0.2,
        {"decode-heavy": (20, 6), "prefill-heavy": (30, 2)}, ("bf16",), 1,
        {"max_num_seqs": 4, "max_num_batched_tokens": 256, "max_model_len": 1700, "threads": 1},
    ),
}  # fmt: skip
"""A shape → the plan for a GPU of its size, and one for tests."""
