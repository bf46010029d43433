"""The torch backend: which ops have a body on a device, and what their inputs are rounded to."""

from __future__ import annotations

import importlib
from typing import Any

import torch

import quire.backends.torch.ops  # noqa: F401  registers the plain bodies
from quire.backends.torch.devices import Device, find_device
from quire.backends.torch.registry import Body, bodies_of
from quire.backends.torch.weights import product_dtype
from quire.errors import ModelError
from quire.graph.ir import Node
from quire.ops.quantize import RowFormat

__all__ = ["TorchBackend", "chosen_body"]


class TorchBackend:
    """Has bodies in torch for every plain op.

    device: "auto", or a name as find_device takes it; it raises ConfigError for one not there.
    """

    name = "torch"

    def __init__(self, device: str = "auto") -> None:
        self.device = find_device(device)
        if self.device.triton_architecture is not None:
            importlib.import_module("quire.backends.torch.triton.bodies")

    @property
    def build(self) -> str:
        """torch's version and the device, down to its model."""
        return f"torch {torch.__version__} {self.device.title}"

    def row_format(self, weight_dtype: str) -> RowFormat:
        """See Backend.  Where products are float16, each rounds what it reads by itself."""
        dtype = product_dtype(weight_dtype, self.device)
        return "bfloat16" if dtype == torch.bfloat16 else "float32"

    def declines(self, node: Node) -> str | None:
        """The reasons of all bodies, where every one declines."""
        reasons = []
        for body in bodies_of(type(node.op)):
            reason = body.declines(node.op, self.device)
            if reason is None:
                return None
            reasons.append(reason)
        return "; ".join(reasons) or f"no torch body for {node.name}"

    def passed_over(self, node: Node) -> str | None:
        """The reasons of the bodies that were asked before the one that computes."""
        reasons = []
        for body in bodies_of(type(node.op)):
            reason = body.declines(node.op, self.device)
            if reason is None:
                break
            reasons.append(f"{body.name} declines: {reason}")
        return "; ".join(reasons) or None

    def body(self, node: Node) -> str:
        """Who computes, and where."""
        return f"{chosen_body(node.op, self.device).name} {self.device.torch_device}"


def chosen_body(op: Any, device: Device) -> Body:
    """The body that computes an op on a device.

    Raises ModelError where there is none.
    """
    for body in bodies_of(type(op)):
        if body.declines(op, device) is None:
            return body
    raise ModelError(f"no torch body computes {op} on {device.torch_device}; use another backend")
