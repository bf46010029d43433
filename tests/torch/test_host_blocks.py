"""A prefix that comes back from host memory is one that never left the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from quire.backends.torch import block_copies
from quire.backends.torch.block_copies import DeviceBlockCopies
from quire.backends.torch.devices import Device
from quire.backends.torch.kv_cache import DeviceKvCache
from quire.config import EngineConfig
from quire.errors import CapacityError, ConfigError
from quire.llm import LLM
from quire.ops.kv_cache import KvLayerShape, KvLayout
from quire.ops.latent_cache import LatentLayerShape
from quire.runtime.kv_layout import kv_layout
from quire.runtime.open_model import read_spec
from quire.sampling_params import SamplingParams
from quire.weights.hub import DEMO
from tests.torch.accelerators import Accelerator

pytestmark = pytest.mark.oracle
torch.set_num_threads(1)

LAYOUTS = (
    KvLayout((KvLayerShape(2, 8), KvLayerShape(1, 12)), 16, "bfloat16"),
    KvLayout((KvLayerShape(2, 8), KvLayerShape(1, 12)), 16, "int4"),
    KvLayout((LatentLayerShape(8, 4),), 16, "int8"),
)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda each: each.format)
def test_blocks_go_and_come_back(layout: KvLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    """In all layers, to any place, over the ends of slabs and of what is gathered at once."""
    monkeypatch.setattr(block_copies, "SLAB_BYTES", 3 * layout.bytes_per_block)
    monkeypatch.setattr(block_copies, "TOGETHER_BYTES", 2 * layout.bytes_per_block)
    arena = torch.randint(0, 256, (8 * layout.bytes_per_block,), dtype=torch.uint8)
    cache = DeviceKvCache(layout, 8, arena)
    copies = DeviceBlockCopies(cache, 7, Accelerator(True))
    before = contents(cache, range(8))
    copies.save([5, 0, 2, 7, 3], [6, 1, 0, 3, 4])
    arena[:] = 0
    copies.load([3, 6, 0], [1, 2, 6])
    found = contents(cache, range(8))
    for place in range(8):
        source = {1: 7, 2: 5, 6: 2}.get(place)
        assert found[place] == (bytes(len(before[0])) if source is None else before[source])


def contents(cache: DeviceKvCache, blocks: Sequence[int]) -> list[bytes]:
    return [b"".join(bytes(layer[at].numpy()) for layer in cache.blocks) for at in blocks]


# --- whole engines

MODEL: dict[str, Any] = {
    "backend": "torch", "device": "cpu", "threads": 1, "load_format": "dummy",
    "hf_overrides": {"num_hidden_layers": 2}, "max_model_len": 256, "max_num_seqs": 2,
    "max_num_batched_tokens": 64,
}  # fmt: skip
GREEDY = SamplingParams(temperature=0.0, max_tokens=6, logprobs=2)
RANDOM = np.random.default_rng(3)
PROMPTS = [RANDOM.integers(3, 500, count).tolist() for count in (100, 97, 120, 110)]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of 8 GiB."""
    monkeypatch.setattr(Device, "is_cpu", False)
    monkeypatch.setattr(Device, "title", "a device")
    monkeypatch.setattr(Device, "free_memory", lambda self: (1 << 33, 1 << 33))


def start(num_blocks: int, host_blocks: int | None, **options: Any) -> LLM:
    """An engine with so many blocks on the device and on the host."""
    settings = {**MODEL, **options}
    if host_blocks is not None:
        settings["kv_offloading_size"] = (host_blocks + 0.5) * block_bytes(settings) / 2**30
    return LLM("demo", kv_cache_memory_bytes=num_blocks * block_bytes(settings), **settings)


def block_bytes(settings: dict[str, Any]) -> int:
    config = EngineConfig("demo", **settings)
    return kv_layout(config, read_spec(config, DEMO)).bytes_per_block


def one_by_one(llm: LLM, rounds: int) -> list[Any]:
    """Each prompt alone, so that a step holds the same rows wherever its prefix was."""
    found = []
    for prompt in PROMPTS * rounds:
        (output,) = llm.generate([prompt], GREEDY, use_tqdm=False)
        completion = output.outputs[0]
        found.append((output.num_cached_tokens, completion.token_ids, completion.logprobs))
    llm._assembly.engine.scheduler.check()
    assert llm.stats().scheduler.num_used_blocks == 0
    return found


def test_found_on_the_host_is_found_on_the_device(device: None) -> None:
    """To the last bit of every log-probability; without the host it is computed again."""
    roomy, small = start(100, None), start(16, 100)
    expected = one_by_one(roomy, 2)
    assert [cached for cached, *_ in expected[4:]] == [96, 96, 112, 96]
    assert one_by_one(small, 2) == expected
    stats = small.stats().scheduler
    assert stats.store_hit_tokens >= 200 and roomy.stats().scheduler.store_hit_tokens == 0
    assert small._assembly.model.store is not None
    small._assembly.model.store.check()
    forgetful = one_by_one(start(16, None), 2)
    assert [cached for cached, *_ in forgetful] != [cached for cached, *_ in expected]


@pytest.mark.parametrize("host_blocks", [2, 100])
def test_in_a_crowd(device: None, host_blocks: int) -> None:
    """Preempted requests and small pools on the host: the same tokens, no block lost."""
    alone = [each[1] for each in one_by_one(start(100, None, kv_cache_dtype="float32"), 1)]
    crowded = start(17, host_blocks, kv_cache_dtype="float32")
    for _ in range(2):
        outputs = crowded.generate(PROMPTS, GREEDY, use_tqdm=False)
        assert [each.outputs[0].token_ids for each in outputs] == alone
        crowded._assembly.engine.scheduler.check()
        assert crowded._assembly.model.store is not None
        crowded._assembly.model.store.check()
    assert host_blocks < 100 or crowded.stats().scheduler.store_hit_tokens > 0


def test_a_copy_that_fails_is_computed(device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [each[1] for each in one_by_one(start(100, None), 1)]
    llm = start(16, 100)
    one_by_one(llm, 1)

    def fail(*_: object) -> None:
        raise RuntimeError("the device has no room for it")

    monkeypatch.setattr(DeviceBlockCopies, "load", fail)
    found = one_by_one(llm, 1)
    assert [each[1] for each in found] == expected
    assert llm.stats().scheduler.store_hit_tokens == 0
    monkeypatch.undo()


def test_what_cannot_be_kept_is_refused(device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="less than one block"):
        LLM("demo", **MODEL, kv_offloading_size=1e-9)
    with pytest.raises(CapacityError, match="kv_offloading_size is 1e\\+06 GiB, and the host has"):
        LLM("demo", **MODEL, kv_offloading_size=1e6)
    with pytest.raises(ConfigError, match="needs enable_prefix_caching"):
        LLM("demo", **MODEL, kv_offloading_size=1, enable_prefix_caching=False)
    windows = {"architectures": ["MistralForCausalLM"], "sliding_window": 64}
    with pytest.raises(ConfigError, match="kv_offloading_size: every layer of this model has a"):
        LLM("demo", **{**MODEL, "hf_overrides": windows}, kv_offloading_size=1)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="the KV cache is in the host's memory already"):
        LLM("demo", **MODEL, kv_offloading_size=1)
