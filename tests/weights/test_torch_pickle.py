"""A `torch.save` file is read exactly without torch, in both containers, or refused."""

from __future__ import annotations

import io
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire.errors import CheckpointError
from quire.ops.number_formats import bfloat16_bits
from quire.weights.torch_pickle import TorchPickleFile

FIXTURES = Path(__file__).parent / "fixtures"
CONTAINERS = ("zip.bin", "legacy.bin")

RAMP = np.arange(12, dtype=np.float32) / 2
EXPECTED: dict[str, tuple[str, np.ndarray[Any, Any]]] = {
    "f32": ("F32", RAMP.reshape(3, 4)),
    "f64": ("F64", RAMP.astype(np.float64)),
    "f16": ("F16", RAMP.astype(np.float16)),
    "bf16": ("BF16", bfloat16_bits(RAMP).reshape(2, 6)),
    "i64": ("I64", np.arange(-3, 3)),
    "u8": ("U8", np.arange(5, dtype=np.uint8)),
    "boolean": ("BOOL", np.array([1, 0, 1], dtype=np.uint8)),
    "transposed": ("F32", RAMP.reshape(3, 4).T),
    "window": ("F32", RAMP[3:7]),
    "every_third": ("F32", RAMP[1::3]),
    "scalar": ("F32", np.array(2.5, dtype=np.float32)),
    "empty": ("F32", np.zeros((0, 4), dtype=np.float32)),
    "parameter": ("F32", RAMP),
    "shared.first": ("F32", RAMP[:6]),
    "shared.second": ("F32", RAMP[6:]),
}


def check_contents(path: Path) -> None:
    file = TorchPickleFile(path)
    assert set(file.names) == set(EXPECTED)
    for name, (dtype, array) in EXPECTED.items():
        tensor = file.tensor(name)
        assert tensor.dtype == dtype
        assert tensor.shape == array.shape == tensor.data.shape
        assert tensor.data.dtype == array.dtype
        assert np.array_equal(tensor.data, array), name
        assert tensor.data.flags.c_contiguous


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pytorch_model.bin"


def rewritten(change: Callable[[str, bytes], bytes | None], **options: Any) -> bytes:
    """Copy zip.bin with each entry's bytes changed, or the entry left out where None."""
    out = io.BytesIO()
    with zipfile.ZipFile(FIXTURES / "zip.bin") as old, zipfile.ZipFile(out, "w", **options) as new:
        for entry in old.infolist():
            content = change(entry.filename, old.read(entry))
            if content is not None:
                new.writestr(entry.filename, content)
    return out.getvalue()


@pytest.mark.parametrize("container", CONTAINERS)
def test_both_containers_are_read_equal(container: str) -> None:
    check_contents(FIXTURES / container)


def test_torch_is_not_imported() -> None:
    code = f"""
import sys
from quire.weights.torch_pickle import TorchPickleFile
for name in {CONTAINERS}:
    TorchPickleFile({str(FIXTURES)!r} + "/" + name).tensor("f32")
assert "torch" not in sys.modules
"""
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_contiguous_tensor_is_a_view_of_the_file(container: str) -> None:
    file = TorchPickleFile(FIXTURES / container)
    first, second = file.tensor("f32").data, file.tensor("f32").data
    assert np.shares_memory(first, second)
    assert not first.flags.writeable
    assert not np.shares_memory(file.tensor("transposed").data, first)


def test_an_unknown_tensor_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"zip\.bin.*'absent'"):
        TorchPickleFile(FIXTURES / "zip.bin").tensor("absent")


def test_a_big_endian_archive_is_read_equal(path: Path) -> None:
    bytes_per_item = [4, 8, 2, 2, 8, 1, 1, 4, 4, 4, 4, 4, 4, 4]  # in the order of the keys
    item_sizes = dict(zip(sorted_storages(), bytes_per_item, strict=True))

    def swap(name: str, content: bytes) -> bytes:
        if name.endswith("/byteorder"):
            return b"big"
        if "/data/" in name:
            return np.frombuffer(content, f"u{item_sizes[name]}").byteswap().tobytes()
        return content

    path.write_bytes(rewritten(swap))
    check_contents(path)


def sorted_storages() -> list[str]:
    with zipfile.ZipFile(FIXTURES / "zip.bin") as archive:
        names = [name for name in archive.namelist() if "/data/" in name]
    return sorted(names, key=lambda name: int(name.split("/")[-1]))


def test_an_archive_of_before_the_byte_order_entry_is_little_endian(path: Path) -> None:
    path.write_bytes(rewritten(lambda name, text: None if name.endswith("byteorder") else text))
    check_contents(path)


def replace_pickle(value: Any, protocol: int = 2) -> bytes:
    """Copy zip.bin with another pickle."""
    content = value if isinstance(value, bytes) else pickle.dumps(value, protocol)
    return rewritten(lambda name, old: content if name.endswith("/data.pkl") else old)


class Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_code_is_refused_by_name_and_does_not_run(
    path: Path, container: str, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    evil = {"weight": Calls(os.system, f"touch {mark}")}
    if container == "zip":
        path.write_bytes(replace_pickle(evil))
    else:
        row = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, evil, []]
        path.write_bytes(b"".join(pickle.dumps(value, 2) for value in row))
    with pytest.raises(
        CheckpointError, match=r"pytorch_model\.bin: refused: .*system.*safetensors"
    ):
        TorchPickleFile(path)
    assert not mark.exists()


def tensor_pickle(
    count: int = 4, offset: int = 0, shape: Any = (4,), strides: Any = (1,), key: str = "0"
) -> bytes:
    """Write the pickle of {"t": a float tensor}, by hand so that it can lie."""

    def plain(value: Any) -> bytes:
        return pickle.dumps(value, 2)[2:-1].replace(b"q\x00", b"").replace(b"q\x01", b"")

    storage = (
        b"(" + plain("storage") + b"ctorch\nFloatStorage\n" + plain(key) + plain("cpu")
    ) + plain(count)
    return (b"\x80\x02}" + plain("t") + b"ctorch._utils\n_rebuild_tensor_v2\n(") + b"".join(
        [storage, b"tQ", plain(offset), plain(shape), plain(strides), b"\x89}", b"tRs."]
    )


def test_the_pickle_written_by_hand_is_read(path: Path) -> None:
    path.write_bytes(replace_pickle(tensor_pickle(12, 2, (2, 2), (6, 1))))
    assert TorchPickleFile(path).tensor("t").data.tolist() == [[1.0, 1.5], [4.0, 4.5]]


def test_a_step_that_no_address_could_hold_is_read_where_it_is_never_taken(path: Path) -> None:
    path.write_bytes(replace_pickle(tensor_pickle(12, 2, (1, 2), (2**70, 1))))
    assert TorchPickleFile(path).tensor("t").data.tolist() == [[1.0, 1.5]]


OUT_OF_BOUNDS = {
    "shape past the storage": tensor_pickle(12, 0, (13,)),
    "offset past the storage": tensor_pickle(12, 9),
    "stride past the storage": tensor_pickle(12, 0, (4,), (4,)),
    "storage past its bytes": tensor_pickle(13, 0, (13,)),
    "storage of 2**60 elements": tensor_pickle(2**60, 2**59),
    "expanded to terabytes": tensor_pickle(12, 0, (2**40,), (0,)),
    "empty but too large": tensor_pickle(12, 0, (0, 2**40, 2**40), (1, 1, 1)),
    "negative offset": tensor_pickle(12, -1),
    "negative stride": tensor_pickle(12, 3, (4,), (-1,)),
    "negative size": tensor_pickle(12, 0, (-4,), (-1,)),
    "negative count": tensor_pickle(-1, 0, (0,)),
    "fractional size": tensor_pickle(12, 0, (4.0,), (1,)),
    "list for a shape": tensor_pickle(12, 0, [4], (1,)),
    "fewer strides than axes": tensor_pickle(12, 0, (2, 2), (1,)),
    "storage not there": tensor_pickle(12, key="99"),
    "storage outside": tensor_pickle(12, key="../../../etc/passwd"),
}


@pytest.mark.parametrize("content", OUT_OF_BOUNDS.values(), ids=OUT_OF_BOUNDS.keys())
def test_a_tensor_outside_its_storage_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(replace_pickle(content))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        TorchPickleFile(path)


ODD_ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "compressed": (
        lambda: rewritten(lambda _, old: old, compression=zipfile.ZIP_DEFLATED),
        "compr",
    ),
    "no pickle": (lambda: rewritten(lambda n, old: None if ".pkl" in n else old), "0 entries"),
    "odd byte order": (
        lambda: rewritten(lambda n, old: b"middle" if n.endswith("byteorder") else old),
        "middle",
    ),
    "a list": (lambda: replace_pickle([1]), "top level is a list"),
    "no tensors": (lambda: replace_pickle({"state_dict": {}}), "holds: 'state_dict'"),
    "not torch's": (lambda: b"PK\x03\x04" + b"\0" * 100, "zip directory"),
    "text": (lambda: b"<html>not found</html>", "neither a zip archive nor a pickle"),
    "other pickles": (lambda: pickle.dumps(1, 2) * 2, "magic"),
    "TorchScript": (lambda: replace_pickle(b"\x80\x02c__torch__\nNet\n)\x81."), "refused"),
    "LFS pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
}


@pytest.mark.parametrize("build, message", ODD_ARCHIVES.values(), ids=ODD_ARCHIVES.keys())
def test_odd_files_are_refused(path: Path, build: Callable[[], bytes], message: str) -> None:
    path.write_bytes(build())
    with pytest.raises(CheckpointError, match=message):
        TorchPickleFile(path)


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_truncation_is_refused(path: Path, container: str) -> None:
    whole = (FIXTURES / container).read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            TorchPickleFile(path)


@pytest.mark.parametrize("container", CONTAINERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_flipped_bytes_are_refused_or_stay_in_bounds(path: Path, container: str, data: Any) -> None:
    content = bytearray((FIXTURES / container).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        file = TorchPickleFile(path)
    except CheckpointError:
        return
    for name in file.names:
        assert file.tensor(name).data.tobytes() is not None


@pytest.mark.oracle
@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_is_read_as_torch_loads_it(path: Path, zipped: bool) -> None:
    torch = pytest.importorskip("torch")
    base = torch.randn(6, 8)
    state = {
        "plain": base.clone(),
        "slice": base[1:5, ::2],
        "permuted": torch.randn(2, 3, 4).permute(2, 0, 1),
        "expanded": torch.arange(5).expand(1, 5),
        "parameter": torch.nn.Parameter(base.half()),
        "bf16": base.bfloat16(),
    }
    if zipped:  # torch writes these types into the old container but cannot read them back
        state |= {"fp8": base.to(torch.float8_e4m3fn), "u16": base.abs().to(torch.uint16)}
    for protocol in (2, 3, 4, 5):
        torch.save(state, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
        file = TorchPickleFile(path)
        for name, tensor in torch.load(path, weights_only=False).items():
            theirs = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
            assert file.tensor(name).data.tobytes() == theirs.tobytes(), name


@pytest.mark.oracle
def test_a_module_with_buffers_is_read(path: Path) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.save(module.state_dict(), path)
    file = TorchPickleFile(path)
    assert set(file.names) == set(module.state_dict())
    assert np.array_equal(file.tensor("0.weight").data, module[0].weight.detach().numpy())
    torch.save(module, path)
    with pytest.raises(CheckpointError, match=r"refused: .*torch\.nn"):
        TorchPickleFile(path)
