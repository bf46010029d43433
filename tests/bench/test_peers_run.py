"""A run of bench/peers with made-up engines: turns, crashes, timeouts, refusals, the table."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from bench.page import replace_between_marks
from bench.peers import load
from bench.peers.checkpoints import Checkpoint
from bench.peers.machine import MachineRates
from bench.peers.peer import Case, Command, Declined
from bench.peers.process import EngineFailed, RunningServer, free_port, run, serving
from bench.peers.python_peers import PYTHON_PEERS
from bench.peers.results import Results, Row
from bench.peers.runner import Runner
from bench.peers.shapes import Shape
from bench.peers.table import render
from bench.peers.workloads import Workload, chosen
from tests.cli.fake_server import FakeServer, running_server

CASE = Case(Checkpoint(Shape("qwen2.5-0.5b")), "bf16", 1)
PRINT = 'print(\'{"prefill": 50.0, "decode": 7.5}\')'


class NoRates:
    """A machine of fixed rates, whose memory was twice as fast at its best."""

    def calibrate(self) -> dict[str, float]:
        return {"read": 20e9, "bf16": 100e9}

    def read_now(self) -> float:
        return 10e9


@dataclass
class FakePeer:
    """Runs a line of Python for every workload, and notes the order in a shared list."""

    name: str
    code: str = PRINT
    turns: list[str] = field(default_factory=list)
    declined: str = ""

    def unavailable(self) -> str | None:
        return None

    def version(self) -> str:
        return "1"

    def offline(self, case: Case, workload: Workload) -> Command:
        self.turns.append(self.name)
        if self.declined:
            raise Declined(self.declined)
        return Command([sys.executable, "-c", self.code])

    def server(self, case: Case, port: int) -> Command:
        raise Declined("serves nothing")


def measure(tmp_path: Any, peers: list[FakePeer], only: str, limit_s: float = 20) -> Results:
    results = Results(["the command"], {"processor": "a machine"})
    rates = cast(MachineRates, NoRates())
    Runner(peers, results, tmp_path / "r.json", rates, 2, limit_s).measure(CASE, chosen([only]))
    assert Results.load(tmp_path / "r.json") == results
    return results


def test_engines_take_turns_and_one_that_crashes_costs_only_its_cell(tmp_path):
    turns: list[str] = []
    good = FakePeer("good", turns=turns)
    bad = FakePeer("bad", "import sys; sys.exit('out of luck')", turns)
    shy = FakePeer("shy", turns=turns, declined="does not do that")
    results = measure(tmp_path, [good, bad, shy], "decode-1")
    assert turns == ["good", "bad", "shy", "good"]
    row = Row("qwen2.5-0.5b", "bf16", "decode-1")
    assert [sample["decode"] for sample in results.cell("good", row).samples] == [7.5, 7.5]
    assert "out of luck" in results.cell("bad", row).problem
    text = render(results)
    assert "    the command" in text and "a machine" in text
    assert "| decode-1 | 7.5 (74%) |" in text  # 10 GB/s: 0.988 GB of weights, 2.4 MB of KV
    assert "bad: ended with 1: out of luck (bf16 decode-1)" in text
    assert "shy: does not do that (bf16 decode-1)" in text


def test_an_engine_that_hangs_is_ended(tmp_path):
    results = measure(tmp_path, [FakePeer("slow", "import time; time.sleep(60)")], "prefill", 0.3)
    (cell,) = results.cells.values()
    assert cell.problem == "ran longer than 0 s" and not cell.samples


def test_a_peer_without_a_server_still_tells_its_start(tmp_path):
    code = "print('{\"first_token_s\": 2.5}')"
    results = measure(tmp_path, [FakePeer("worker", code)], "start")
    assert "| worker | – | 2.5 |" in render(results)
    results = measure(tmp_path, [FakePeer("silent")], "start")
    assert "silent: serves nothing (bf16 start)" in render(results)
    results = measure(tmp_path, [FakePeer("worker", code)], "prefix")
    assert "worker: serves nothing (bf16 prefix-1k-x16)" in render(results)


def test_output_that_is_no_figures_is_a_failure():
    with pytest.raises(EngineFailed, match="no figures"):
        run(Command([sys.executable, "-c", "print('hello')"]), 20)


def test_figures_may_be_printed_to_standard_error():
    code = PRINT.replace(")", ", file=sys.stderr)")
    assert run(Command([sys.executable, "-c", f"import sys; {code}"]), 20)["decode"] == 7.5


def test_a_server_that_ends_before_it_answers_is_a_failure():
    command = Command([sys.executable, "-c", "import sys; sys.exit('no such model')"])
    with (
        pytest.raises(EngineFailed, match="ended with 1: no such model"),
        serving(command, free_port(), 20),
    ):
        pass


def test_the_load_generator_keeps_to_its_clients_and_knows_its_own_cost():
    workload = Workload("w", "serve", input=8, output=3, batch=2, total=6)
    with running_server(FakeServer(delay_s=0.05)) as fake:
        server = RunningServer(os.getpid(), fake.port, time.perf_counter(), 0.1)
        metrics = load.serve(server, workload, 10_000, 20)
        assert fake.most_running == 2 and len(fake.bodies) == 6
        assert all(body["ignore_eos"] and body["max_tokens"] == 3 for body in fake.bodies)
        assert load.first_token(server, workload, 10_000) > 0
    assert metrics["tokens"] > 0 and 0 < metrics["client_cpu"] <= (os.cpu_count() or 1)
    assert server.resident_mib() > 1
    with pytest.raises(EngineFailed):
        load.serve(server, workload, 10_000, 20)


def test_peers_that_are_not_installed_say_how_to_install_them(tmp_path, monkeypatch):
    monkeypatch.setenv("QUIRE_PEERS_DIR", str(tmp_path))
    for peer in PYTHON_PEERS:
        assert f"install {peer.name}" in (peer.unavailable() or "")
    results = Results(absent={"ik": "not installed; run that"})
    assert "- ik: not installed; run that" in render(results)


def test_a_page_is_written_between_its_marks(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text("# Title\n\n<!-- peers -->\nold\n<!-- end -->\n\nafter\n")
    replace_between_marks(page, "peers", "the command\n")
    text = page.read_text()
    assert text.startswith("# Title\n") and text.endswith("<!-- end -->\n\nafter\n")
    assert "old" not in text and "the command" in text
    page.write_text("no marks")
    with pytest.raises(ValueError, match="peers"):
        replace_between_marks(page, "peers", "")
