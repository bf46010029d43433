"""A pickle of plain data is read; a pickle that wants anything else is refused and never runs."""

from __future__ import annotations

import builtins
import contextlib
import functools
import operator
import os
import pickle
import struct
import subprocess
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.weights.pickle_data import Refused, read_pickle

MARK = Path("/tmp/quire-test-pickle-ran")
COMMAND = f"touch {MARK}"

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner)
    ),
    max_leaves=20,
)


def read(content: bytes, allowed: dict[str, object] | None = None) -> Any:
    return read_pickle(memoryview(content), 0, allowed or {})[0]


@given(plain, st.sampled_from([3, 4, 5]))
@settings(deadline=None)
def test_plain_data_is_read_equal(value: Any, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == value


def test_shared_values_and_long_lists_are_read_equal() -> None:
    shared = ["x"] * 3
    value = [shared, {"again": shared}, *range(5000), *[str(n) for n in range(300)]]
    for protocol in (2, 3, 4, 5):
        again = read(pickle.dumps(value, protocol))
        assert again == value
        assert again[0] is again[1]["again"]


def test_pickles_in_a_row_tell_where_they_end() -> None:
    row = pickle.dumps(1, 2) + pickle.dumps("two", 2)
    first, at = read_pickle(memoryview(row), 0, {})
    second, end = read_pickle(memoryview(row), at, {})
    assert (first, second, end) == (1, "two", len(row))


def test_strings_of_python_2_are_text() -> None:
    assert read(b"\x80\x02U\x03abcT\x02\x00\x00\x00de\x86.") == ("abc", "de")


def test_allowed_names_stand_for_what_the_caller_says() -> None:
    ordered = pickle.dumps(OrderedDict(a=1), 2)
    assert read(ordered, {"collections.OrderedDict": dict}) == {"a": 1}


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


EVIL = {
    "os.system": Calls(os.system, COMMAND),
    "subprocess": Calls(subprocess.Popen, ["touch", str(MARK)]),
    "eval": Calls(builtins.eval, f"__import__('os').system({COMMAND!r})"),
    "exec": Calls(builtins.exec, f"__import__('os').system({COMMAND!r})"),
    "getattr": Calls(builtins.getattr, "x", "upper"),
    "import": Calls(builtins.__import__, "antigravity"),
    "attrgetter": Calls(operator.attrgetter, "system"),
    "partial": Calls(functools.partial, os.system, COMMAND),
    "bytearray of 1 TB": Calls(bytearray, 2**40),
    "a class": Path,
    "an instance": Path("x"),
    "a set": {1, 2},
    "complex": 1j,
}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("value", EVIL.values(), ids=EVIL.keys())
def test_calls_and_foreign_objects_are_refused(value: Any, protocol: int) -> None:
    with pytest.raises(Refused):
        read(pickle.dumps({"a": value}, protocol))
    assert not MARK.exists()


def test_a_refusal_names_what_was_asked_for() -> None:
    with pytest.raises(Refused, match=r"'(posix|nt)\.system'"):
        read(pickle.dumps(EVIL["os.system"]))


ALLOWED = {"collections.OrderedDict": lambda *pairs: dict(*pairs), "torch.FloatStorage": "F32"}

HAND_WRITTEN = {
    "a name through INST": b"\x80\x02(cos\nsystem\n(ios\nsystem\n.",
    "a name through OBJ": b"\x80\x02(cos\nsystem\no.",
    "a name with dots": b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93.",
    "an extension code": b"\x80\x02\x82\x01.",
    "NEWOBJ": b"\x80\x02ctorch\nFloatStorage\n)\x81.",
    "BUILD on a function": b"\x80\x02ccollections\nOrderedDict\n}b.",
    "a call of a value": b"\x80\x02ctorch\nFloatStorage\n)R.",
    "a call without a tuple": b"\x80\x02ccollections\nOrderedDict\n]R.",
    "a reference out": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "an old reference out": b"\x80\x02Pabc\n.",
    "a tuple as a key": b"\x80\x02})K\x01s.",
    "LONG4 of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7f.",
}


@pytest.mark.parametrize("content", HAND_WRITTEN.values(), ids=HAND_WRITTEN.keys())
def test_other_ways_to_run_code_are_refused(content: bytes) -> None:
    with pytest.raises(Refused):
        read(content, ALLOWED)


def text(content: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(content)) + content


DAMAGED = {
    "nothing": b"",
    "no end": b"\x80\x02K\x01",
    "nothing on the stack": b"\x80\x02.",
    "a protocol to come": b"\x80\x09K\x01.",
    "a text of 4 GB": b"\x80\x02X\xff\xff\xff\xff.",
    "a text of 2**64 bytes": b"\x80\x02\x8d" + b"\xff" * 8 + b".",
    "a string of -1 bytes": b"\x80\x02T\xff\xff\xff\xff.",
    "bytes of 4 GB": b"\x80\x02B\xff\xff\xff\xff.",
    "a memo that was not filled": b"\x80\x02h\x05.",
    "a memo of nothing": b"\x80\x02q\x05.",
    "a tuple of too little": b"\x80\x02K\x01\x87.",
    "no mark": b"\x80\x02K\x01t.",
    "an append to a number": b"\x80\x02K\x01K\x02a.",
    "an item for a list": b"\x80\x02]K\x01K\x02s.",
    "a key without a value": b"\x80\x02}(K\x01u.",
    "a name without an end": b"\x80\x02c" + b"a" * 2000,
    "a name that is a number": b"\x80\x04K\x01K\x02\x93.",
    "text that is not UTF-8": b"\x80\x02" + text(b"\xff\xfe") + b".",
    "a call with wrong arguments": b"\x80\x02ccollections\nOrderedDict\nK\x01K\x02\x86R.",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damage_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"pickle|utf-8|unpack|zip\(\)") as error:
        read(content, ALLOWED)
    assert not isinstance(error.value, Refused)


def test_a_huge_memo_index_takes_no_memory() -> None:
    assert read(b"\x80\x02K\x01r\xff\xff\xff\xff.") == 1


def test_nesting_and_sharing_cannot_make_it_hang() -> None:
    doubling = b"\x80\x02)" + b"q\x00h\x00\x86" * 100
    with pytest.raises(Refused, match="key that is a tuple"):
        read(doubling + b"q\x01}h\x01K\x01s.")
    deep = read(b"\x80\x02)" + b"\x85" * 200_000 + b".")
    assert isinstance(deep, tuple)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_random_bytes_are_refused_or_read(content: bytes) -> None:
    for start in (b"", b"\x80\x02", b"\x80\x04"):
        with contextlib.suppress(ValueError):
            read(start + content + b".", ALLOWED)
