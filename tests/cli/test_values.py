"""Option values: human integers, JSON objects, auto."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest

from quire.cli.values import auto_or, human_integer, json_object


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4096", 4096),
        ("32k", 32_000),
        ("32K", 32_768),
        ("1g", 10**9),
        ("1G", 2**30),
        ("2M", 2 * 2**20),
        ("1t", 10**12),
        ("1.5k", 1500),
        ("0.5G", 2**29),
        ("1_000", 1000),
        ("-1", -1),
        ("0", 0),
    ],
)
def test_human_integers(text: str, value: int) -> None:
    assert human_integer(text) == value


@pytest.mark.parametrize("text", ["", "k", "1.5", "1x", "1 2", "0x10", "1kk", "1e3", "0.0001k"])
def test_what_is_no_integer(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        human_integer(text)


def test_big_integers_are_exact() -> None:
    assert human_integer(str(2**64 - 1)) == 2**64 - 1


def test_json_objects() -> None:
    assert json_object('{"a": [1]}') == {"a": [1]}
    for text in ("[1]", "{", "1", "null"):
        with pytest.raises(ArgumentTypeError):
            json_object(text)


def test_auto_is_none() -> None:
    assert auto_or(human_integer)("auto") is None
    assert auto_or(human_integer)("1k") == 1000
