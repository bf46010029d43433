"""A model with recurrent layers, from its directory on: what it finds and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quire.errors import ConfigError
from quire.llm import LLM
from quire.models.registry import load_families
from quire.sampling_params import SamplingParams
from quire.weights.hub import DEMO
from tests.engine.conftest import SMALL

ARCHITECTURES = ("Qwen3_5ForCausalLM", "NemotronHForCausalLM")
PROMPT = list(range(10, 60))
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)


@pytest.fixture(params=ARCHITECTURES)
def directory(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    vocab_size = json.loads((DEMO / "config.json").read_text())["vocab_size"]
    config: dict[str, Any] = {**load_families()[request.param].tiny, "vocab_size": vocab_size}
    config |= {"architectures": [request.param], "dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def open_model(directory: Path, **options: Any) -> LLM:
    return LLM(
        str(directory), **{**SMALL, "load_format": "dummy", "tokenizer": str(DEMO), **options}
    )


def test_the_second_time_and_the_next_turn_begin_from_kept_states(directory: Path) -> None:
    llm = open_model(directory)
    (first,) = llm.generate([PROMPT], GREEDY)
    (again,) = llm.generate([PROMPT], GREEDY)
    assert again.outputs[0].token_ids == first.outputs[0].token_ids
    assert (first.num_cached_tokens, again.num_cached_tokens) == (0, 48)
    turn = [*PROMPT, *first.outputs[0].token_ids, 7, 8, 9]
    (found,) = llm.generate([turn], GREEDY)
    assert found.num_cached_tokens == 64  # of 73 computed tokens
    alone = open_model(directory, enable_prefix_caching=False)
    assert alone.generate([turn], GREEDY)[0].outputs[0].token_ids == found.outputs[0].token_ids


def test_the_memory_of_states_is_part_of_the_plan(directory: Path) -> None:
    llm = open_model(directory)
    lines = "\n".join(llm.info.lines)
    assert "recurrent states: 32 records" in lines and "for 8 requests at once" in lines


@pytest.mark.parametrize(
    ("option", "value"), [("speculative", "ngram"), ("prefix_cache_dir", "somewhere")]
)
def test_what_a_state_does_not_go_with_is_refused(
    option: str, value: str, directory: Path, tmp_path: Path
) -> None:
    value = str(tmp_path / value) if option == "prefix_cache_dir" else value
    with pytest.raises(ConfigError, match=f"{option}.*recurrent layers"):
        open_model(directory, **{option: value})
