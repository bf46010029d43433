"""Stop strings are found wherever the stream is cut, and nothing is shown that may be one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.text.stop_strings import StopStringFinder

LETTERS = st.text("abc", min_size=1, max_size=4)
STOPS = st.lists(LETTERS, min_size=1, max_size=3)
PIECES = st.lists(st.tuples(st.text("abc", max_size=4), st.booleans()), max_size=12)


def reference(pieces: list[tuple[str, bool]], stops: list[str], include: bool) -> tuple[str, str]:
    """Letter by letter over the whole text: the first letter that completes a stop string."""
    text = "".join(piece for piece, _ in pieces)
    counts = [flag for piece, flag in pieces for _ in piece]
    for end in range(1, len(text) + 1):
        hits = [stop for stop in stops if text[:end].endswith(stop)]
        if hits and counts[end - 1]:
            stop = max(hits, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, ""


@given(PIECES, STOPS, st.booleans())
def test_any_cut_gives_the_same(
    pieces: list[tuple[str, bool]], stops: list[str], include: bool
) -> None:
    finder = StopStringFinder(stops, include)
    shown = "".join(finder.push(piece, counts) for piece, counts in pieces)
    assert (shown + finder.finish(), finder.found or "") == reference(pieces, stops, include)


@given(st.lists(st.text("abc", max_size=4), max_size=12), STOPS)
def test_only_the_beginning_of_a_stop_string_is_held(pieces: list[str], stops: list[str]) -> None:
    finder = StopStringFinder(stops)
    shown = whole = ""
    for piece in pieces:
        shown += finder.push(piece)
        whole += piece
        if finder.found is not None:
            return
        held = whole[len(shown) :]
        assert whole.startswith(shown)
        assert len(held) < max(map(len, stops))
        assert not held or any(stop.startswith(held) for stop in stops)


@pytest.mark.parametrize("stop", ["\n\n", "。", "用户：", "</s>", "👩\u200d👩"])
def test_a_stop_string_over_many_tokens(stop: str) -> None:
    finder = StopStringFinder([stop])
    shown = "".join(finder.push(letter) for letter in f"你好{stop}more")
    assert (shown, finder.found, finder.finish()) == ("你好", stop, "")


def test_without_stop_strings_nothing_is_held() -> None:
    finder = StopStringFinder([])
    assert finder.push("abc") == "abc"
    assert finder.found is None


def test_a_stop_string_may_begin_in_text_that_does_not_count() -> None:
    finder = StopStringFinder(["ab"])
    assert finder.push("aba", counts=False) == "ab"
    assert finder.push("b") == ""
    assert finder.found == "ab"
