"""The stream of text equals the whole text, for any tokens, and never shows half a character."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.text.detokenize import Detokenizer, make_detokenizer
from quire.text.tokenizer import Tokenizer

MANY = settings(max_examples=100, deadline=None)
TEXTS = ["你好，世界", "👩\u200d👩\u200d👧 🇨🇳🎉", "naïve café — 日本語テキスト", "한국어 모델"]


def draw_ids(data: st.DataObject, tokenizer: Tokenizer, max_size: int = 40) -> list[int]:
    """Any tokens of the vocabulary and a little beyond it, bytes and text mixed."""
    anything = st.integers(0, tokenizer.vocab_size + 3)
    first = st.integers(0, min(tokenizer.vocab_size, 300))  # where byte tokens stand
    text = st.sampled_from(["你好", "😀 🎉", "héllo wörld", "don't !", "👩‍👩‍👧", " ", "程序 語言"])
    encoded = text.map(lambda part: tokenizer.encode(part, add_special_tokens=False))
    runs = st.one_of(st.lists(anything, max_size=5), st.lists(first, max_size=8), encoded)
    parts = data.draw(st.lists(runs, max_size=max_size // 4))
    return [token for part in parts for token in part]


def stream(detokenizer: Detokenizer, ids: Sequence[int], data: st.DataObject) -> list[str]:
    """Push the tokens in groups of any size."""
    pieces, at = [], 0
    while at < len(ids):
        count = data.draw(st.integers(1, 3))
        pieces.append(detokenizer.push(ids[at : at + count]))
        at += count
    return [*pieces, detokenizer.finish()]


@MANY
@given(data=st.data(), skip=st.booleans())
def test_stream_is_whole_decode(tokenizer: Tokenizer, data: st.DataObject, skip: bool) -> None:
    ids = draw_ids(data, tokenizer)
    pieces = stream(make_detokenizer(tokenizer, (), skip), ids, data)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=skip)


@MANY
@given(data=st.data())
def test_output_continues_the_prompt(tokenizer: Tokenizer, data: st.DataObject) -> None:
    prompt, output = draw_ids(data, tokenizer), draw_ids(data, tokenizer)
    before = tokenizer.decode(prompt)
    if before.endswith("\ufffd") and tokenizer.byte_exact:  # an unfinished character, see below
        return
    pieces = stream(make_detokenizer(tokenizer, prompt), output, data)
    assert before + "".join(pieces) == tokenizer.decode(prompt + output)


@MANY
@given(data=st.data())
def test_each_step_shows_all_that_is_certain(
    load: Callable[[str], Tokenizer], data: st.DataObject
) -> None:
    """After any token, what is shown is the whole text but an unfinished character at the end."""
    tokenizer = load(data.draw(st.sampled_from(["byte_level", "llama2", "sentencepiece"])))
    ids = [t for t in draw_ids(data, tokenizer) if t not in tokenizer.special_ids]
    detokenizer, shown, raw = make_detokenizer(tokenizer), "", b""
    for n, token in enumerate(ids):
        shown += detokenizer.push([token])
        raw += tokenizer.token_bytes(token, leading=n == 0)
        assert shown == codecs.getincrementaldecoder("utf-8")("replace").decode(raw)


@pytest.mark.parametrize("kind", ["byte_level", "llama2", "sentencepiece", "sentencepiece_chat"])
@pytest.mark.parametrize(
    "text", ["你好，世界", "👩‍👩‍👧 🇨🇳🎉", "naïve café — 日本語テキスト", "한국어 모델"]
)
def test_no_replacement_character_in_valid_text(
    load: Callable[[str], Tokenizer], kind: str, text: str
) -> None:
    tokenizer = load(kind)
    ids = tokenizer.encode(text, add_special_tokens=False)
    detokenizer = make_detokenizer(tokenizer)
    pieces = [detokenizer.push([token]) for token in ids] + [detokenizer.finish()]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def byte_token(tokenizer: Tokenizer, byte: int) -> int:
    """The token that adds this byte and nothing else."""
    wanted = bytes([byte])
    return next(t for t in range(tokenizer.vocab_size) if tokenizer.token_bytes(t) == wanted)


@pytest.mark.parametrize("kind", ["byte_level", "llama2", "sentencepiece"])
def test_a_lone_continuation_byte_does_not_stall(
    load: Callable[[str], Tokenizer], kind: str
) -> None:
    tokenizer = load(kind)
    detokenizer = make_detokenizer(tokenizer, [byte_token(tokenizer, 0x61)])
    assert detokenizer.push([byte_token(tokenizer, 0xBD)]) == "\ufffd"
    assert detokenizer.push([byte_token(tokenizer, 0x62)]) == "b"


@pytest.mark.parametrize("kind", ["byte_level", "llama2", "sentencepiece"])
def test_an_unfinished_character_waits_and_is_flushed(
    load: Callable[[str], Tokenizer], kind: str
) -> None:
    tokenizer = load(kind)
    first, second, third = (byte_token(tokenizer, byte) for byte in "你".encode())
    assert make_detokenizer(tokenizer).push([first, second]) == ""
    assert make_detokenizer(tokenizer).push([first, second, third]) == "你"
    cut = make_detokenizer(tokenizer)
    assert cut.push([first, second]) + cut.finish() == "\ufffd"


@pytest.mark.parametrize("kind", ["byte_level", "llama2", "sentencepiece"])
def test_output_may_finish_a_character_of_the_prompt(
    load: Callable[[str], Tokenizer], kind: str
) -> None:
    tokenizer = load(kind)
    first, second, third = (byte_token(tokenizer, byte) for byte in "你".encode())
    assert make_detokenizer(tokenizer, [first, second]).push([third]) == "你"


@pytest.mark.parametrize("kind", ["llama2", "sentencepiece", "metaspace"])
def test_the_space_that_joins_output_to_prompt_stays(
    load: Callable[[str], Tokenizer], kind: str
) -> None:
    tokenizer = load(kind)
    hello = tokenizer.encode("hello", add_special_tokens=False)
    the = tokenizer.encode("the", add_special_tokens=False)
    bos = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    assert make_detokenizer(tokenizer, the).push(hello) == " hello"
    assert make_detokenizer(tokenizer, bos).push(hello) == "hello"


def test_a_long_stream_costs_the_same_per_token(load: Callable[[str], Tokenizer]) -> None:
    """Counts decoded tokens, not time: the window of an inexact decoder stays short."""
    tokenizer = load("end_of_word")
    longest = 0

    class Counting:
        byte_exact = False
        special_ids = tokenizer.special_ids

        def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
            nonlocal longest
            longest = max(longest, len(ids))
            return tokenizer.decode(ids, skip_special_tokens)

    ids = tokenizer.encode("hello world the quick brown fox " * 50)
    detokenizer = make_detokenizer(Counting())  # type: ignore[arg-type]
    text = "".join(detokenizer.push([token]) for token in ids) + detokenizer.finish()
    assert text == tokenizer.decode(ids)
    assert longest <= 5
