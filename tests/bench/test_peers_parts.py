"""The pure parts of bench/peers: workloads, turns, statistics, parsing, rooflines."""

from __future__ import annotations

import pytest

from bench.peers.llama_cpp import parse_batched_bench
from bench.peers.load import summarize
from bench.peers.machine import PEAKS
from bench.peers.peer import last_json
from bench.peers.process import EngineFailed
from bench.peers.registry import DEFAULT_PEERS, known_peers, select
from bench.peers.results import Cell, Results, Row
from bench.peers.roofline import roof
from bench.peers.runner import rounds
from bench.peers.shapes import PRECISIONS, Shape
from bench.peers.tokenizer_files import FIRST_WORD, bpe
from bench.peers.workloads import WORKLOADS, Prompt, Workload, chosen
from quire.cli.bench.client import Outcome

QWEN = Shape("qwen2.5-0.5b")
ROW = Row("qwen2.5-0.5b", "bf16", "decode-1")


def test_peers_take_turns():
    assert list(rounds(["a", "b"], 3)) == ["a", "b"] * 3


def test_workloads_are_chosen_by_prefix_and_kind_in_their_own_order():
    assert [each.name for each in chosen(["decode-8", "prefill"])] == [
        "prefill-512", "decode-8", "decode-8-4k",
    ]  # fmt: skip
    assert {each.kind for each in chosen(["serve"])} == {"serve"}
    with pytest.raises(ValueError, match=r"no workload 'x'.*decode-1"):
        chosen(["x"])


@pytest.mark.parametrize("workload", [each for each in WORKLOADS if each.kind == "serve"])
def test_prompts_repeat_by_seed_and_share_only_what_they_should(workload: Workload):
    prompts = workload.prompts(10_000, seed=1)
    assert prompts == workload.prompts(10_000, seed=1) != workload.prompts(10_000, seed=2)
    assert len(prompts) == workload.total
    assert len({tuple(p.tokens[: workload.shared]) for p in prompts}) == 1
    ends = {tuple(p.tokens[workload.shared :]) for p in prompts}
    assert len(ends) == len(prompts)
    assert all(min(p.tokens) >= FIRST_WORD and max(p.tokens) < 10_000 for p in prompts)
    if not workload.varied:
        lengths = {(len(p.tokens), p.output) for p in prompts}
        assert lengths == {(workload.input, workload.output)}


def test_a_made_up_vocabulary_can_be_merged_from_its_own_tokens():
    tokens, merges = bpe(2000, frozenset({700, 1999}))
    assert len(tokens) == len(set(tokens)) == 2000
    for merge in merges:
        left, right = merge.split()
        assert {left, right, left + right} <= set(tokens)
    assert len(merges) == 2000 - 256 - 2 and tokens[1999].startswith("<|")
    with pytest.raises(ValueError, match="600000"):
        bpe(600_000, frozenset())


def test_medians_and_spread_leave_out_what_a_sample_lacks():
    cell = Cell([{"decode": 10.0}, {"decode": 30.0, "x": 1.0}, {"decode": 12.0}])
    assert (cell.median("decode"), cell.median("x"), cell.median("y")) == (12.0, 1.0, None)
    assert cell.spread("decode") == pytest.approx(20 / 12) and cell.spread("y") == 0


def test_results_survive_a_file_and_a_later_run_replaces_its_cells(tmp_path):
    old, new = Results(["a"], {"processor": "p"}, {"read": 2.0, "bf16": 1.0}), Results(["b"])
    old.cell("quire", ROW).samples.append({"decode": 1.0})
    old.cell("other", ROW).problem = "no"
    old.absent["ik"] = "not here"
    old.save(tmp_path / "r.json")
    loaded = Results.load(tmp_path / "r.json")
    assert loaded == old
    new.cell("quire", ROW).samples.append({"decode": 2.0})
    new.rates, new.versions["ik"] = {"read": 1.0}, "1"
    loaded.merge(new)
    assert loaded.cell("quire", ROW).samples == [{"decode": 2.0}]
    assert loaded.cell("other", ROW).problem == "no"
    assert loaded.rates == {"read": 2.0, "bf16": 1.0} and loaded.command == ["a", "b"]
    assert loaded.versions == {"ik": "1"} and not loaded.absent
    assert Results.load(tmp_path / "missing.json") == Results()


def test_a_step_reads_the_experts_that_its_tokens_meet():
    granite = Shape("granite-1b-a400m")
    layers, expert = 24, 3 * 1024 * 512
    always = layers * (2 * 1024 * 1024 + 2 * 512 * 1024)
    assert granite.body_parameters(1) == pytest.approx(always + layers * 8 * expert)
    assert granite.body_parameters(1e6) == pytest.approx(always + layers * 32 * expert)
    deepseek = Shape("deepseek-6-layers")
    assert deepseek.kv_values == 6 * (512 + 64)
    assert deepseek.attention_operations(100) == 6 * 100 * 16 * (2 * 512 + 64) * 2


def test_roofs_are_memory_at_one_row_and_arithmetic_at_many():
    one, many, prefill = chosen(["decode-1", "decode-32", "prefill"])[1:] + [chosen(["prefill"])[0]]
    rates = {"read": 31.6e9, "bf16": 150e9}
    # 494 M weights of 2 bytes at 31.6 GB/s are 32 steps a second; KV takes a little of it.
    alone = roof(QWEN, "bf16", one, rates)
    assert alone is not None and 31 < alone < 32
    crowd = roof(QWEN, "bf16", many, rates)
    assert crowd is not None and 140 < crowd < 152
    assert roof(QWEN, "bf16", many, {**rates, "bf16": 300e9}) == pytest.approx(2 * crowd, rel=0.01)
    whole = roof(QWEN, "bf16", prefill, rates)
    assert whole is not None and 195 < whole < 215
    four_bits = roof(QWEN, "int4", one, rates)
    assert four_bits is not None and 3.3 < four_bits / alone < 32 / 9
    assert roof(QWEN, "int4", many, rates) is None  # its arithmetic was not measured
    assert PEAKS.keys() == set(PRECISIONS)  # but on a machine it is
    assert roof(QWEN, "bf16", chosen(["serve-1"])[0], rates) is None


def test_batched_bench_rates_are_read_from_the_last_row():
    table = """\
some log | with | bars
|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |
|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|
|   128 |     16 |    1 |    144 |    1.000 |   128.00 |    1.000 |    16.00 |    2.000 |    72.00 |
|   128 |     16 |    8 |   1152 |    8.000 |   130.50 |    2.000 |    64.25 |   10.000 |   115.20 |
"""
    assert parse_batched_bench(table) == {"prefill": 130.5, "decode": 64.25}
    with pytest.raises(ValueError, match="no row"):
        parse_batched_bench("model not found")


def test_workers_may_log_before_their_figures():
    assert last_json('hello\n{"decode": 1}\n\nbye') == {"decode": 1}
    with pytest.raises(ValueError, match="no figures"):
        last_json("Killed")


def test_a_request_that_failed_or_was_cut_short_is_no_measurement():
    prompts = [Prompt([300] * 4, 3)]
    good = Outcome(0.0, [0.1, 0.2, 0.3], 0.3, 4, 3, "abc")
    metrics = summarize([good], prompts, wall_s=0.5, cpu_s=0.05)
    assert metrics["tokens"] == pytest.approx(6) and metrics["client_cpu"] == pytest.approx(0.1)
    assert metrics["ttft_p50"] == pytest.approx(100) and metrics["tpot_p99"] == pytest.approx(100)
    with pytest.raises(EngineFailed, match="2 tokens came instead of 3"):
        summarize([Outcome(0.0, [0.1], 0.1, 4, 2, "ab")], prompts, 1.0, 0.0)
    with pytest.raises(EngineFailed, match="failed: gone"):
        summarize([Outcome(error="gone")], prompts, 1.0, 0.0)


def test_peers_are_selected_by_name_and_given_ones_without_asking():
    peers = known_peers(["old=/venv/python"], ["ik=/opt/ik -rtr"])
    usual = [peer.name for peer in select(peers, "", ["old=/venv/python", "ik=/opt/ik -rtr"])]
    assert usual == ["quire", "old", "llama.cpp", "ik", "openvino"]
    assert set(usual) == {*DEFAULT_PEERS, "old", "ik"}
    assert [peer.name for peer in select(peers, "all", [])] == list(peers)
    with pytest.raises(ValueError, match="no peer 'x'"):
        select(peers, "quire,x", [])
    with pytest.raises(ValueError, match="NAME=PATH"):
        known_peers([], ["/opt/ik"])
