"""Opens what keeps KV blocks beside the cache, as the options ask for it."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from quire.backends.executable import Executable
from quire.config import EngineConfig
from quire.errors import CapacityError, ConfigError
from quire.models.spec import ModelSpec
from quire.ops.kv_cache import KvCache
from quire.runtime.block_files import BlockFiles
from quire.runtime.file_blocks import FileBlocks
from quire.runtime.host_blocks import HostBlocks
from quire.runtime.memory_plan import MIB
from quire.runtime.offload_plan import GIB

__all__ = ["BlockStore", "open_store"]

BlockStore: TypeAlias = FileBlocks | HostBlocks

DEFAULT_DISK_BYTES = 10 * 1024**3
"""What stored blocks may take where nobody said how much."""


def open_store(
    config: EngineConfig, spec: ModelSpec, cache: KvCache, executable: Executable, host_free: int
) -> BlockStore | None:
    """Where blocks are kept beside the cache: on disk, or a device's in host memory.

    host_free: bytes.  Raises ConfigError where an option cannot be honoured, CapacityError where
    the host has too little memory.
    """
    if config.kv_offloading_size is not None:
        _refuse_without_prefixes("kv_offloading_size", spec)
        return _host_blocks(config.kv_offloading_size, cache, executable, host_free)
    if config.prefix_cache_dir is None:
        return None
    _refuse_without_prefixes("prefix_cache_dir", spec)
    if not cache.is_on_host:
        raise ConfigError(
            "prefix_cache_dir: blocks of another device's memory cannot be stored yet; leave the "
            "option out, or keep them in host memory with kv_offloading_size"
        )
    directory = Path(config.prefix_cache_dir).expanduser()
    max_bytes = config.prefix_cache_disk_bytes or DEFAULT_DISK_BYTES
    return FileBlocks(BlockFiles(directory, max_bytes), cache)


def _refuse_without_prefixes(option: str, spec: ModelSpec) -> None:
    """Raises ConfigError for a model of which no prefix can be kept whole."""
    if spec.state_floats:
        raise ConfigError(
            f"{option}: this model has recurrent layers, whose states are not kept elsewhere; "
            "leave the option out"
        )
    if spec.bidirectional:
        raise ConfigError(
            f"{option}: this model reads each text whole, so no prefix can be kept; leave the "
            "option out"
        )
    if spec.window is not None:
        raise ConfigError(
            f"{option}: every layer of this model has a window, so the first blocks of a long "
            "prefix are not kept; leave the option out"
        )


def _host_blocks(
    size_gib: float, cache: KvCache, executable: Executable, host_free: int
) -> HostBlocks:
    if cache.is_on_host:
        raise ConfigError(
            "kv_offloading_size: the KV cache is in the host's memory already; make it larger with "
            "kv_cache_memory_bytes, and leave this option out"
        )
    from quire.backends.torch.executable import TorchExecutable

    assert isinstance(executable, TorchExecutable)
    block_bytes = cache.layout.bytes_per_block
    num_host_blocks = int(size_gib * GIB) // block_bytes
    if not num_host_blocks:
        raise ConfigError(
            f"kv_offloading_size is {size_gib:g}, less than one block of {block_bytes} bytes; give "
            "more GiB, or leave the option out"
        )
    if num_host_blocks * block_bytes > host_free:
        raise CapacityError(
            f"not enough memory: kv_offloading_size is {size_gib:g} GiB, and the host has "
            f"{host_free / MIB:,.0f} MiB free beside offloaded weights; lower it"
        )
    try:
        return HostBlocks(executable.block_copies(num_host_blocks))
    except RuntimeError as error:  # torch says so where memory cannot be pinned
        raise CapacityError(
            f"not enough memory: kv_offloading_size is {size_gib:g} GiB, which the host does not "
            f"give to the device: {error}; lower it"
        ) from error
