"""Reads the data in a pickle and runs none of its code.

A pickle is a program for a small stack machine.  `pickle.Unpickler` with a restricted
`find_class` would still set attributes on what it finds and allocate whatever size a memo
index names, so this machine has its own loop: it knows only the instructions that tensors and
plain containers need, a name outside the caller's list stops it, every length is checked
against the bytes that are left, and each instruction takes a byte or more, so it ends.
Source: `pickletools` in the standard library documents every instruction.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Refused", "read_pickle", "set_items"]

MAX_NAME_BYTES = 512
MAX_PROTOCOL = 5


class Refused(ValueError):
    """The pickle asks for something that is not plain data and not on the caller's list."""


def read_pickle(
    raw: memoryview,
    start: int,
    allowed: Mapping[str, object],
    persistent: Callable[[object], object] | None = None,
) -> tuple[Any, int]:
    """Return the value of the pickle that starts at byte `start`, and where it ends.

    allowed: dotted global name → the value that stands for it; functions among them may be
    called by the pickle with any arguments and must check them.  persistent: turns an external
    reference into a value.
    Raises Refused for anything else that the pickle names, ValueError for damaged bytes.
    """
    machine = _Machine(raw, start, allowed, persistent)
    try:
        return machine.run(), machine.at
    except (IndexError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ValueError(
            f"damaged pickle near byte {machine.at}: {type(error).__name__}"
        ) from error


def set_items(target: object, pairs: object) -> None:
    """Put key-value pairs into a dict.

    Keys are numbers or strings: hashing a nested tuple could take for ever.
    Raises ValueError for other keys or if the target is not a dict.
    """
    if not isinstance(target, dict) or not isinstance(pairs, (list, tuple)):
        raise ValueError("damaged pickle: items for something that is not a dictionary")
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise ValueError("damaged pickle: an item is not a key and a value")
        if not isinstance(pair[0], (str, int, float)):
            raise Refused(f"a dictionary key that is a {type(pair[0]).__name__}")
        target[pair[0]] = pair[1]


class _Machine:
    """The stack, the marks in it, and the memo of one pickle."""

    def __init__(
        self,
        raw: memoryview,
        start: int,
        allowed: Mapping[str, object],
        persistent: Callable[[object], object] | None,
    ) -> None:
        self.raw = raw
        self.at = start
        self.allowed = allowed
        self.persistent = persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each open mark
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Execute instructions up to STOP and return the value on top."""
        while (code := self.take(1)[0]) != STOP:
            if code in LITERALS:
                self.stack.append(LITERALS[code])
            elif code in NUMBERS:
                self.stack.append(self.number(NUMBERS[code]))
            elif code in TEXTS:
                self.stack.append(str(self.counted(TEXTS[code]), "utf-8", "surrogatepass"))
            elif code in ACTIONS:
                ACTIONS[code](self)
            else:
                raise Refused(f"pickle instruction {bytes([code])!r} at byte {self.at - 1}")
        return self.stack.pop()

    def take(self, count: int) -> memoryview:
        """Return the next `count` bytes."""
        end = self.at + count
        if end > len(self.raw):
            raise ValueError(f"the pickle needs byte {end} and the data has {len(self.raw)}")
        taken = self.raw[self.at : end]
        self.at = end
        return taken

    def number(self, form: str) -> Any:
        """Return the next number, in a `struct` format."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def counted(self, form: str) -> bytes:
        """Return the bytes behind a length that has a `struct` format."""
        return bytes(self.take(self.number(form)))

    def items(self) -> list[Any]:
        """Remove and return what lies above the last mark."""
        above, self.stack = self.stack, self.below.pop()
        return above

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def skip_protocol(self) -> None:
        version = self.take(1)[0]
        if version > MAX_PROTOCOL:
            raise ValueError(f"damaged pickle: protocol {version} is above {MAX_PROTOCOL}")

    def skip_frame(self) -> None:
        self.take(8)

    def long(self) -> None:
        self.stack.append(int.from_bytes(self.counted("<B"), "little", signed=True))

    def bytes_(self, form: str) -> None:
        self.stack.append(self.counted(form))

    def tuple_of(self, count: int) -> None:
        split = len(self.stack) - count
        if split < 0:
            raise IndexError
        self.stack[split:] = [tuple(self.stack[split:])]

    def tuple_from_mark(self) -> None:
        values = tuple(self.items())
        self.stack.append(values)

    def empty_list(self) -> None:
        self.stack.append([])

    def empty_dict(self) -> None:
        self.stack.append({})

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise ValueError("damaged pickle: values for something that is not a list")
        target.extend(values)

    def append(self) -> None:
        value = self.stack.pop()
        self.extend([value])

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        set_items(self.stack[-1], [(key, value)])

    def set_items_from_mark(self) -> None:
        values = self.items()
        set_items(self.stack[-1], list(zip(values[::2], values[1::2], strict=True)))

    def memoize(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def line(self) -> str:
        """Return the text up to the next newline."""
        text, newline, _ = bytes(self.raw[self.at : self.at + MAX_NAME_BYTES]).partition(b"\n")
        if not newline:
            raise ValueError(f"damaged pickle: a name at byte {self.at} does not end")
        self.at += len(text) + 1
        return str(text, "utf-8")

    def find(self, name: str) -> None:
        if name not in self.allowed:
            raise Refused(f"the pickle names {name!r:.200}")
        self.stack.append(self.allowed[name])

    def find_line(self) -> None:
        module = self.line()
        self.find(f"{module}.{self.line()}")

    def find_stacked(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("damaged pickle: a name that is not text")
        self.find(f"{module}.{name}")

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not callable(function) or not isinstance(arguments, tuple):
            raise Refused(f"a call of a {type(function).__name__}")
        self.stack.append(function(*arguments))

    def set_state(self) -> None:
        """Drop the attributes of a dict (`state_dict()._metadata`); nothing else has any."""
        self.stack.pop()
        if not isinstance(self.stack[-1], dict):
            raise Refused(f"attributes for a {type(self.stack[-1]).__name__}")

    def refer(self) -> None:
        if self.persistent is None:
            raise Refused("a reference out of the pickle")
        self.stack.append(self.persistent(self.stack.pop()))


STOP = ord(".")
LITERALS = {ord("N"): None, 0x88: True, 0x89: False, ord(")"): ()}
NUMBERS = {ord("J"): "<i", ord("K"): "<B", ord("M"): "<H", ord("G"): ">d"}
# BINUNICODE, SHORT_BINUNICODE, BINUNICODE8, and the strings of Python 2.
TEXTS = {ord("X"): "<I", 0x8C: "<B", 0x8D: "<Q", ord("T"): "<I", ord("U"): "<B"}
ACTIONS: dict[int, Callable[[_Machine], None]] = {
    0x80: _Machine.skip_protocol,
    0x95: _Machine.skip_frame,
    0x8A: _Machine.long,
    ord("B"): lambda machine: machine.bytes_("<I"),
    ord("C"): lambda machine: machine.bytes_("<B"),
    ord("("): _Machine.mark,
    ord("t"): _Machine.tuple_from_mark,
    0x85: lambda machine: machine.tuple_of(1),
    0x86: lambda machine: machine.tuple_of(2),
    0x87: lambda machine: machine.tuple_of(3),
    ord("]"): _Machine.empty_list,
    ord("}"): _Machine.empty_dict,
    ord("a"): _Machine.append,
    ord("e"): lambda machine: machine.extend(machine.items()),
    ord("s"): _Machine.set_item,
    ord("u"): _Machine.set_items_from_mark,
    ord("q"): lambda machine: machine.memoize(machine.take(1)[0]),
    ord("r"): lambda machine: machine.memoize(machine.number("<I")),
    0x94: lambda machine: machine.memoize(len(machine.memo)),
    ord("h"): lambda machine: machine.recall(machine.take(1)[0]),
    ord("j"): lambda machine: machine.recall(machine.number("<I")),
    ord("c"): _Machine.find_line,
    0x93: _Machine.find_stacked,
    ord("R"): _Machine.call,
    ord("b"): _Machine.set_state,
    ord("Q"): _Machine.refer,
}
