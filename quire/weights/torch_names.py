"""What the names in a torch pickle stand for: storages, and tensors as windows of them.

Nothing here holds weights; a `Window` says where they lie.
Source: `torch/_utils.py` and `torch/storage.py` of torch 2.13.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeGuard

from quire.weights.pickle_data import Refused, set_items
from quire.weights.tensor import nbytes_of

__all__ = ["ALLOWED", "Storage", "Window", "storage_of"]


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of bytes named in the pickle: `nbytes` from byte `first` of the storage `key`."""

    key: str
    dtype: str
    first: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Window:
    """A tensor as the pickle describes it; offset and strides count elements of `dtype`."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def reach(self) -> int:
        """How many elements lie from the first to the last, both included."""
        if 0 in self.shape:
            return 0
        return 1 + sum(
            (size - 1) * step for size, step in zip(self.shape, self.strides, strict=True)
        )


@dataclass(frozen=True, slots=True)
class _DType:
    """A name in the pickle that stands for an element type."""

    name: str


def storage_of(item_sizes: dict[str, int], reference: object) -> Storage:
    """Turn ("storage", type, key, location, count[, view]) into a storage, and note its type."""
    if not isinstance(reference, tuple) or not reference or reference[0] != "storage":
        raise Refused("a reference to something that is not a storage")
    _, dtype, key, _location, count = reference[:5]
    if not isinstance(dtype, _DType) or not isinstance(key, str) or not _is_size(count):
        raise ValueError("a storage without a type, a key or a size")
    item_size = nbytes_of(dtype.name, (1,))
    item_sizes.setdefault(key, item_size)
    view = reference[5] if len(reference) == 6 else None
    if view is None:
        return Storage(key, dtype.name, 0, count * item_size)
    _key, first, view_count = view
    if not _is_size(first) or not _is_size(view_count) or first + view_count > count:
        raise ValueError(f"storage {key!r:.80} has a view that is not inside it")
    return Storage(key, dtype.name, first * item_size, view_count * item_size)


def _rebuild_tensor(
    storage: object,
    offset: object,
    shape: object,
    strides: object,
    _requires_grad: object = False,
    _hooks: object = None,
    metadata: object = None,
) -> Window:
    """Stand in for torch._utils._rebuild_tensor and _rebuild_tensor_v2."""
    if metadata:
        raise Refused("a tensor that is conjugated or negated")
    if not isinstance(storage, Storage) or not _is_size(offset):
        raise ValueError("a tensor without a storage or an offset")
    if not _are_sizes(shape) or not _are_sizes(strides) or len(shape) != len(strides):
        raise ValueError("a tensor without a shape or strides")
    return Window(storage, storage.dtype, offset, shape, strides)


def _rebuild_typed_tensor(
    storage: object,
    offset: object,
    shape: object,
    strides: object,
    requires_grad: object,
    hooks: object,
    dtype: object,
    metadata: object = None,
) -> Window:
    """Stand in for torch._utils._rebuild_tensor_v3, whose storage has no type of its own."""
    if not isinstance(dtype, _DType):
        raise ValueError("a tensor without a dtype")
    window = _rebuild_tensor(storage, offset, shape, strides, requires_grad, hooks, metadata)
    return replace(window, dtype=dtype.name)


def _rebuild_parameter(tensor: object, *_grad_hooks_and_state: object) -> object:
    """Stand in for torch._utils._rebuild_parameter and _rebuild_parameter_with_state."""
    return tensor


def _ordered_dict(pairs: object = ()) -> dict[object, object]:
    """Stand in for collections.OrderedDict."""
    built: dict[object, object] = {}
    set_items(built, pairs)
    return built


def _is_size(value: object) -> TypeGuard[int]:
    """Say whether this is a whole number from 0."""
    return type(value) is int and value >= 0


def _are_sizes(values: object) -> TypeGuard[tuple[int, ...]]:
    """Say whether this is a tuple of whole numbers from 0."""
    return isinstance(values, tuple) and all(map(_is_size, values))


STORAGE_TYPES = {
    "torch.DoubleStorage": "F64",
    "torch.FloatStorage": "F32",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
    "torch.LongStorage": "I64",
    "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16",
    "torch.CharStorage": "I8",
    "torch.ByteStorage": "U8",
    "torch.BoolStorage": "BOOL",
    "torch.storage.UntypedStorage": "U8",
    "torch.uint16": "U16",
    "torch.uint32": "U32",
    "torch.uint64": "U64",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e4m3fnuz": "F8_E4M3FNUZ",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.float8_e5m2fnuz": "F8_E5M2FNUZ",
    "torch.float8_e8m0fnu": "F8_E8M0",
}

# All that a pickle may name.  The functions check their arguments and build plain values.
ALLOWED: dict[str, object] = {
    **{name: _DType(dtype) for name, dtype in STORAGE_TYPES.items()},
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_typed_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
}
