"""A prefix cache on disk: what a restarted engine yields is what it would have computed."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from quire.assembly import Assembly
from quire.config import EngineConfig
from quire.control.prefix import block_key, root_key
from quire.errors import ConfigError
from quire.llm import LLM
from quire.outputs import RequestOutput
from quire.sampling_params import SamplingParams
from quire.weights.hub import DEMO
from tests.engine.conftest import SMALL, reconfigure

TEXT = (DEMO / "heldout.en.txt").read_text(encoding="utf-8")
PROMPTS = [TEXT[:500], TEXT[:300] + TEXT[900:1000], TEXT[600:700]]
PARAMS = [
    SamplingParams(temperature=0.0, max_tokens=20, logprobs=3),
    SamplingParams(temperature=1.0, seed=3, max_tokens=40, logprobs=0),
    SamplingParams(temperature=0.7, seed=4, max_tokens=5, logprobs=1),
]


def start(directory: Path | None, model: object = "demo", **options: Any) -> LLM:
    where = {} if directory is None else {"prefix_cache_dir": str(directory)}
    return LLM(str(model), **{**SMALL, **where, **options})


def stop(llm: LLM) -> None:
    """End an engine as the end of its process would."""
    assert llm._assembly.model.store is not None
    llm._assembly.engine.scheduler.check()
    assert llm.stats().scheduler.num_used_blocks == 0
    llm._assembly.model.store.close()


def generate(llm: LLM) -> list[RequestOutput]:
    return llm.generate(PROMPTS, PARAMS, use_tqdm=False)


def yields(outputs: list[RequestOutput]) -> list[Any]:
    """Everything of the outputs that is computed."""
    return [(o.outputs[0].token_ids, o.outputs[0].logprobs, o.outputs[0].text) for o in outputs]


@pytest.fixture(scope="module")
def computed() -> list[Any]:
    return yields(generate(start(None)))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def filled(directory: Path) -> Path:
    """A folder in which an engine has left its blocks."""
    llm = start(directory)
    generate(llm)
    stop(llm)
    return directory


def test_a_restart_loads_and_yields_the_same_bits(filled: Path, computed: list[Any]):
    llm = start(filled)
    outputs = generate(llm)
    assert yields(outputs) == computed
    stats = llm.stats().scheduler
    for output in outputs:
        num_prompt = len(output.prompt_token_ids)
        assert output.num_cached_tokens == (num_prompt - 1) // 16 * 16 > 0
    assert stats.store_hit_tokens == sum(output.num_cached_tokens for output in outputs)
    assert stats.prefix_hit_tokens == 0
    assert yields(generate(llm)) == computed
    assert llm.stats().scheduler.store_hit_tokens == stats.store_hit_tokens, "now in memory"
    stop(llm)


def test_use_makes_a_chain_young_and_its_first_block_youngest(filled: Path):
    for file in filled.iterdir():
        os.utime(file, (0, 0))
    llm = start(filled)
    (output,) = llm.generate([PROMPTS[0]], SamplingParams(max_tokens=1), use_tqdm=False)
    stop(llm)
    ages = sorted((file.stat().st_mtime_ns, file.name) for file in filled.iterdir())
    young = [name for time_ns, name in reversed(ages) if time_ns]
    root = root_key(llm._assembly.model.fingerprint, b"")
    keys = [root]
    for at in range(0, len(output.prompt_token_ids) - 16, 16):
        keys.append(block_key(keys[-1], output.prompt_token_ids[at : at + 16]))
    assert young == [f"{key.hex()}.kv" for key in keys[1:]]


def test_output_is_stored_too(filled: Path):
    first = generate(start(None))[1]
    prompt = [*first.prompt_token_ids, *first.outputs[0].token_ids]
    llm = start(filled)
    (output,) = llm.generate([prompt], SamplingParams(max_tokens=1), use_tqdm=False)
    assert output.num_cached_tokens == (len(prompt) - 1) // 16 * 16 > len(first.prompt_token_ids)


@pytest.mark.parametrize("chunked", [True, False])
def test_blocks_beside_those_in_memory(filled: Path, computed: list[Any], chunked: bool):
    """A prefix whose beginning is in memory and whose middle is on disk."""
    llm = start(filled, enable_chunked_prefill=chunked, max_num_batched_tokens=256)
    llm.generate([TEXT[:200]], PARAMS[0], use_tqdm=False)
    assert yields(generate(llm)) == computed
    stats = llm.stats().scheduler
    assert stats.prefix_hit_tokens > 0 and stats.store_hit_tokens > 0
    stop(llm)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_damage_is_computed(
    filled: Path, computed: list[Any], every: int, caplog: pytest.LogCaptureFixture
):
    for file in sorted(filled.iterdir())[::every]:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        llm = start(filled)
        outputs = generate(llm)
    assert yields(outputs) == computed
    assert sum("checksum" in record.message for record in caplog.records) == 1
    stats = llm.stats().scheduler
    assert stats.store_hit_tokens == sum(output.num_cached_tokens for output in outputs)
    assert every > 1 or stats.store_hit_tokens == 0
    stop(llm)
    healed = start(filled)
    assert yields(generate(healed)) == computed
    assert healed.stats().scheduler.store_hit_tokens > stats.store_hit_tokens, "stored again"
    stop(healed)


def test_blocks_that_memory_had_no_room_for_come_back(directory: Path, computed: list[Any]):
    """A pool that holds one request: what the next one evicts is on disk when it is used again."""
    small = {"max_num_seqs": 1, "max_model_len": 192, "kv_cache_memory_bytes": 12 * 49152}
    llm = start(directory, **small)
    generate(llm)
    stop(llm)
    llm = start(directory, **small)
    for _ in range(2):
        before = llm.stats().scheduler.store_hit_tokens
        assert yields(generate(llm)) == computed
        assert llm.stats().scheduler.store_hit_tokens > before
    stop(llm)


def test_a_salted_request_is_neither_written_nor_read(filled: Path):
    files = set(filled.iterdir())
    assembly = Assembly(EngineConfig("demo", **SMALL, prefix_cache_dir=str(filled)))
    for num_found in (0, 1):  # the second time in memory
        prepared = assembly.frontend.prepare(PROMPTS[0], PARAMS[0], cache_salt="tenant")
        (completion,) = prepared.completions
        assembly.engine.submit(completion.request, completion.state)
        while assembly.engine.has_work:
            assembly.engine.step()
        assert bool(completion.request.num_cached_tokens) == bool(num_found)
    assert assembly.model.store is not None
    assembly.model.store.close()
    assert set(filled.iterdir()) == files
    assert assembly.engine.stats().scheduler.store_query_tokens == 0


def test_what_changes_the_bits_changes_the_names(
    filled: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "packed"))

    def hits(model: object = "demo", **options: Any) -> int:
        llm = start(filled, model, **options)
        llm.generate(PROMPTS[2], SamplingParams(max_tokens=1), use_tqdm=False)
        found = llm.stats().scheduler.store_hit_tokens
        stop(llm)
        return found

    assert hits() > 0
    assert hits(threads=2, max_num_batched_tokens=32, max_num_seqs=2, seed=5) > 0
    assert hits(kv_cache_dtype="float16") == 0
    assert [hits(kv_cache_dtype=each) for each in ("int8", "fp8", "int4")] == [0, 0, 0]
    assert hits(block_size=32) == 0
    assert hits(quantization="int8") == 0
    assert hits(instruction_set="portable") == 0
    assert hits(hf_overrides={"rms_norm_eps": 1e-3}) == 0
    assert hits(hf_overrides={"rope_theta": 20000.0}) == 0
    assert hits(load_format="dummy") == 0
    assert hits(load_format="dummy", seed=1) == 0
    assert hits(checkpoint) == 0 and hits(checkpoint) > 0
    weights = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors").write_bytes(weights)  # newer, whatever it holds
    assert hits(checkpoint) == 0


def test_a_link_to_nothing_beside_the_weights_is_no_trouble(directory: Path, checkpoint: Path):
    (checkpoint / "gone.safetensors").symlink_to("nowhere")
    stop(start(directory, checkpoint))


def test_a_model_of_windows_is_refused(directory: Path, checkpoint: Path):
    reconfigure(checkpoint, architectures=["MistralForCausalLM"], sliding_window=64)
    with pytest.raises(ConfigError, match="every layer of this model has a window"):
        start(directory, checkpoint, load_format="dummy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefix_cache_dir": "x", "enable_prefix_caching": False}, "enable_prefix_caching"),
        ({"prefix_cache_disk_bytes": 10**9}, "give that too"),
        ({"prefix_cache_dir": "x", "prefix_cache_disk_bytes": 0}, "give 1 or more"),
    ],
)
def test_options_that_cannot_be_honoured(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        EngineConfig("demo", **options)
