"""What Triton 3.6's interpreter lacks: products and roundings of bfloat16, NumPy 2.4, and haste."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter


def cast(self: object, source: interpreter.TensorHandle, dtype: tl.dtype) -> object:
    """Casts as devices do: the interpreter cuts bfloat16 off and makes some NaN infinite."""
    numbers, target = floats(source), dtype.scalar
    if target == tl.bfloat16:
        narrow = torch.from_numpy(np.array(numbers, np.float32)).to(torch.bfloat16)
        return interpreter.TensorHandle(narrow.view(torch.uint16).numpy(), target)
    with np.errstate(all="ignore"):
        return interpreter.TensorHandle(numbers.astype(interpreter._get_np_dtype(dtype)), target)


def dot(
    self: object,
    a: interpreter.TensorHandle,
    b: interpreter.TensorHandle,
    sum: interpreter.TensorHandle,
    input_precision: object,
    max_num_imprecise_acc: object,
) -> object:
    """A product whose rows do not depend on each other's place, of bfloat16 too."""
    left, right = (floats(each).astype(sum.data.dtype) for each in (a, b))
    with np.errstate(all="ignore"):
        product = np.einsum("mk,kn->mn", left, right, optimize=False)
        return interpreter.TensorHandle(product + sum.data, sum.dtype.scalar)


def floats(handle: interpreter.TensorHandle) -> np.ndarray:
    """The data, bfloat16 as float32."""
    if handle.dtype.scalar != tl.bfloat16:
        return handle.data
    return (handle.data.astype(np.uint32) << 16).view(np.float32)


PATCH_TENSOR = interpreter._patch_lang_tensor


def with_index(tensor: object, scope: object) -> None:
    """Numbers as bounds of loops: NumPy 2.4 makes none of arrays with one element."""
    PATCH_TENSOR(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())  # type: ignore[attr-defined]


def call(self: interpreter.InterpretedFunction, *given: object, **named: object) -> object:
    """A function that a kernel calls; what it needs was patched before."""
    return self.rewrite()(*given, **named)


@contextmanager
def complete() -> Iterator[None]:
    """Make the interpreter do as devices do, and patch the language once, not at every call."""
    builder = interpreter.InterpreterBuilder
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        patch.setattr(builder, "cast_impl", cast)
        patch.setattr(
            builder, "create_fp_to_fp", lambda self, source, dtype, _: cast(self, source, dtype)
        )
        patch.setattr(builder, "create_dot", dot)
        patch.setattr(interpreter, "_patch_lang_tensor", with_index)
        patch.setattr(interpreter.InterpretedFunction, "__call__", call)
        patched = interpreter._patch_lang(SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
        nothing = SimpleNamespace(restore=lambda: None)
        patch.setattr(interpreter, "_patch_lang", lambda function: nothing)
        try:
            yield
        finally:
            patched.restore()
