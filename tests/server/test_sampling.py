"""What a request asks of the scheduler and of the form of its output."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from quire.config import EngineConfig
from quire.errors import RequestError
from tests.server.conftest import fault
from tests.server.fake_engine import FakeEngine
from tests.server.test_completions import URL, complete


async def test_priority_needs_a_policy_that_looks_at_it(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.config = EngineConfig(model="fake/model", scheduling_policy="priority")
    await complete(client, prompt="Hi", priority=-3)
    assert engine.submitted[0]["priority"] == -3


async def test_an_impossible_grammar_is_called_by_its_own_field(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.refusal = RequestError("unclosed group", "structured_outputs")
    body = {"prompt": "Hi", "guided_regex": "("}
    fault(await client.post(URL, json=body), 400, "guided_regex")


@pytest.mark.parametrize(
    ("extra", "kind"),
    [
        ({"response_format": {"type": "json_object"}}, "json_object"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, "json"),
        ({"structured_outputs": {"regex": "a+"}}, "regex"),
        ({"guided_choice": ["a", "b"]}, "choice"),
        ({"guided_grammar": "start: /a/"}, "grammar"),
        ({"guided_json": True}, "json"),
    ],
)
async def test_forms_of_output(
    client: httpx.AsyncClient, engine: FakeEngine, extra: dict[str, Any], kind: str
) -> None:
    await complete(client, prompt="Hi", **extra)
    form = engine.submitted[0]["params"].structured_outputs
    assert getattr(form, kind) not in (None, False)
