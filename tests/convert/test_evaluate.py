"""Evaluating a model, by text, against another, and by questions."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from quire.cli.main import main
from quire.config import EngineConfig
from quire.convert.divergence import Divergence
from quire.convert.evaluate import evaluate_texts
from quire.convert.served_model import ServedModel
from quire.convert.tasks import Question, read_questions
from quire.convert.texts import DEFAULT_TEXT, read_sequences, spread, windows
from quire.errors import ConfigError
from quire.text.tokenizer import load_tokenizer
from tests.convert.tiny import DEMO, write_tiny

HELDOUT = str(DEMO / "heldout.en.txt")


@pytest.fixture(scope="module")
def demo() -> ServedModel:
    return ServedModel(EngineConfig(str(DEMO)), 512)


def test_perplexity_is_that_of_the_demo_models_page(demo: ServedModel, tmp_path: Path) -> None:
    """docs/demo-model.md has 57.742 from torch; this is the first tenth of the text."""
    (found,) = evaluate_texts(demo, None, [HELDOUT], 512)
    assert found["perplexity"] == pytest.approx(57.742, abs=0.01)
    assert found["bits_per_byte"] == pytest.approx(1.5374, abs=1e-3)
    assert found["tokens"] == 14321


def test_a_model_does_not_differ_from_itself(demo: ServedModel, text: str) -> None:
    (found,) = evaluate_texts(demo, demo, [text], 128)
    assert found["kl_mean"] == 0 and found["top1_agreement"] == 1
    assert found["perplexity"] == found["perplexity_original"]


def test_divergence_by_hand() -> None:
    p, q = np.log(np.array([[0.5, 0.5]])), np.log(np.array([[0.25, 0.75]]))
    found = Divergence()
    found.add(p.astype(np.float32), q.astype(np.float32), np.array([0], np.int32))
    figures = found.figures()
    assert figures["kl_mean"] == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-5)
    assert figures["perplexity"] == pytest.approx(4) and figures["top1_agreement"] == 0


def test_other_vocabularies_are_refused(demo: ServedModel, tmp_path: Path, text: str) -> None:
    other = ServedModel(EngineConfig(str(write_tiny(tmp_path / "m", vocab_size=5121))), 64)
    with pytest.raises(ConfigError, match="one tokenizer"):
        evaluate_texts(demo, other, [text], 64)


def test_the_command(capsys: pytest.CaptureFixture[str], text: str, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(
        '{"question": "In the beginning God created the", "choices": [" heaven", " bicycle"], '
        '"answer": 0}\n{"question": "And it came to", "answer": "pass"}\n'
    )
    command = ["evaluate", "demo", "--text", text, "--against", "demo", "--kv-cache-dtype", "int8"]
    assert main([*command, "--tasks", str(tasks), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["texts"][0]["kl_mean"] < 1e-3
    assert found["tasks"][0]["accuracy"] == 1 and found["tasks"][0]["matched"] == 1
    assert main(["evaluate", "demo"]) == 2
    assert main(["evaluate", "demo", "--tasks", str(tasks), "--against", "demo"]) == 2


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "not JSON"),
        ('{"question": "?"}', "no .question. and .answer."),
        ('{"question": "?", "answer": 2, "choices": ["a"]}', "answer. that is none"),
        ('{"question": "?", "answer": 2}', "answer. that is none"),
        ('{"question": "?", "answer": "a", "choices": "a"}', "no list of texts"),
        ("", "holds no questions"),
    ],
)
def test_wrong_questions_are_named(line: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ConfigError, match=fault):
        read_questions(str(path))


def test_answers_may_be_numbers_or_texts(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(
        '{"question": "q", "choices": ["a", "b"], "answer": 1}\n'
        '{"prompt": "q", "choices": ["a", "b"], "answer": "b"}\n'
    )
    assert read_questions(str(path)) == [Question("q", "b", ("a", "b"))] * 2


def test_windows_predict_every_token_once() -> None:
    pieces = windows(list(range(10, 20)), 0, 4)
    assert [each.tolist() for each in pieces] == [
        [0, 10, 11, 12],
        [0, 13, 14, 15],
        [0, 16, 17, 18],
        [0, 19],
    ]
    assert spread(pieces, 8) == [0, 2] and spread(pieces, 1000) == [0, 1, 2, 3]


def test_the_text_that_ships_is_small_and_not_held_out() -> None:
    content = DEFAULT_TEXT.read_text(encoding="utf-8")
    assert len(content.encode()) <= 200_000
    texts = [json.loads(line)["text"] for line in content.splitlines()]
    held = (DEMO / "heldout.zh.txt").read_text(encoding="utf-8")
    held += (DEMO / "heldout.en.txt").read_text(encoding="utf-8")
    lines = {line for text in texts for line in text.splitlines() if len(line) > 60}
    assert not [line for line in lines if line in held]
    sequences = read_sequences((), load_tokenizer(DEMO), 512)
    assert sum(map(len, sequences)) > 40_000


def test_conversations_are_rendered(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "Hello"}]}\n{"text": "World"}\n')
    (tokens,) = read_sequences((str(path),), load_tokenizer(DEMO), 512)
    shown = load_tokenizer(DEMO).decode(tokens.tolist(), skip_special_tokens=False)
    assert "<|im_start|>user\nHello<|im_end|>" in shown and shown.endswith("World")
    path.write_text('{"prompt": 3}\n')
    with pytest.raises(ConfigError, match=r"line 1 has neither"):
        read_sequences((str(path),), load_tokenizer(DEMO), 512)
