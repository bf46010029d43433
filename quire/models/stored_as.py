"""Gives every weight of a spec its place in checkpoints of another layout."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from quire.models.places import Layout, Place, Rows
from quire.models.spec import ModelSpec, Weight
from quire.models.walk import each_weight

__all__ = ["stored_as"]

OF_LAYER = re.compile(r"(model\.layers\.(\d+)\.)(.+)")


def stored_as(spec: ModelSpec, layout: Layout) -> ModelSpec:
    """The spec, with the place of each weight that the layout names; the others keep theirs."""
    shapes = {name: weight.shape for name, weight in spec.weights().items()}

    def placed(weight: Weight) -> Weight:
        place = _place(weight, layout, shapes)
        return weight if place is None else replace(weight, stored=(place,))

    return each_weight(spec, placed)


def _place(weight: Weight, layout: Layout, shapes: dict[str, tuple[int, ...]]) -> Place | None:
    module, _, ending = weight.name.rpartition(".")
    own_layer, layer = "", ""
    if match := OF_LAYER.fullmatch(module):
        own_layer, number, module = match.groups()
        layer = layout.layer.format(number)
    how: dict[str, Any] = {
        "transposed": layout.transposed and bool(own_layer) and len(weight.shape) > 1,
        "unit_rows": module in layout.unit_rows,
        "times": layout.times.get(module, 1.0),
    }
    for fused, parts in layout.fused.items():
        if module in parts:
            names = [f"{own_layer}{part}.{ending}" for part in parts]
            sizes = [shapes[name][0] for name in names if name in shapes]
            rows = _rows(sizes, names.index(weight.name), layout.groups.get(fused, 1))
            shape = (sum(sizes), *weight.shape[1:])
            name = f"{layer}{fused}.{ending}"
            return _place_of(name, shape, rows=rows, **how)
    name = f"{layer}{_renamed(module, layout)}.{ending}"
    place = _place_of(name, weight.shape, **how)
    return None if place == Place(weight.name, weight.shape) else place


def _place_of(name: str, shape: tuple[int, ...], transposed: bool, **how: Any) -> Place:
    """shape: as the matrix is used."""
    return Place(name, shape[::-1] if transposed else shape, transposed=transposed, **how)


def _renamed(module: str, layout: Layout) -> str:
    """The module's name there, by its own or by the longest that it stands in."""
    front, behind = module, ""
    while front and front not in layout.names:
        front, dot, last = front.rpartition(".")
        behind = f"{dot}{last}{behind}"
    return layout.names[front] + behind if front else module


def _rows(sizes: list[int], index: int, groups: int) -> Rows:
    """Where one of the fused parts stands, when each group has its share of every part."""
    start = sum(sizes[:index]) // groups
    return Rows(start, sizes[index] // groups, sum(sizes) // groups if groups > 1 else 0)
