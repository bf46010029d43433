"""Decides which layers' matrices stay in host memory, where a device has too little room for them.

Two buffers of the largest layer among them are on the device instead, so that fewer than three
layers are never worth it.  The layers are spread over the model: then the copy of one overlaps with
what those before it compute.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quire.config import EngineConfig
from quire.errors import CapacityError, ConfigError
from quire.models.spec import ModelSpec, Weight, parts
from quire.runtime.memory_plan import MIB
from quire.runtime.placement import LEAST_REST

__all__ = ["GIB", "OffloadPlan", "layer_matrices", "plan_offload"]

GIB = 1024**3
NUM_BUFFERS = 2
FEWEST = NUM_BUFFERS + 1


@dataclass(frozen=True, slots=True)
class OffloadPlan:
    """layers: the names of matrices in host memory, layer by layer; none: all are on the device.

    on_device: bytes of all weights and buffers there.  on_host: of what stays on the host.
    """

    layers: tuple[tuple[str, ...], ...]
    on_device: int
    on_host: int

    @property
    def line(self) -> str:
        """What stays where, for people."""
        if not self.layers:
            return "offload: none, all weights stand on the device"
        return (
            f"offload: matrices of {len(self.layers)} layers, {self.on_host / MIB:,.1f} MiB, stay "
            "in host memory, and every step copies them"
        )


def plan_offload(
    config: EngineConfig,
    usable: int,
    sizes: Mapping[str, int],
    layers: Sequence[Sequence[str]],
    host_free: int,
    least_rest: int = 0,
) -> OffloadPlan:
    """What stays on the host: what the user asked for; else as little as lets the model fit.

    usable: bytes on the device, for all.  sizes: of each weight there.  layers: names of the
    matrices of each.  host_free: bytes.  least_rest: that must be left beside weights.
    Raises ConfigError for a share below three layers, CapacityError where the host has no room.
    """
    wanted, total = config.cpu_offload_gb, sum(sizes.values())
    rest = max(int(usable * LEAST_REST), least_rest)
    if wanted == 0 or (wanted is None and total + rest <= usable):
        return OffloadPlan((), total, 0)
    plans = [_with_layers(layers, count, sizes, total) for count in range(FEWEST, len(layers) + 1)]
    if wanted is None:
        plan = next((each for each in plans if each.on_device + rest <= usable), None)
        if plan is None:
            return OffloadPlan((), total, 0)  # nothing helps, and the memory plan says so
    else:
        fitting = [each for each in plans if each.on_host <= wanted * GIB]
        if not fitting:
            least = (
                f"at least {plans[0].on_host / GIB:.3g}" if plans else "0: it has too few layers"
            )
            raise ConfigError(
                f"cpu_offload_gb is {wanted:g}, which is less than three layers of this model, of "
                f"which two are always on the device; give {least}"
            )
        plan = fitting[-1]
    if plan.on_host > host_free:
        raise CapacityError(
            f"not enough memory: {plan.on_host / MIB:,.0f} MiB of weights would stay on the host "
            f"as the device has {usable / MIB:,.0f} MiB for {total / MIB:,.0f} MiB of them, and "
            f"the host has {host_free / MIB:,.0f} MiB free; choose a smaller or a quantized model"
        )
    return plan


def layer_matrices(spec: ModelSpec, sizes: Mapping[str, int]) -> list[list[str]]:
    """The matrices of each block of a model that no other block has, in the order of blocks."""
    blocks = [
        dict.fromkeys(each.name for each in parts(block, Weight) if len(each.shape) > 1)
        for block in spec.blocks
    ]
    users = Counter(name for names in blocks for name in names)
    shared = {spec.embedding.weight.name, spec.head.weight.name}
    own = [
        [name for name in names if name in sizes and users[name] == 1 and name not in shared]
        for names in blocks
    ]
    return [names for names in own if names]


def _with_layers(
    layers: Sequence[Sequence[str]], count: int, sizes: Mapping[str, int], total: int
) -> OffloadPlan:
    """The plan with `count` layers in host memory, evenly spread."""
    chosen = tuple(tuple(layers[at * len(layers) // count]) for at in range(count))
    found = [sum(sizes[name] for name in names) for names in chosen]
    on_host = sum(found)
    return OffloadPlan(chosen, total - on_host + NUM_BUFFERS * max(found), on_host)
