"""`quire bench serve` against a server that streams canned tokens."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from quire.cli.main import main
from tests.cli.fake_server import FakeServer, running_server

SMALL = ["--num-prompts", "4", "--random-input-len", "6", "--random-output-len", "3"]
LABELS = """\
============ Serving Benchmark Result ============
Successful requests:
Failed requests:
Maximum request concurrency:
Request rate configured (RPS):
Benchmark duration (s):
Total input tokens:
Total generated tokens:
Request throughput (req/s):
Request goodput (req/s):
Output token throughput (tok/s):
Peak output token throughput (tok/s):
Peak concurrent requests:
Total token throughput (tok/s):
---------------Time to First Token----------------
Mean TTFT (ms):
Median TTFT (ms):
P99 TTFT (ms):
-----Time per Output Token (excl. 1st token)------
Mean TPOT (ms):
Median TPOT (ms):
P99 TPOT (ms):
---------------Inter-token Latency----------------
Mean ITL (ms):
Median ITL (ms):
P99 ITL (ms):
----------------End-to-end Latency----------------
Mean E2EL (ms):
Median E2EL (ms):
P99 E2EL (ms):
==================================================
"""


def bench(server: FakeServer, *arguments: str) -> int:
    return main(["bench", "serve", "--port", str(server.port), *SMALL, *arguments])


def value_of(label: str, out: str) -> float:
    match = re.search(rf"^{re.escape(label)}\s+([\d.]+)$", out, re.MULTILINE)
    assert match, f"{label} is not in\n{out}"
    return float(match.group(1))


def test_labels_are_those_of_vllm(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--max-concurrency", "2", "--request-rate", "1000", "--goodput", "ttft:1000"]
    with running_server(FakeServer()) as server:
        assert bench(server, *arguments, "--percentile-metrics", "ttft,tpot,itl,e2el") == 0
    out = capsys.readouterr().out
    assert re.sub(r"(:) +[\d.]+$", r"\1", out, flags=re.MULTILINE) == LABELS


def test_figures_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with running_server(FakeServer(delay_s=0.02)) as server:
        assert bench(server) == 0
    out = capsys.readouterr().out
    assert value_of("Successful requests:", out) == 4
    assert value_of("Total input tokens:", out) == 24
    assert value_of("Total generated tokens:", out) == 12
    assert value_of("Mean ITL (ms):", out) >= 20
    assert value_of("Mean TPOT (ms):", out) >= 20
    assert value_of("Peak concurrent requests:", out) == 4
    duration = value_of("Benchmark duration (s):", out)
    assert value_of("Output token throughput (tok/s):", out) == pytest.approx(12 / duration, 0.2)
    assert "Request rate" not in out and "goodput" not in out and "E2EL" not in out


@pytest.mark.parametrize("behaviour", [FakeServer(), FakeServer(chunked=False)])
def test_chat_streams(behaviour: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    with running_server(behaviour) as server:
        assert bench(server, "--backend", "openai-chat") == 0
    assert value_of("Total generated tokens:", capsys.readouterr().out) == 12
    assert behaviour.bodies[-1]["messages"][0]["role"] == "user"


def test_what_a_request_says(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--ignore-eos", "--top-p", "0.9", "--temperature", "0.5", "--model", "m"]
    with running_server(FakeServer()) as server:
        assert bench(server, *arguments, "--extra-body", '{"priority": 3}') == 0
    first, *rest = server.bodies
    assert (first["prompt"], first["max_tokens"]) == ("Hello", 1)
    assert len(rest) == 4
    for body in rest:
        assert body.pop("prompt")
        assert body == {
            "model": "m",
            "max_tokens": 3,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.5,
            "top_p": 0.9,
            "ignore_eos": True,
            "priority": 3,
        }


def test_model_is_the_server_s_first(capsys: pytest.CaptureFixture[str]) -> None:
    with running_server(FakeServer()) as server:
        assert bench(server) == 0
    assert {body["model"] for body in server.bodies} == {"fake-model"}
    assert server.bodies[1]["temperature"] == 0.0


def test_prompts_repeat_with_the_seed(capsys: pytest.CaptureFixture[str]) -> None:
    with running_server(FakeServer()) as server:
        for seed in ("1", "1", "2"):
            assert bench(server, "--seed", seed) == 0
    runs = [sorted(body["prompt"] for body in server.bodies[i + 1 : i + 5]) for i in (0, 5, 10)]
    assert runs[0] == runs[1] != runs[2]


def test_tokenizer_gives_exact_lengths(capsys: pytest.CaptureFixture[str]) -> None:
    with running_server(FakeServer()) as server:
        assert bench(server, "--tokenizer", "demo", "--random-prefix-len", "2") == 0
        prompts = [body["prompt"] for body in server.bodies[1:]]
        assert {len(prompt) for prompt in prompts} == {8}
        assert len({tuple(prompt[:2]) for prompt in prompts}) == 1
        assert bench(server, "--tokenizer", "demo", "--backend", "openai-chat") == 0
    assert isinstance(server.bodies[-1]["messages"][0]["content"], str)


def test_concurrency_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    with running_server(FakeServer(delay_s=0.02)) as server:
        assert bench(server, "--max-concurrency", "2") == 0
    assert server.most_running == 2
    assert value_of("Peak concurrent requests:", capsys.readouterr().out) == 2


def test_warm_ups_are_not_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with running_server(FakeServer()) as server:
        assert bench(server, "--num-warmups", "3") == 0
    assert len(server.bodies) == 1 + 3 + 4
    warm, measured = server.bodies[1:4], server.bodies[4:]
    assert not {body["prompt"] for body in warm} & {body["prompt"] for body in measured}
    assert value_of("Successful requests:", capsys.readouterr().out) == 4


def test_failures_are_counted_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "good one"}\n{"prompt": "bad"}\n\n{"prompt": "fine"}\n')
    with running_server(FakeServer(fail_prompts=frozenset({"bad"}))) as server:
        custom = ["--dataset-name", "custom", "--dataset-path", str(path)]
        assert bench(server, *custom, "--custom-output-len", "2") == 0
    captured = capsys.readouterr()
    assert value_of("Successful requests:", captured.out) == 2
    assert value_of("Failed requests:", captured.out) == 1
    assert value_of("Total generated tokens:", captured.out) == 4
    assert "a request failed: POST /v1/completions answers 500" in captured.err


def test_a_stream_that_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    with running_server(FakeServer(cut=True)) as server:
        assert bench(server) == 1
    assert "the first request failed: POST /v1/completions: the connection" in (
        capsys.readouterr().err
    )


def test_goodput(capsys: pytest.CaptureFixture[str]) -> None:
    with running_server(FakeServer(delay_s=0.01)) as server:
        assert bench(server, "--goodput", "ttft:10000", "tpot:10000") == 0
        good = capsys.readouterr().out
        assert bench(server, "--goodput", "ttft:10000", "tpot:0.001") == 0
    rate = value_of("Request throughput (req/s):", good)
    assert value_of("Request goodput (req/s):", good) == rate
    assert value_of("Request goodput (req/s):", capsys.readouterr().out) == 0


def test_arrivals_take_as_long_as_the_rate_says(capsys: pytest.CaptureFixture[str]) -> None:
    with running_server(FakeServer()) as server:
        assert bench(server, "--request-rate", "20", "--burstiness", "0.5") == 0
    assert value_of("Benchmark duration (s):", capsys.readouterr().out) >= 0.2


def saved(directory: Path) -> dict[str, Any]:
    (path,) = directory.iterdir()
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_result_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--save-result", "--result-dir", str(tmp_path / "r"), "--metadata", "machine=x"]
    with running_server(FakeServer()) as server:
        assert bench(server, *arguments, "--metric-percentiles", "50,99.9") == 0
    result = saved(tmp_path / "r")
    assert result["machine"] == "x" and result["model_id"] == "fake-model"
    assert result["request_rate"] == "inf" and result["num_prompts"] == 4
    assert (result["completed"], result["failed"], result["total_output_tokens"]) == (4, 0, 12)
    for name in ("ttft", "tpot", "itl"):
        for kind in ("mean", "median", "std", "p50", "p99.9"):
            assert result[f"{kind}_{name}_ms"] >= 0
    assert "ttfts" not in result
    out = capsys.readouterr().out
    assert value_of("P99.9 TTFT (ms):", out) == pytest.approx(result["p99.9_ttft_ms"], abs=0.01)


def test_detailed_and_appended_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--result-dir", str(tmp_path), "--result-filename", "all.jsonl"]
    with running_server(FakeServer()) as server:
        for _ in range(2):
            assert bench(server, *place, "--append-result", "--save-detailed") == 0
    first, second = map(json.loads, (tmp_path / "all.jsonl").read_text().splitlines())
    for result in (first, second):
        assert result["output_lens"] == [3, 3, 3, 3]
        assert [len(gaps) for gaps in result["itls"]] == [2, 2, 2, 2]
        assert result["generated_texts"] == ["w w w "] * 4 and result["errors"] == [""] * 4


def test_api_key(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("QUIRE_API_KEY", raising=False)
    with running_server(FakeServer(api_key="secret")) as server:
        assert bench(server) == 1
        assert "answers 401" in capsys.readouterr().err
        assert bench(server, "--api-key", "secret") == 0
        monkeypatch.setenv("QUIRE_API_KEY", "secret")
        assert bench(server) == 0


def test_base_url(capsys: pytest.CaptureFixture[str]) -> None:
    with running_server(FakeServer()) as server:
        url = f"http://127.0.0.1:{server.port}/"
        assert main(["bench", "serve", "--base-url", url, *SMALL]) == 0
        assert main(["bench", "serve", "--base-url", "localhost:80", *SMALL]) == 1
    assert "give one such as http://" in capsys.readouterr().err


def test_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "serve", "--port", "9", "--ready-check-timeout-sec", "0"]
    assert main(arguments) == 1
    assert "no server answers at http://127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--percentile-metrics", "ttfb"], "--percentile-metrics: 'ttfb' is not one of ttft,"),
        (["--metric-percentiles", "x"], "--metric-percentiles is 'x'"),
        (["--metric-percentiles", "101"], "--metric-percentiles is '101'"),
        (["--goodput", "ttft"], "--goodput is 'ttft'; give one such as ttft:200"),
        (["--goodput", "x:1"], "--goodput: 'x' is not one of"),
        (["--request-rate", "0"], "--request-rate is 0.0; give above 0"),
        (["--max-concurrency", "0"], "--max-concurrency is 0; give 1 or more"),
        (["--metadata", "x"], "--metadata is 'x'"),
        (["--num-prompts", "0"], "--num-prompts is 0; give 1 or more"),
        (["--random-range-ratio", "1"], "--random-range-ratio is 1.0"),
        (["--dataset-name", "custom"], "--dataset-name custom needs --dataset-path FILE"),
        (["--random-input", "1"], "did you mean --random-input-len?"),
    ],
)
def test_wrong_options(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "serve", *arguments]) in (1, 2)
    assert said in capsys.readouterr().err
