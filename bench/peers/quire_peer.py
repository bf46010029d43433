"""Quire itself: the installation of the given Python."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.peers.peer import Case, Command
from bench.peers.process import output_of
from bench.peers.workloads import Workload

__all__ = ["Quire"]

WORKER = Path(__file__).parent / "workers" / "run_quire.py"
SPARE_TOKENS = 64
DEFAULT_STEP = 2048


@dataclass(frozen=True)
class Quire:
    """options: EngineConfig fields that every run gets."""

    name: str = "quire"
    python: Path = Path(sys.executable)
    options: Mapping[str, Any] = field(default_factory=dict)

    def unavailable(self) -> str | None:
        """A Python that is not there."""
        return None if self.python.is_file() else f"there is no Python at {self.python}"

    def version(self) -> str:
        """The package's version and the options."""
        found = output_of(self.python, "-c", "import quire; print(quire.__version__)").strip()
        flags = "".join(f" {name}={value}" for name, value in self.options.items())
        return f"Quire {found}{flags}"

    def offline(self, case: Case, workload: Workload) -> Command:
        """Through the LLM class."""
        options = self._options(case, workload.int8_kv)
        if workload.filled:  # the KV cache is written through first, so no larger than needed
            tokens = workload.batch * (workload.input + workload.output + SPARE_TOKENS)
            options["kv_cache_memory_bytes"] = tokens * case.checkpoint.shape.kv_values * 2
        if workload.kind == "decode":  # all prompts in one step, so that all decode together
            options["max_num_batched_tokens"] = max(DEFAULT_STEP, workload.batch * workload.input)
        job = {
            "model": str(case.checkpoint.directory()), "options": options, "started": time.time(),
            "input": workload.input, "output": workload.output, "batch": workload.batch,
            "filled": workload.filled,
        }  # fmt: skip
        return Command([self.python, WORKER, json.dumps(job)])

    def server(self, case: Case, port: int) -> Command:
        """`quire serve` with its defaults."""
        flags: list[object] = []
        for name, value in self._options(case, int8_kv=False).items():
            flags += ["--" + name.replace("_", "-"), value]
        program = self.python.with_name("quire")
        return Command([program, "serve", case.checkpoint.directory(), "--port", port, *flags])

    def _options(self, case: Case, int8_kv: bool) -> dict[str, Any]:
        options: dict[str, Any] = {"threads": case.threads, **self.options}
        if case.precision != "bf16":
            options["quantization"] = case.precision
        if int8_kv:
            options["kv_cache_dtype"] = "int8"
        return options
