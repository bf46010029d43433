"""The blocking API: outputs that follow a schema or a grammar."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from quire.llm import LLM
from quire.sampling_params import SamplingParams, StructuredOutput
from tests.engine.completing import GREEDY, PROMPT, complete, first, refusal

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "kind": {"enum": ["cat", "dog"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("schema", [SCHEMA, json.dumps(SCHEMA)], ids=["object", "text"])
def test_json_follows_its_schema(llm: LLM, schema: Any) -> None:
    output = first(
        llm,
        structured_outputs=StructuredOutput(json=schema),
        temperature=1.0,
        seed=4,
        max_tokens=200,
    )
    assert output.finish_reason == "stop"
    found = json.loads(output.text)
    assert set(found) == {"name", "age", "kind"}
    assert len(found["name"]) <= 8 and 0 <= found["age"] <= 99
    assert found["kind"] in ("cat", "dog")


@pytest.mark.parametrize(
    ("wanted", "pattern"),
    [
        (StructuredOutput(regex=r"[0-9]{3}-[a-c]{2}"), r"[0-9]{3}-[a-c]{2}"),
        (StructuredOutput(choice=("yes", "no", "是的")), "yes|no|是的"),
        (StructuredOutput(grammar='start: "a" "b"+ "c"'), "ab+c"),
        (StructuredOutput(json={"type": "array", "items": {"const": 1}, "maxItems": 2}), r"\[.*\]"),
    ],
    ids=["regex", "choice", "grammar", "array"],
)
def test_other_formats(llm: LLM, wanted: StructuredOutput, pattern: str) -> None:
    output = first(
        llm, structured_outputs=wanted, temperature=1.0, top_k=50, seed=3, max_tokens=100
    )
    assert re.fullmatch(pattern, output.text, re.DOTALL), output.text
    assert output.finish_reason == "stop"


def test_a_format_in_a_batch_with_free_text(llm: LLM) -> None:
    plain = SamplingParams(**GREEDY)
    choice = SamplingParams(**GREEDY, structured_outputs=StructuredOutput(choice=("aa", "bb")))
    outputs = llm.generate([PROMPT] * 4, [plain, choice, plain, choice], use_tqdm=False)
    texts = [output.outputs[0].text for output in outputs]
    assert texts[0] == texts[2] == first(llm).text
    assert texts[1] == texts[3] and texts[1] in ("aa", "bb")


def test_completions_of_one_format_go_their_own_ways(llm: LLM) -> None:
    wanted = StructuredOutput(regex="[a-z]{6}")
    outputs = complete(
        llm, n=4, structured_outputs=wanted, temperature=1.5, top_k=0, seed=8
    ).outputs
    assert all(re.fullmatch("[a-z]{6}", output.text) for output in outputs)
    assert len({output.text for output in outputs}) > 1


@pytest.mark.parametrize(
    "wanted",
    [
        StructuredOutput(regex="(["),
        StructuredOutput(grammar="start: nowhere"),
        StructuredOutput(json="{"),
        StructuredOutput(json={"type": "no such type"}),
    ],
    ids=["regex", "grammar", "json text", "schema"],
)
def test_a_format_that_is_none_is_refused(llm: LLM, wanted: StructuredOutput) -> None:
    assert refusal(llm, structured_outputs=wanted).param == "structured_outputs"
