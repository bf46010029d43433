"""The options of `quire bench serve`, and what they mean together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quire.cli.bench.client import Backend
from quire.cli.bench.figures import METRICS
from quire.cli.bench.http_stream import Server
from quire.cli.bench.options import require_positive
from quire.cli.usage import UsageError

__all__ = ["ServeBench"]

ENDPOINTS: Mapping[str, str] = {
    "openai": "/v1/completions",
    "openai-chat": "/v1/chat/completions",
}


@dataclass(frozen=True, slots=True)
class ServeBench:
    """Where requests go, how they arrive, and what is reported, under vLLM's names."""

    backend: Backend = field(default="openai", metadata={"help": "completions or chat"})
    base_url: str | None = field(default=None, metadata={"help": "in place of host and port"})
    host: str = field(default="127.0.0.1", metadata={"help": "the server's host"})
    port: int = field(default=8000, metadata={"help": "the server's port"})
    endpoint: str | None = field(default=None, metadata={"help": "path; default: by --backend"})
    api_key: str | None = field(
        default=None, metadata={"help": "bearer token; default: QUIRE_API_KEY"}
    )
    model: str | None = field(
        default=None, metadata={"help": "model name; default: the first of /v1/models"}
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "directory of the tokenizer; default: --model if it is one, else words"},
    )
    request_rate: float = field(
        default=float("inf"), metadata={"help": "requests per second; inf sends all at once"}
    )
    burstiness: float = field(
        default=1.0, metadata={"help": "1: Poisson arrivals; below: bursts; above: even gaps"}
    )
    max_concurrency: int | None = field(default=None, metadata={"help": "requests at once"})
    num_warmups: int = field(default=0, metadata={"help": "requests before the clock starts"})
    ready_check_timeout_sec: float = field(
        default=60.0, metadata={"help": "seconds to wait for the server"}
    )
    ignore_eos: bool = field(default=False, metadata={"help": "always generate the full length"})
    temperature: float = field(default=0.0, metadata={"help": "0, greedy: the likeliest token"})
    top_p: float | None = field(default=None, metadata={"help": "sampling"})
    extra_body: Mapping[str, Any] = field(
        default_factory=dict, metadata={"help": "further fields of every request"}
    )
    percentile_metrics: str = field(
        default="ttft,tpot,itl", metadata={"help": "of ttft, tpot, itl and e2el"}
    )
    metric_percentiles: str = field(default="99", metadata={"help": "such as 50,90,99"})
    goodput: tuple[str, ...] = field(
        default=(), metadata={"help": "most milliseconds, as in ttft:200 tpot:50"}
    )
    save_result: bool = field(default=False, metadata={"help": "write a JSON file"})
    save_detailed: bool = field(default=False, metadata={"help": "with each request in it"})
    append_result: bool = field(default=False, metadata={"help": "add to the file"})
    metadata: tuple[str, ...] = field(
        default=(), metadata={"help": "facts for the file, as in machine=laptop"}
    )
    result_dir: str = field(default=".", metadata={"help": "where the file goes"})
    result_filename: str | None = field(default=None, metadata={"help": "its name"})

    def __post_init__(self) -> None:
        for name in ("request_rate", "burstiness"):
            if not getattr(self, name) > 0:
                raise UsageError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; give above 0"
                )
        if self.max_concurrency is not None:
            require_positive(self, "max_concurrency")
        # Each of these raises for a value that makes no sense.
        _ = self.metrics, self.percentiles, self.objectives, self.facts

    @property
    def metrics(self) -> list[str]:
        """The metrics to report.  Raises UsageError for one that there is not."""
        names = [name.strip() for name in self.percentile_metrics.split(",") if name.strip()]
        for name in names:
            _check_metric("--percentile-metrics", name)
        return names

    @property
    def percentiles(self) -> list[float]:
        """The percentiles to report."""
        try:
            found = [float(each) for each in self.metric_percentiles.split(",")]
        except ValueError:
            found = [-1.0]
        if not all(0 <= each <= 100 for each in found):
            text = self.metric_percentiles
            raise UsageError(f"--metric-percentiles is {text!r}; give numbers such as 50,99")
        return found

    @property
    def objectives(self) -> dict[str, float]:
        """Metric → the most milliseconds a good request takes."""
        found = {}
        for text in self.goodput:
            name, _, limit = text.partition(":")
            _check_metric("--goodput", name)
            try:
                found[name] = float(limit)
            except ValueError:
                raise UsageError(f"--goodput is {text!r}; give one such as ttft:200") from None
        return found

    @property
    def facts(self) -> dict[str, str]:
        """The --metadata pairs."""
        for text in self.metadata:
            if "=" not in text:
                raise UsageError(f"--metadata is {text!r}; give one such as machine=laptop")
        return dict(text.split("=", 1) for text in self.metadata)

    @property
    def path(self) -> str:
        """The endpoint's path."""
        return self.endpoint or ENDPOINTS[self.backend]

    @property
    def server(self) -> Server:
        """Where requests go."""
        key = self.api_key or os.environ.get("QUIRE_API_KEY")
        url = self.base_url or f"http://{self.host}:{self.port}"
        return Server.at(url, {"Authorization": f"Bearer {key}"} if key else {})

    @property
    def settings(self) -> dict[str, Any]:
        """What every request says beside its prompt and length."""
        settings: dict[str, Any] = {"temperature": self.temperature}
        if self.top_p is not None:
            settings["top_p"] = self.top_p
        if self.ignore_eos:
            settings["ignore_eos"] = True
        return {**settings, **self.extra_body}


def _check_metric(option: str, name: str) -> None:
    if name not in METRICS:
        raise UsageError(f"{option}: {name!r} is not one of {', '.join(METRICS)}")
