"""Questions with known answers from a local .jsonl file.

    {"question": "…", "choices": ["…", "…"], "answer": 1}      the likeliest choice is the answer
    {"question": "…", "answer": "…"}                            the continuation begins with it

A choice counts by its log-probability a byte, so that long ones are not at a loss.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quire.errors import ConfigError
from quire.llm import LLM
from quire.sampling_params import SamplingParams

__all__ = ["Question", "answer_questions", "read_questions"]


@dataclass(frozen=True, slots=True)
class Question:
    """A question; choices: empty where the answer is to be written."""

    text: str
    answer: str
    choices: tuple[str, ...] = ()


def read_questions(path: str) -> list[Question]:
    """The questions of a file.  Raises ConfigError, with the line, for what is none."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text: {error}") from error
    found = [
        _question(f"{path}, line {i}", line) for i, line in enumerate(lines, 1) if line.strip()
    ]
    if not found:
        raise ConfigError(f"{path} holds no questions")
    return found


def answer_questions(llm: LLM, questions: Sequence[Question]) -> dict[str, float]:
    """How many questions of either kind there are, and the share that the model answers."""
    choosing = [each for each in questions if each.choices]
    writing = [each for each in questions if not each.choices]
    figures: dict[str, float] = {}
    if choosing:
        right = sum(_chosen(llm, each) == each.answer for each in choosing)
        figures |= {"multiple_choice": len(choosing), "accuracy": right / len(choosing)}
    if writing:
        right = sum(_written(llm, each) for each in writing)
        figures |= {"exact_match": len(writing), "matched": right / len(writing)}
    return figures


def _chosen(llm: LLM, question: Question) -> str:
    tokenizer = llm.get_tokenizer()
    start = tokenizer.encode(question.text, True)
    whole = [tokenizer.encode(question.text + choice, True) for choice in question.choices]
    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
    outputs = llm.generate(whole, params, use_tqdm=False)
    scores = []
    for ids, output, choice in zip(whole, outputs, question.choices, strict=True):
        # Where a token spans the end of the question, it counts to the choice.
        same = next((i for i, (a, b) in enumerate(zip(start, ids, strict=False)) if a != b), None)
        first = max(1, min(len(start), len(ids) - 1) if same is None else same)
        entries = (output.prompt_logprobs or [])[first:]
        pairs = zip(ids[first:], entries, strict=True)
        nats = sum(entry[token].logprob for token, entry in pairs if entry is not None)
        scores.append(nats / max(len(choice.encode()), 1))
    return question.choices[scores.index(max(scores))]


def _written(llm: LLM, question: Question) -> bool:
    room = len(llm.get_tokenizer().encode(question.answer, False)) + 4
    params = SamplingParams(max_tokens=room, temperature=0.0)
    text = llm.generate([question.text], params, use_tqdm=False)[0].outputs[0].text
    return text.strip().startswith(question.answer.strip())


def _question(where: str, line: str) -> Question:
    try:
        entry: Any = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where} is not JSON: {error}") from error
    text = entry.get("question", entry.get("prompt")) if isinstance(entry, dict) else None
    if not isinstance(text, str) or "answer" not in entry:
        raise ConfigError(f'{where} has no "question" and "answer"')
    choices, answer = entry.get("choices", []), entry["answer"]
    if not isinstance(choices, list) or not all(isinstance(each, str) for each in choices):
        raise ConfigError(f'{where} has "choices" that are no list of texts')
    if choices and type(answer) is int and 0 <= answer < len(choices):
        answer = choices[answer]
    if not isinstance(answer, str) or (choices and answer not in choices):
        raise ConfigError(f'{where} has an "answer" that is none: {answer!r}')
    return Question(text, answer, tuple(choices))
