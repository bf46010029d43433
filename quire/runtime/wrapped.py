"""Loads a model that transformers computes: any text decoder that Quire has no family for.

torch and transformers are imported here, and only for such a model.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quire.config import EngineConfig
from quire.errors import CapacityError, ConfigError
from quire.models.config_reader import read_json
from quire.models.registry import has_family
from quire.models.wrapped import WrappedSpec
from quire.ops.kv_cache import KV_FORMATS, KvCache, KvLayout
from quire.runtime.backends import free_bytes_of
from quire.runtime.machine import Machine
from quire.runtime.memory_plan import DEFAULT_KV_BYTES, MIB, MemoryPlan, plan_memory, usable_bytes
from quire.weights.gguf.files import SUFFIX
from quire.weights.pack_cache import describe_files

if TYPE_CHECKING:
    from quire.backends.executable import Executable
    from quire.backends.torch.devices import Device
    from quire.backends.transformers.build import WrappedModel

__all__ = ["Wrapped", "is_wrapped", "load_wrapped"]

logger = logging.getLogger(__name__)

INSTALL = "pip install 'quire[transformers]'"
REFUSED = {
    "task": ("auto", "generate"),
    "quantization": ("auto",),
    "instruction_set": ("auto",),
    "tuning": ("auto", "off"),
    "prefix_cache_dir": (None,),
    "strict_config": (False,),
}
"""Options that such a model does not heed → the values that ask nothing of it."""

PRODUCTS = 8
"""Values as wide as the widest product that a layer has at once, at most."""
SCORES = 4
"""Of a token and a chunk of keys, before and behind the softmax."""


@dataclass(frozen=True, slots=True)
class Wrapped:
    """As the fields of LoadedModel."""

    spec: WrappedSpec
    executable: Executable
    memory: MemoryPlan
    fingerprint: bytes


def is_wrapped(config: EngineConfig, directory: Path) -> bool:
    """Whether transformers is to compute a model: if the user says so, or no family of ours does.

    Raises ConfigError where the user says so and it is not installed.
    """
    there = all(find_spec(name) is not None for name in ("torch", "transformers"))
    if config.backend_in_use == "transformers":
        if not there:
            raise ConfigError(f"backend 'transformers' is not installed; {INSTALL}")
        return True
    if config.backend != "auto" or not there or directory.suffix == SUFFIX:
        return False
    values = {**read_json(directory / "config.json"), **config.hf_overrides}
    names = values.get("architectures")
    return isinstance(names, list) and bool(names) and not has_family(str(names[0]))


def load_wrapped(config: EngineConfig, directory: Path, machine: Machine) -> Wrapped:
    """Build the model, plan the memory, and see that it computes what transformers computes.

    Raises ModelError for a model that does not go with a paged cache, CapacityError where it does
    not fit, ConfigError for an option that cannot be honoured.
    """
    for name, accepted in REFUSED.items():
        if getattr(config, name) not in accepted:
            raise ConfigError(
                f"{name} is {getattr(config, name)!r}, which a model that runs through "
                "transformers does not heed; leave it out"
            )
    from quire.backends.torch.devices import find_device
    from quire.backends.transformers.build import build, read_settings
    from quire.backends.transformers.executable import TransformersExecutable
    from quire.backends.transformers.proof import prove

    device = find_device(config.device)
    device.set_threads(config.threads or machine.cores)
    # Before the weights are there.
    free = machine.free_memory if device.is_cpu else free_bytes_of(device, config)
    settings = read_settings(directory, config.hf_overrides)
    seed = config.seed if config.load_format == "dummy" else None
    if seed is None:
        _expect_room(config, directory, free)
    model = build(directory, settings, _dtype(config, settings), device, seed)
    logger.warning(
        "%s runs through transformers, slower than a family of Quire's own", model.spec.architecture
    )
    prove(model)
    layout = _layout(config, model)
    memory = _plan(config, model, layout, free)
    cache = KvCache(layout, memory.num_blocks, device.is_cpu)
    fingerprint = _fingerprint(config, directory, settings, layout, device)
    return Wrapped(model.spec, TransformersExecutable(model, cache), memory, fingerprint)


def _dtype(config: EngineConfig, settings: Any) -> str:
    """The format of the weights: the checkpoint's own unless the user chose one."""
    if config.dtype != "auto":
        return config.dtype
    found = str(settings.get_text_config().dtype or "float32").removeprefix("torch.")
    if found not in KV_FORMATS:
        raise ConfigError(
            f"the model's dtype is {found}; set dtype to float32, float16 or bfloat16"
        )
    return found


def _expect_room(config: EngineConfig, directory: Path, free: int) -> None:
    """Raises CapacityError where the weights' files are larger than what may be used."""
    for pattern in ("model*.safetensors", "pytorch_model*.bin"):
        size = sum(file.stat().st_size for file in directory.glob(pattern))
        usable = usable_bytes(config, free)
        if size > usable:
            raise CapacityError(
                f"not enough memory: the weights' files have {size // MIB:,} MiB and "
                f"{usable // MIB:,} MiB are usable; free some memory, raise memory_utilization, or "
                "choose a smaller model"
            )
        if size:
            return


def _layout(config: EngineConfig, model: WrappedModel) -> KvLayout:
    name = model.spec.dtype if config.kv_cache_dtype == "auto" else config.kv_cache_dtype
    return KvLayout(model.cache_shapes, config.block_size, name)


def _plan(
    config: EngineConfig, model: WrappedModel, layout: KvLayout, free_bytes: int
) -> MemoryPlan:
    """Values are estimated: some products of every token, its scores, and rows of logits."""
    from quire.backends.torch.visible_keys import CHUNK
    from quire.backends.transformers.executable import LOGIT_ROWS

    heads = max(op.heads for op in model.layers.values())
    of_token = 4 * (PRODUCTS * model.widest + SCORES * heads * CHUNK)
    of_logits = 4 * PRODUCTS * LOGIT_ROWS * model.spec.vocab_size
    return plan_memory(
        config,
        free_bytes,
        model.weight_bytes,
        model.spec.max_length,
        layout,
        lambda tokens: tokens * of_token + of_logits,
        default_kv_bytes=DEFAULT_KV_BYTES if model.device.is_cpu else sys.maxsize,
    )


def _fingerprint(
    config: EngineConfig, directory: Path, settings: Any, layout: KvLayout, device: Device
) -> bytes:
    """A hash over all that decides the bits of a cached block, beside its tokens."""
    from quire.backends.transformers.build import LIBRARIES

    facts: list[Any] = [LIBRARIES, device.title, repr(layout)]
    facts += [settings.to_json_string(use_diff=False), config.dtype, config.seed]
    facts += [str(directory.resolve()), config.revision, describe_files(directory)]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).digest()
