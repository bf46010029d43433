"""`quire generate` and `quire chat` with the demo model, as a user runs them."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from quire.cli.main import main
from quire.cli.session import Answer, Session
from quire.config import EngineConfig
from quire.outputs import CompletionOutput, RequestOutput
from quire.sampling_params import SamplingParams

DEMO = ["demo", "--threads", "1", "--temperature", "0"]


@pytest.fixture
def type_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets what standard input holds."""
    return lambda text: monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def generated(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["generate", *DEMO, *arguments]) == 0
    return capsys.readouterr().out


def test_text_goes_out_and_figures_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", *DEMO, "--prompt", "In the", "--max-tokens", "5"]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() and captured.out.endswith("\n")
    assert "prompt tokens: 2, first token after" in captured.err
    assert "output tokens: 5" in captured.err


def test_json_holds_what_is_streamed(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--prompt", "In the", "--max-tokens", "5"]
    streamed = generated(capsys, *arguments)
    answer = json.loads(generated(capsys, *arguments, "--json", "--logprobs", "1"))
    (output,) = answer["outputs"]
    assert output["text"] + "\n" == streamed
    assert output["finish_reason"] == "length"
    assert [each[0]["token_id"] for each in output["logprobs"]] == output["token_ids"]
    assert answer["prompt"] == "In the" and answer["total_s"] >= answer["first_token_s"] > 0


def test_prompt_logprobs_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--prompt", "In the beginning", "--max-tokens", "1"]
    answer = json.loads(generated(capsys, *arguments, "--json", "--prompt-logprobs", "0"))
    first, *rest = answer["prompt_logprobs"]
    assert first is None
    assert [each[0]["token_id"] for each in rest] == answer["prompt_token_ids"][1:]


def test_prompt_from_stdin(
    type_in: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    type_in("In the")
    piped = generated(capsys, "--max-tokens", "5")
    assert piped == generated(capsys, "--prompt", "In the", "--max-tokens", "5")


def test_several_completions_are_numbered(capsys: pytest.CaptureFixture[str]) -> None:
    out = generated(capsys, "--prompt", "In the", "--max-tokens", "3", "-n", "2")
    assert out.startswith("--- 0\n") and "\n--- 1\n" in out


def test_a_seed_repeats(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--prompt", "In the", "--max-tokens", "8", "--temperature", "1", "--seed"]
    assert generated(capsys, *arguments, "3") == generated(capsys, *arguments, "3")
    assert generated(capsys, *arguments, "3") != generated(capsys, *arguments, "4")


def test_logprobs_without_json_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", *DEMO, "--prompt", "x", "--logprobs", "1"]) == 2
    assert "--json only" in capsys.readouterr().err


def test_demands_that_leave_no_token_are_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    form = ["--structured-outputs", '{"choice": ["yes"]}', "--min-tokens", "8"]
    assert main(["generate", *DEMO, "--prompt", "In the", *form]) == 1
    assert "no token could come next" in capsys.readouterr().err


def test_a_form_of_the_wrong_type(capsys: pytest.CaptureFixture[str]) -> None:
    for form in ('{"regex": 5}', '{"choice": "yes"}'):
        assert main(["generate", *DEMO, "--prompt", "a", "--structured-outputs", form]) == 1
        assert "give a" in capsys.readouterr().err


def test_a_prompt_that_is_too_long(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", *DEMO, "--prompt", "word " * 50, "--max-model-len", "16"]
    assert main(arguments) == 1
    assert "shorten the prompt" in capsys.readouterr().err


def test_rate_leaves_out_the_first_token_of_each_completion() -> None:
    outputs = [CompletionOutput(i, token_ids=[1] * 11) for i in range(2)]
    answer = Answer(RequestOutput("r", "p", [1], outputs), first_token_s=1.0, total_s=3.0)
    assert answer.num_tokens == 22
    assert answer.tokens_per_s == 10.0
    assert Answer(RequestOutput("r", "p", [1], outputs), 1.0, 1.0).tokens_per_s == 0.0


def test_a_slow_reader_does_not_slow_the_figures() -> None:
    with Session(EngineConfig("demo", threads=1)) as session:
        started = time.monotonic()
        answer = session.answer("In the", SamplingParams(max_tokens=2), lambda _: time.sleep(0.2))
        seconds = time.monotonic() - started
    assert answer.num_tokens == 2 and 0 < answer.first_token_s <= answer.total_s
    assert seconds - answer.total_s > 0.2


def chat(*arguments: str) -> int:
    return main(["chat", *DEMO, "--max-tokens", "8", *arguments])


def test_chat_commands(type_in: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    type_in("/help\n\n/nonsense now\n/exit\nnever read\n")
    assert chat() == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("/reset  forget") == 3 and "there is no /nonsense" in captured.err


def test_chat_remembers_until_reset(
    type_in: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    type_in("hello\nhello\n/reset\nhello\n")
    assert chat() == 0
    captured = capsys.readouterr()
    first, second, third = (
        int(line.split("prompt tokens: ")[1].split(",")[0])
        for line in captured.err.splitlines()
        if "prompt tokens" in line
    )
    assert second > first == third
    answers = captured.out.splitlines()
    assert answers[0] == answers[-1]


def test_chat_template_and_system_prompt(
    type_in: Callable[[str], None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{% for m in messages %}{{ m.content }} {% endfor %}")
    type_in("a\n")
    assert chat("--chat-template", str(template)) == 0
    alone = capsys.readouterr().err
    type_in("a\n")
    assert chat("--chat-template", str(template), "--system", "one two three") == 0
    assert "prompt tokens: 2," in alone
    assert "prompt tokens: 2," not in capsys.readouterr().err


def test_chat_survives_a_question_that_is_too_long(
    type_in: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    type_in("word " * 60 + "\n/reset\nhi\n")
    assert chat("--max-model-len", "40") == 0
    captured = capsys.readouterr()
    assert "shorten the prompt; /reset starts over" in captured.err
    assert captured.err.count("prompt tokens:") == 1


def test_missing_chat_template_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert chat("--chat-template", "/no/such/file") == 1
    assert "cannot read --chat-template /no/such/file" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send")
def test_ctrl_c_stops_the_answer_only() -> None:
    """The figures of the answer that was stopped are shown, and the exit code is 0."""
    command = [sys.executable, "-m", "quire", "generate", *DEMO, "--prompt", "In the"]
    command += ["--max-tokens", "900", "--ignore-eos"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=0
    )
    assert process.stdout is not None
    assert process.stdout.read(4)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "output tokens:" in err and "output tokens: 900" not in err
