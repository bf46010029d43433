"""Completes prompts with the blocking API on the demo model, greedily unless told otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from quire.errors import RequestError
from quire.llm import LLM
from quire.outputs import CompletionOutput, RequestOutput
from quire.sampling_params import SamplingParams

PROMPT = "In the beginning"
END_OF_TEXT = 0
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 20}


def complete(llm: LLM, prompt: Any = PROMPT, **params: Any) -> RequestOutput:
    given = SamplingParams(**{**GREEDY, **params})
    (output,) = llm.generate(prompt, given, use_tqdm=False)
    assert output.finished
    return output


def first(llm: LLM, prompt: Any = PROMPT, **params: Any) -> CompletionOutput:
    return complete(llm, prompt, **params).outputs[0]


def refusal(llm: LLM, prompt: Any = PROMPT, **params: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        complete(llm, prompt, **params)
    return caught.value
