"""The parts of the benchmarks: datasets, arrivals, percentiles, figures."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.cli.bench.client import Outcome
from quire.cli.bench.datasets import Dataset
from quire.cli.bench.drafts import DraftCounts
from quire.cli.bench.figures import METRICS, Distribution, Figures, percentile
from quire.cli.bench.latency import Iteration, LatencyBench, summarize
from quire.cli.bench.load import arrival_times
from quire.cli.bench.serve_options import ServeBench
from quire.cli.bench.throughput import ThroughputBench
from quire.cli.main import main
from quire.errors import ConfigError
from quire.text.tokenizer import Tokenizer, load_tokenizer
from quire.weights.hub import resolve_model


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(resolve_model("demo"))


def outcome(
    started: float, arrivals: Sequence[float], tokens: int | None = None, error: str = ""
) -> Outcome:
    count = len(arrivals) if tokens is None else tokens
    return Outcome(started, list(arrivals), arrivals[-1] if arrivals else 0.0, 5, count, "", error)


def test_benchmarks_sample_alike() -> None:
    assert ThroughputBench().temperature == ServeBench().temperature == 0.0


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=50),
    st.floats(0, 100),
)
def test_percentiles_are_numpy_s(values: list[float], wanted: float) -> None:
    expected = float(np.percentile(values, wanted))
    assert percentile(sorted(values), wanted) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_distribution_is_in_milliseconds() -> None:
    found = Distribution.of([0.003, 0.001, 0.002], [50, 100])
    assert (found.mean, found.median) == pytest.approx((2.0, 2.0))
    assert found.std == pytest.approx(statistics.pstdev([1, 2, 3]))
    assert found.percentiles == ((50, pytest.approx(2.0)), (100, pytest.approx(3.0)))
    assert Distribution.of([], [99]).percentiles == ((99, 0.0),)


def test_metrics_of_one_request() -> None:
    one = outcome(10.0, [0.5, 0.6, 0.9])
    values = {name: list(of(one)) for name, of in METRICS.items()}
    assert values == {
        "ttft": [0.5],
        "tpot": [pytest.approx(0.2)],
        "itl": [pytest.approx(0.1), pytest.approx(0.3)],
        "e2el": [0.9],
    }


def test_a_single_token_has_no_time_per_token() -> None:
    assert list(METRICS["tpot"](outcome(0.0, [0.5]))) == []


def test_tokens_that_come_together_count_by_usage() -> None:
    """Five tokens in two chunks: 0.4 s over four tokens."""
    assert outcome(0.0, [0.1, 0.5], tokens=5).per_token_s == pytest.approx(0.1)


def test_figures() -> None:
    outcomes = [
        outcome(0.0, [0.5, 0.6, 1.4]),
        outcome(0.2, [0.5, 0.9]),
        outcome(5.0, [0.1]),
        outcome(5.0, [], error="refused"),
    ]
    found = Figures.of(outcomes, 10.0, {"ttft": 300.0}, [99])
    assert (found.completed, found.failed) == (3, 1)
    assert (found.total_input_tokens, found.total_output_tokens) == (15, 6)
    assert found.request_throughput == 0.3
    assert found.output_throughput == 0.6 and found.total_token_throughput == 2.1
    assert found.goodput == 0.1
    assert found.max_output_tokens_per_s == 3  # at 0.5, 0.6 and 0.7 s
    assert found.max_concurrent_requests == 2


def test_figures_of_nothing_but_failures() -> None:
    found = Figures.of([outcome(0.0, [], error="x")], 1.0, {}, [99])
    assert (found.completed, found.max_concurrent_requests, found.goodput) == (0, 0, None)


def test_arrivals() -> None:
    assert arrival_times(3, float("inf"), 1.0, 0) == [0.0, 0.0, 0.0]
    times = arrival_times(1000, 50.0, 1.0, 7)
    assert times == sorted(times) and times[0] > 0
    assert times[-1] == pytest.approx(20.0)
    assert times == arrival_times(1000, 50.0, 1.0, 7) != arrival_times(1000, 50.0, 1.0, 8)


def test_burstiness_is_the_variance_of_the_gaps() -> None:
    def spread(burstiness: float) -> float:
        gaps = np.diff(arrival_times(4000, 1.0, burstiness, 3))
        return float(gaps.std() / gaps.mean())

    assert spread(1.0) == pytest.approx(1.0, rel=0.1)
    assert spread(0.25) == pytest.approx(2.0, rel=0.15)
    assert spread(100.0) == pytest.approx(0.1, rel=0.1)


def test_random_lengths(tokenizer: Tokenizer) -> None:
    requests = Dataset(
        num_prompts=200, random_input_len=40, random_output_len=20, random_range_ratio=0.5
    ).requests(tokenizer)
    inputs = {len(request.prompt) for request in requests}
    outputs = {request.output_tokens for request in requests}
    assert min(inputs) >= 20 and max(inputs) <= 60 and len(inputs) > 20
    assert min(outputs) >= 10 and max(outputs) <= 30 and len(outputs) > 10


def test_random_tokens_are_ordinary(tokenizer: Tokenizer) -> None:
    (request,) = Dataset(num_prompts=1, random_input_len=20_000).requests(tokenizer)
    assert isinstance(request.prompt, list)
    assert not set(request.prompt) & tokenizer.special_ids
    assert max(request.prompt) < tokenizer.vocab_size


def test_words_without_a_tokenizer() -> None:
    dataset = Dataset(num_prompts=3, random_input_len=10, random_prefix_len=5)
    requests = dataset.requests(None)
    texts = [str(request.prompt).split() for request in requests]
    assert [len(words) for words in texts] == [15, 15, 15]
    assert texts[0][:5] == texts[1][:5] and texts[0] != texts[1]


def test_custom_file(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "你好"}\n\n{"prompt": "b", "output_tokens": 7}\n{"prompt": "c"}\n')
    dataset = Dataset("custom", str(path), num_prompts=2, custom_output_len=9)
    assert [(r.prompt, r.output_tokens) for r in dataset.requests(None)] == [("你好", 9), ("b", 7)]


def conversation(question: str, answer: str) -> dict[str, object]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"conversations": turns}


def test_sharegpt_file(tmp_path: Path, tokenizer: Tokenizer) -> None:
    good = [conversation(f"question number {i} of many", "an answer of words") for i in range(9)]
    bad = [
        conversation("x", "too short a question, too short a question"),
        conversation("word " * 1500, "too long a question"),
        {"conversations": [{"from": "human", "value": "nobody answers this question"}]},
    ]
    path = tmp_path / "s.json"
    path.write_text(json.dumps([*bad, *good]))
    dataset = Dataset("sharegpt", str(path), num_prompts=100)
    requests = dataset.requests(tokenizer)
    assert len(requests) == 9
    assert requests == dataset.requests(tokenizer)
    length = len(tokenizer.encode("an answer of words"))
    assert {request.output_tokens for request in requests} == {length}
    fixed = Dataset("sharegpt", str(path), num_prompts=4, sharegpt_output_len=11)
    assert [request.output_tokens for request in fixed.requests(tokenizer)] == [11] * 4


@pytest.mark.parametrize("name", ["custom", "sharegpt"])
@pytest.mark.parametrize("text", ["", "[]", "nonsense", '{"a": 1}', "[1]"])
def test_files_that_are_none(name: str, text: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "f"
    path.write_text(text)
    with pytest.raises(ConfigError, match=str(path)):
        Dataset(name, str(path)).requests(tokenizer)  # type: ignore[arg-type]


def test_sharegpt_needs_a_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text("[]")
    with pytest.raises(ConfigError, match="give --tokenizer"):
        Dataset("sharegpt", str(path)).requests(None)


def test_latency_figures() -> None:
    runs = [Iteration(2.0, 1.0), Iteration(4.0, 1.0), Iteration(3.0, 1.0)]
    found = summarize(runs, LatencyBench(batch_size=2, input_len=10, output_len=5))
    assert found["Median latency (s):"] == 3.0
    assert found["Prefill throughput (tok/s):"] == 20.0
    assert found["Decode throughput (tok/s):"] == 4.0
    assert found["Median time per output token (ms):"] == 500.0
    assert "Decode throughput (tok/s):" not in summarize(runs, LatencyBench(output_len=1))


def test_latency_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "l.json"
    sizes = ["--batch-size", "2", "--input-len", "5", "--output-len", "3", "--num-iters", "2"]
    assert main(["bench", "latency", "demo", *sizes, "--output-json", str(path)]) == 0
    assert "Median latency (s):" in capsys.readouterr().out
    result = json.loads(path.read_text())
    assert result["batch_size"] == 2 and result["Median latency (s):"] > 0
    assert main(["bench", "latency", "demo", "--batch-size", "0"]) == 2


def test_throughput_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.json"
    sizes = ["--num-prompts", "3", "--random-input-len", "5", "--random-output-len", "4"]
    assert main(["bench", "throughput", "demo", *sizes, "-n", "2", "--output-json", str(path)]) == 0
    out = capsys.readouterr().out
    assert "Throughput: " in out and " output tokens/s" in out
    result = json.loads(path.read_text())
    assert (result["num_prompt_tokens"], result["num_output_tokens"]) == (15, 24)


def test_drafts_of_a_server_are_told_by_its_metrics() -> None:
    text = "\n".join(
        f'{prefix}spec_decode_{name}_total{{model_name="a b",engine="{engine}"}} {value}'
        for name, value in (("num_drafts", 4), ("num_draft_tokens", 20), ("num_accepted_tokens", 5))
        for prefix, engine in (("vllm:", "0"), ("vllm:", "1"))
    )
    noise = '# HELP spec_decode_num_drafts_total Drafts.\nx{a="spec_decode_num_drafts_total"} 3'
    found = DraftCounts.of_metrics(f"{noise}\n{text}\n") - DraftCounts(1, 4, 1)
    assert found == DraftCounts(7, 36, 9)
    assert dict(found.rows())["Acceptance rate (%):"] == 25.0
    assert found.as_json() == {
        "spec_decode_acceptance_rate": 25.0,
        "spec_decode_acceptance_length": 1 + 9 / 7,
        "spec_decode_num_drafts": 7,
        "spec_decode_draft_tokens": 36,
        "spec_decode_accepted_tokens": 9,
    }
    assert DraftCounts().as_json() == {} and not list(DraftCounts().rows())
