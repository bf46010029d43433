"""A safetensors file is read exactly, or refused: never misread, whatever its bytes are."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire.errors import CheckpointError
from quire.weights.safetensors import SafetensorsFile

on_one_path = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)


def pack(header: Any, data: bytes = b"") -> bytes:
    """Build a file from a header, which may be text that is not JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin: int, end: int, dtype: Any = "U8", shape: Any = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape} | {
        "data_offsets": [begin, end]
    }


def opened(path: Path, content: bytes) -> SafetensorsFile:
    path.write_bytes(content)
    return SafetensorsFile(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


SAMPLE = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.arange(5, dtype=np.int64),
    "c": np.array(7, dtype=np.uint8),
    "d": np.zeros((0, 3), dtype=np.float16),
    "e": np.linspace(0, 1, 6, dtype=np.float16).reshape(1, 2, 3),
    "f": np.array([True, False]),
}


def test_what_the_library_saves_is_read_equal(path: Path) -> None:
    safetensors.numpy.save_file(SAMPLE, path, {"format": "np"})
    file = SafetensorsFile(path)
    assert set(file.names) == set(SAMPLE)
    assert file.metadata == {"format": "np"}
    for name, array in SAMPLE.items():
        tensor = file.tensor(name)
        assert tensor.shape == array.shape
        assert np.array_equal(tensor.data, array)
        assert not tensor.data.flags.writeable


@pytest.mark.oracle
def test_every_torch_dtype_is_read_equal(path: Path) -> None:
    torch = pytest.importorskip("torch")
    st_torch = pytest.importorskip("safetensors.torch")
    names = "bfloat16 float8_e4m3fn float8_e5m2 float8_e8m0fnu int32 uint16 uint32 uint64 complex64"
    raw = torch.arange(64, dtype=torch.uint8).reshape(4, 16)
    state = {name: raw.clone().view(getattr(torch, name)) for name in names.split()}
    state["float4"] = raw.clone().view(torch.float4_e2m1fn_x2)
    st_torch.save_file(state, path)
    file = SafetensorsFile(path)
    for name, tensor in state.items():
        assert file.tensor(name).data.tobytes() == tensor.view(torch.uint8).numpy().tobytes(), name
    assert file.tensor("bfloat16").data.dtype == np.uint16
    assert file.tensor("float4").shape == (4, 32)
    assert file.tensor("float4").data.shape == (4, 16)


def test_a_tensor_keeps_the_file_mapped(path: Path) -> None:
    safetensors.numpy.save_file(SAMPLE, path)
    data = SafetensorsFile(path).tensor("a.weight").data
    path.unlink()
    gc.collect()
    assert np.array_equal(data, SAMPLE["a.weight"])


def test_an_unknown_tensor_is_named(path: Path) -> None:
    file = opened(path, pack({"t": entry(0, 1)}, b"x"))
    assert file.has("t")
    assert not file.has("u")
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*'u'"):
        file.tensor("u")


REFUSED: dict[str, tuple[bytes, str]] = {
    "shorter than a size": (b"1234567", "header size alone"),
    "header beyond the limit": ((100_000_001).to_bytes(8, "little") + b"{}", "100000001"),
    "header beyond the file": ((50).to_bytes(8, "little") + b"{}", "needs 58 bytes .* has 10"),
    "size of 2**64 - 1": (b"\xff" * 8 + b"{}", "18446744073709551615"),
    "not JSON": (pack(b"{nonsense"), "not a whole"),
    "no brace first": (pack(b" {}"), "start with"),
    "not an object": (pack(b"[]"), "start with"),
    "not UTF-8": (pack(b'{"\xff": 1}'), "utf-8"),
    "too deep": (pack(b'{"a":' + b"[" * 200_000), "nests too deeply"),
    "endless digits": (pack(b'{"a":' + b"9" * 100_000 + b"}"), "not a whole"),
    "a tensor twice": (
        pack(b'{"t":%b,"t":%b}' % ((json.dumps(entry(0, 1)).encode(),) * 2), b"x"),
        "'t' twice",
    ),
    "a field twice": (
        pack(b'{"t":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', b"x"),
        "'dtype' twice",
    ),
    "entry is a list": (pack({"t": []}), "not described"),
    "no dtype": (pack({"t": {"shape": [1], "data_offsets": [0, 1]}}, b"x"), "lacks a dtype"),
    "dtype unknown": (pack({"t": entry(0, 1, "Q5")}, b"x"), "Q5"),
    "dtype a number": (pack({"t": entry(0, 1, 8)}, b"x"), "lacks a dtype"),
    "shape negative": (pack({"t": entry(0, 1, shape=[-1, -1])}, b"x"), "not a size"),
    "shape fractional": (pack({"t": entry(0, 1, shape=[1.0])}, b"x"), "not a size"),
    "shape true": (pack({"t": entry(0, 1, shape=[True])}, b"x"), "not a size"),
    "shape overflows": (pack({"t": entry(0, 0, shape=[2**32, 2**32])}), "larger than any"),
    "shape overflows beside 0": (pack({"t": entry(0, 0, shape=[0, 2**40, 2**40])}), "larger"),
    "too many axes": (pack({"t": entry(0, 1, shape=[1] * 1000)}, b"x"), "axes"),
    "offsets missing": (pack({"t": {"dtype": "U8", "shape": [1]}}, b"x"), "data_offsets"),
    "offsets three": (
        pack({"t": entry(0, 1) | {"data_offsets": [0, 1, 2]}}, b"x"),
        "data_offsets",
    ),
    "offsets true": (pack({"t": entry(0, 1) | {"data_offsets": [0, True]}}, b"x"), "data_offsets"),
    "offsets backwards": (pack({"t": entry(1, 0, shape=[1])}, b"x"), "data_offsets"),
    "offsets negative": (pack({"t": entry(-1, 0, shape=[1])}, b"x"), "data_offsets"),
    "offsets of another size": (pack({"t": entry(0, 2, shape=[1])}, b"xx"), "takes 1 bytes"),
    "hole at the start": (pack({"t": entry(1, 2)}, b"xx"), "hole"),
    "hole between": (pack({"t": entry(0, 1), "u": entry(2, 3)}, b"xxx"), "'u' leaves a hole"),
    "overlap": (pack({"t": entry(0, 2), "u": entry(1, 3)}, b"xxx"), "'u' overlaps"),
    "same place": (pack({"t": entry(0, 2), "u": entry(0, 2)}, b"xx"), "overlaps"),
    "cut off": (pack({"t": entry(0, 4)}, b"xxx"), r"end at byte \d+ and the file has \d+"),
    "too long": (pack({"t": entry(0, 1)}, b"xx"), r"end at byte \d+ and the file has \d+"),
    "metadata not strings": (pack({"__metadata__": {"a": 1}}), "__metadata__"),
    "metadata a list": (pack({"__metadata__": ["a"]}), "__metadata__"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "empty file": (b"", "empty"),
}


@pytest.mark.parametrize("content, message", REFUSED.values(), ids=REFUSED.keys())
def test_a_damaged_file_is_refused(path: Path, content: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as refusal:
        opened(path, content)
    assert str(path) in str(refusal.value)
    assert len(str(refusal.value)) < 1000


def test_a_million_keys_with_one_twice_are_refused_quickly(path: Path) -> None:
    keys = b",".join(b'"%d":0' % number for number in range(300_000))
    with pytest.raises(CheckpointError, match="twice"):
        opened(path, pack(b"{" + keys + b',"299999":0}'))


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    for name in (".", "absent"):
        with pytest.raises(CheckpointError, match="no such file"):
            SafetensorsFile(tmp_path / name)


def test_padding_and_empty_files_of_tensors_are_allowed(path: Path) -> None:
    assert opened(path, pack(b"{}")).names == ()
    padded = json.dumps({"t": entry(0, 1)}).encode() + b"   "
    assert opened(path, pack(padded, b"x")).tensor("t").data.tobytes() == b"x"


def test_every_truncation_is_refused(path: Path) -> None:
    whole = safetensors.numpy.save(SAMPLE)
    for size in range(len(whole)):
        with pytest.raises(CheckpointError):
            opened(path, whole[:size])


def agrees_with_the_library(path: Path, content: bytes) -> None:
    """Ours opens what the library opens, with equal bytes; what only ours opens is in bounds."""
    try:
        theirs = dict(safetensors.deserialize(content))
    except Exception:
        theirs = None
    try:
        ours = opened(path, content)
    except CheckpointError as error:
        assert theirs is None or "twice" in str(error)
        return
    for name in ours.names:
        tensor = ours.tensor(name)
        if theirs is not None:
            assert tensor.dtype == theirs[name]["dtype"]
            assert list(tensor.shape) == theirs[name]["shape"]
            assert tensor.data.tobytes() == bytes(theirs[name]["data"])


@on_one_path
@given(st.data())
def test_flipped_bytes_are_refused_or_read_as_the_library_does(path: Path, data: Any) -> None:
    content = bytearray(safetensors.numpy.save(SAMPLE, {"format": "np"}))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    agrees_with_the_library(path, bytes(content))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
sizes = st.integers(-1, 5) | st.sampled_from([2**31, 2**63, 2**64])
odd_entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["U8", "F16", "F32", "F4", "X"]) | json_values,
        "shape": st.lists(sizes, max_size=3) | json_values,
        "data_offsets": st.lists(sizes, min_size=1, max_size=3) | json_values,
    },
)


@on_one_path
@given(
    st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), odd_entries | json_values),
    st.binary(max_size=24),
)
def test_odd_headers_are_refused_or_read_as_the_library_does(
    path: Path, header: dict[str, Any], data: bytes
) -> None:
    agrees_with_the_library(path, pack(header, data))
