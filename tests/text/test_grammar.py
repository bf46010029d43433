"""Whatever is drawn from the allowed tokens obeys the grammar, and comes to an end."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from quire.errors import RequestError
from quire.sampling_params import StructuredOutput
from quire.text.grammar import GrammarCompiler, GrammarMatcher
from quire.text.tokenizer import Tokenizer

Load = Callable[[str], Tokenizer]
KINDS = ["byte_level", "llama2", "sentencepiece", "sentencepiece_chat", "demo"]
PADDING = 37  # a model's vocabulary is often larger than its tokenizer's
OBJECT = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["α", "编译", "c"]}, "maxItems": 3},
        "next": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
    },
    "required": ["name", "age", "tags", "next"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def compiler(load: Load) -> Callable[[str], GrammarCompiler]:
    """One compiler per kind of tokenizer."""
    made: dict[str, GrammarCompiler] = {}

    def find(kind: str) -> GrammarCompiler:
        tokenizer = load(kind)
        if kind not in made:
            eos = [tokenizer.eos_token_id or 0, 7]
            made[kind] = GrammarCompiler(tokenizer, tokenizer.vocab_size + PADDING, eos)
        return made[kind]

    return find


def allowed(matcher: GrammarMatcher, vocab_size: int) -> list[int]:
    """The ids whose bits are set; the bits behind the vocabulary must not be."""
    row = np.full((vocab_size + 31) // 32, -1, np.int32)
    matcher.fill_mask(row)
    bits = np.unpackbits(row.view(np.uint8), bitorder="little")
    assert not bits[vocab_size:].any()
    return [int(token) for token in np.flatnonzero(bits)]


def sample(
    compiler: GrammarCompiler, tokenizer: Tokenizer, wanted: StructuredOutput, seed: int
) -> str:
    """Text of tokens drawn evenly from those allowed, up to the end-of-text token."""
    draw = random.Random(seed)
    matcher = compiler.compile(wanted)
    ends = {tokenizer.eos_token_id or 0, 7}
    data = b""
    for _ in range(400):
        tokens = allowed(matcher, tokenizer.vocab_size + PADDING)
        assert tokens and max(tokens) < tokenizer.vocab_size
        assert not matcher.is_finished() or set(tokens) == ends
        token = draw.choice(tokens)
        assert matcher.accept(token)
        if token in ends:
            return data.decode()
        data += tokenizer.token_bytes(token)
    raise AssertionError(f"no end after 400 tokens: {data!r}")


@pytest.mark.parametrize("kind", KINDS)
def test_random_tokens_make_valid_json(
    load: Load, compiler: Callable[[str], GrammarCompiler], kind: str
) -> None:
    """White space is bounded, or the draws would hardly ever end."""
    for seed in range(15):
        text = sample(compiler(kind), load(kind), StructuredOutput(json=OBJECT), seed)
        value = json.loads(text)
        assert list(value) == ["name", "age", "tags", "next"]
        assert len(value["name"]) <= 12 and 0 <= value["age"] <= 130 and len(value["tags"]) <= 3
        assert not re.search(r"\s{10}", text)


@pytest.mark.parametrize("kind", KINDS)
def test_regex_choice_and_grammar(
    load: Load, compiler: Callable[[str], GrammarCompiler], kind: str
) -> None:
    choices = ("yes", "no", "不知道", 'a "b"\\\n', "🎉")
    lark = 'start: "<" word ("," word)* ">"\nword: /[a-c]{1,3}/ | "好"'
    for seed in range(10):
        tokenizer, use = load(kind), compiler(kind)
        assert sample(use, tokenizer, StructuredOutput(choice=choices), seed) in choices
        text = sample(use, tokenizer, StructuredOutput(regex=r"[ab]{2}-\d{3}[。!]"), seed)
        assert re.fullmatch(r"[ab]{2}-\d{3}[。!]", text)
        text = sample(use, tokenizer, StructuredOutput(grammar=lark), seed)
        assert re.fullmatch(r"<([a-c]{1,3}|好)(,([a-c]{1,3}|好))*>", text)


def test_json_object_and_schema_as_text(
    load: Load, compiler: Callable[[str], GrammarCompiler]
) -> None:
    for wanted in ({"json_object": True}, {"json": '{"type": "object"}'}, {"json": "true"}):
        matcher = compiler("byte_level").compile(StructuredOutput(**wanted))
        for byte in b'{"a": [1, {"b": null}]}':
            assert matcher.accept(token_of(load("byte_level"), byte))
        assert matcher.is_finished()


def token_of(tokenizer: Tokenizer, byte: int) -> int:
    """The token of one byte."""
    wanted = bytes([byte])
    return next(t for t in range(tokenizer.vocab_size) if tokenizer.token_bytes(t) == wanted)


def test_a_wrong_token_changes_nothing(
    load: Load, compiler: Callable[[str], GrammarCompiler]
) -> None:
    tokenizer = load("byte_level")
    matcher = compiler("byte_level").compile(StructuredOutput(choice=("ab",)))
    a, b = token_of(tokenizer, ord("a")), token_of(tokenizer, ord("b"))
    assert not matcher.accept(b)
    assert not matcher.accept(tokenizer.vocab_size + 5)
    assert matcher.accept(a) and not matcher.is_finished()
    assert matcher.accept(b) and matcher.is_finished()
    assert not matcher.accept(b)
    assert matcher.accept(7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["hello world", " the dog", "世界 😀", "<s><|bos|>", "\n\n x"])
def test_a_text_without_choice_takes_its_usual_tokens(
    load: Load, compiler: Callable[[str], GrammarCompiler], kind: str, text: str
) -> None:
    """Also where the tokenizer would put a space in front, or see a special token."""
    tokenizer = load(kind)
    matcher = compiler(kind).compile(StructuredOutput(choice=(text,)))
    data, ids = b"", []
    while not matcher.is_finished():
        (token,) = allowed(matcher, tokenizer.vocab_size + PADDING)
        assert matcher.accept(token) and token not in tokenizer.special_ids
        ids.append(token)
        data += tokenizer.token_bytes(token)
    assert data.decode() == text
    if kind == "byte_level" and "<" not in text:
        assert ids == tokenizer.encode(text)


def test_special_tokens_never_stand_for_their_text(
    load: Load, compiler: Callable[[str], GrammarCompiler]
) -> None:
    tokenizer = load("byte_level")
    for wanted in ({"choice": ("<|bos|>",)}, {"regex": "[<|>a-z]{1,20}"}):
        matcher = compiler("byte_level").compile(StructuredOutput(**wanted))
        tokens = allowed(matcher, tokenizer.vocab_size + PADDING)
        assert tokenizer.bos_token_id not in tokens


@pytest.mark.parametrize(
    "wanted",
    [
        {"regex": "(a"},
        {"grammar": "start: nothing"},
        {"json": {"type": "nope"}},
        {"json": "{"},
        {"json": "[1]"},
        {"json": {"type": "string", "pattern": "(?<=a)b"}},
        {"json": {"$ref": "https://example.com/schema"}},
        {"json": {"a": object()}},
        {"choice": ()},
        {"choice": ("a", "")},
        {"choice": ("a", 3)},
    ],
)
def test_a_bad_grammar_names_field_and_reason(
    compiler: Callable[[str], GrammarCompiler], wanted: dict[str, Any]
) -> None:
    with pytest.raises(RequestError) as caught:
        compiler("byte_level").compile(StructuredOutput(**wanted), "response_format")
    assert caught.value.param == "response_format"
    assert len(str(caught.value)) > 30


def test_a_row_of_another_size_is_refused(compiler: Callable[[str], GrammarCompiler]) -> None:
    matcher = compiler("byte_level").compile(StructuredOutput(choice=("a",)))
    with pytest.raises(ValueError, match="mask row"):
        matcher.fill_mask(np.zeros(3, np.int32))


def test_a_model_without_end_token_is_refused(load: Load) -> None:
    with pytest.raises(RequestError, match="end-of-text"):
        GrammarCompiler(load("byte_level"), 1000, [])


def test_matchers_of_equal_grammars_move_alone(
    load: Load, compiler: Callable[[str], GrammarCompiler]
) -> None:
    use, size = compiler("demo"), load("demo").vocab_size + PADDING
    first, second = (use.compile(StructuredOutput(choice=("ab", "cd"))) for _ in range(2))
    at_start = allowed(second, size)
    assert first.accept(at_start[0])
    assert allowed(second, size) == at_start != allowed(first, size)


def test_a_message_does_not_repeat_a_long_grammar(
    compiler: Callable[[str], GrammarCompiler],
) -> None:
    with pytest.raises(RequestError) as caught:
        compiler("demo").compile(StructuredOutput(regex="(" * 5000))
    assert len(str(caught.value)) < 1000
