"""Dummy weights, drawn on the device: nothing is drawn on the host, and nothing crosses."""

from __future__ import annotations

import math
import zlib

import torch

from quire.backends.torch.arrays import as_tensor
from quire.backends.torch.devices import Device
from quire.backends.torch.unpack import Unpacked
from quire.ops.number_formats import E4M3
from quire.quant.dummy import DummyMatrix, DummyTensor
from quire.quant.packed import BITS

__all__ = ["dummy_bytes", "dummy_codes"]


def dummy_bytes(weight: DummyTensor, device: Device) -> torch.Tensor:
    """The bytes of a tensor of floats, the same that the host would make."""
    block = as_tensor(weight.block.view("u1"), device.torch_device)
    start, size = weight.start * weight.block.itemsize, len(block)
    whole = torch.empty(
        math.prod(weight.shape) * weight.block.itemsize,
        dtype=torch.uint8,
        device=device.torch_device,
    )
    for at in range(-start, len(whole), size):
        begin, end = max(at, 0), min(at + size, len(whole))
        whole[begin:end] = block[begin - at : end - at]
    return whole


def dummy_codes(weight: DummyMatrix, device: Device) -> Unpacked:
    """Random codes, with one scale that gives rows of x a standard deviation of about theirs."""
    like, where = weight.like, device.torch_device
    (rows, cols), bits = weight.shape, BITS[weight.like.dtype]
    random = torch.Generator(where).manual_seed(zlib.crc32(weight.name.encode()))
    codes = torch.randint(
        0, 1 << bits, (rows, cols), dtype=torch.uint8, device=where, generator=random
    )
    groups = (rows, -(-cols // like.group_size))
    if like.dtype == "F8_E4M3":
        codes = torch.where(codes & 127 == 127, codes - 1, codes)  # those are no numbers
        numbers = torch.from_numpy(E4M3.copy()).nan_to_num(0).double()
        scale = 1 / (math.sqrt(cols) * float(numbers.std()))
        return Unpacked(codes, torch.full(groups, scale, device=where))
    values = torch.tensor(like.table or range(1 << bits)).double()
    scale = 1 / (math.sqrt(cols) * float(values.std()) * 2.0**like.exponent)
    scales = torch.full(groups, scale, dtype=torch.float16, device=where)
    if like.has_minimums:
        return Unpacked(codes, scales, minimums=scales * ((1 << bits) - 1) / 2)
    if like.table:
        return Unpacked(codes, scales)
    middle = torch.full(groups, 1 << (bits - 1), dtype=torch.uint8, device=where)
    return Unpacked(codes, scales, middle)
