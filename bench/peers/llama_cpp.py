"""llama.cpp and what is built from it: a folder with llama-batched-bench and llama-server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.peers.peer import Case, Command, Declined, Metrics
from bench.peers.process import output_of
from bench.peers.workloads import WORKLOADS, Workload

__all__ = ["LlamaCpp", "parse_batched_bench"]

SLOTS = 32
COLUMNS = ("pp", "tg", "b", "n_kv", "t_pp", "prefill", "t_tg", "decode", "t", "total")


@dataclass(frozen=True)
class LlamaCpp:
    """directory: where the programs are.  flags: what every run gets beside the usual ones."""

    name: str
    directory: Path
    flags: tuple[str, ...] = ()
    how_to_install: str = ""

    def unavailable(self) -> str | None:
        """A folder without llama-batched-bench."""
        if (self.directory / "llama-batched-bench").is_file():
            return None
        return self.how_to_install or f"there is no llama-batched-bench in {self.directory}"

    def version(self) -> str:
        """What the build says of itself."""
        note = self.directory / "VERSION"
        text = note.read_text().strip() if note.is_file() else self._asked()
        return " ".join([text, *self.flags])

    def offline(self, case: Case, workload: Workload) -> Command:
        """Through llama-batched-bench, which computes logits but samples nothing."""
        tokens = workload.batch * (workload.input + workload.output)
        shapes = ["-npp", workload.input, "-ntg", workload.output, "-npl", workload.batch]
        shared = ["-pps"] if workload.filled else []
        kv = ["-ctk", "q8_0", "-ctv", "q8_0"] if workload.int8_kv else []
        model = case.checkpoint.gguf(case.precision)
        common = ["-m", model, "-c", tokens + 64 * workload.batch, "-b", 2048, "-ub", 512]
        return Command(
            [self.directory / "llama-batched-bench", *common, *shapes, *shared, *kv,
             *self._threads(case), *self.flags],
            parse=parse_batched_bench,
        )  # fmt: skip

    def server(self, case: Case, port: int) -> Command:
        """llama-server with as many slots as clients, each with room for the longest request."""
        program = self.directory / "llama-server"
        if not program.is_file():
            raise Declined(f"there is no llama-server in {self.directory}")
        longest = max(each.input + each.output for each in WORKLOADS if each.kind == "serve")
        context = SLOTS * max(longest + 64, 1664)
        model = case.checkpoint.gguf(case.precision)
        return Command(
            [program, "-m", model, "--host", "127.0.0.1", "--port", port, "-c", context,
             "-np", SLOTS, "-cb", *self._threads(case), *self.flags]
        )  # fmt: skip

    def _threads(self, case: Case) -> list[object]:
        return ["-t", case.threads, "-tb", case.threads, "-fa", "on"]

    def _asked(self) -> str:
        """The version that a program of the folder prints."""
        for program in ("llama-server", "llama-cli", "llama-bench"):
            if (self.directory / program).is_file():
                for line in output_of(self.directory / program, "--version").splitlines():
                    if line.startswith("version"):
                        return line
        return "version unknown"


def parse_batched_bench(output: str) -> Metrics:
    """The rates in the last row of its table.  Raises ValueError without one."""
    rows = [line.strip(" |").split("|") for line in output.splitlines() if line.startswith("|")]
    numbers = [row for row in rows if row[0].strip().isdigit()]
    if not numbers:
        raise ValueError("no row in the table")
    found = dict(zip(COLUMNS, map(float, numbers[-1]), strict=True))
    return {"prefill": found["prefill"], "decode": found["decode"]}
