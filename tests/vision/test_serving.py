"""Chat requests with images, from HTTP to tokens, on a small random model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from quire.assembly import Assembly
from quire.async_engine import AsyncEngine
from quire.config import EngineConfig
from quire.errors import RequestError
from quire.llm import LLM
from quire.sampling_params import SamplingParams
from quire.server.app import build_app
from quire.server.config import ServerConfig
from tests.server.conftest import events, fault
from tests.vision.checkpoints import CASES, IMAGE, picture, write_settings
from tests.vision.test_decoding import encoded, uri

pytest.importorskip("PIL")

URL = "/v1/chat/completions"
SETTINGS: dict[str, Any] = {
    "load_format": "dummy",
    "dtype": "float32",
    "threads": 1,
    "max_model_len": 256,
    "max_num_batched_tokens": 48,
    "kv_cache_memory_bytes": 2**22,
}
CAT, DOG = (uri(encoded(picture(40, 40, seed))) for seed in (1, 2))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without weights, which are made up."""
    case, made = CASES[0], tmp_path_factory.mktemp("seeing")
    config = {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "text_config": case.text,
        "vision_config": case.vision,
        "image_token_id": IMAGE,
    }
    (made / "config.json").write_text(json.dumps(config))
    write_settings(replace(case, flat=False), made)
    return made


@pytest_asyncio.fixture
async def client(directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    engine = AsyncEngine(Assembly(EngineConfig.from_options(str(directory), SETTINGS)))
    transport = httpx.ASGITransport(build_app(engine, ServerConfig()))
    async with httpx.AsyncClient(transport=transport, base_url="http://quire") as made:
        yield made
    await engine.shutdown(drain=False)


def body(*images: str, **fields: Any) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": "What is it? "}]
    parts += [{"type": "image_url", "image_url": {"url": each}} for each in images]
    message = {"role": "user", "content": parts}
    plain = {"temperature": 0, "max_tokens": 24, "ignore_eos": True, "logprobs": True}
    return {"messages": [message], **plain, **fields}


async def answer(client: httpx.AsyncClient, *images: str, **fields: Any) -> Any:
    response = await client.post(URL, json=body(*images, **fields))
    assert response.status_code == 200, response.text
    return response.json()


async def test_images_are_seen_told_apart_and_counted(client: httpx.AsyncClient) -> None:
    alone = [await answer(client, *images) for images in ([], [CAT], [DOG], [CAT, DOG])]
    again = [await answer(client, *images) for images in ([], [CAT], [DOG], [CAT, DOG])]
    logprobs = [each["choices"][0]["logprobs"] for each in alone]
    assert logprobs == [each["choices"][0]["logprobs"] for each in again]
    assert all(a != b for n, a in enumerate(logprobs) for b in logprobs[:n])
    counts = [each["usage"]["prompt_tokens"] for each in alone]
    of_image = counts[1] - counts[0]
    assert of_image == 25 + 2  # 5 x 5 tokens, and one before and behind
    assert counts == [counts[0], counts[0] + of_image, counts[0] + of_image, counts[3]]
    assert counts[3] == counts[0] + 2 * of_image
    assert again[1]["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


async def test_streamed_or_not(client: httpx.AsyncClient) -> None:
    whole = await answer(client, CAT, max_tokens=40)
    streamed = events(await client.post(URL, json=body(CAT, max_tokens=40, stream=True)))
    texts = [each["choices"][0]["delta"].get("content") or "" for each in streamed]
    assert "".join(texts) == whole["choices"][0]["message"]["content"]


async def test_a_bad_image_hurts_no_other_request(client: httpx.AsyncClient) -> None:
    alone = await answer(client, CAT)
    damaged = uri(encoded(picture(40, 40))[:300])
    good, bad = await asyncio.gather(answer(client, CAT), client.post(URL, json=body(CAT, damaged)))
    assert good["choices"] == alone["choices"]
    assert "damaged" in fault(bad, 400, "messages")


@pytest.mark.parametrize(
    ("images", "fields", "param", "says"),
    [
        (["https://example.com/a.png"], {}, "messages", "fetches nothing"),
        ([CAT] * 33, {}, "messages", "33 images"),
        ([CAT] * 10, {}, "prompt", "model length"),
        ([CAT], {"truncate_prompt_tokens": 5}, "truncate_prompt_tokens", "not cut"),
    ],
)
async def test_what_is_refused(
    client: httpx.AsyncClient, images: list[str], fields: Any, param: str, says: str
) -> None:
    assert says in fault(await client.post(URL, json=body(*images, **fields)), 400, param)


async def test_a_placeholder_in_the_text_is_refused(client: httpx.AsyncClient) -> None:
    sent = body(CAT)
    sent["messages"][0]["content"][0]["text"] = "<|image_pad|>"
    assert "2 places" in fault(await client.post(URL, json=sent), 400, "messages")


async def test_tokenize_counts_images(client: httpx.AsyncClient) -> None:
    response = await client.post("/tokenize", json={"messages": body(CAT)["messages"]})
    assert response.json()["count"] == (await answer(client, CAT))["usage"]["prompt_tokens"]


async def test_completions_of_one_request_share_its_images(client: httpx.AsyncClient) -> None:
    both = await answer(client, CAT, n=2, temperature=1.0, seed=5)
    single = await answer(client, CAT, temperature=1.0, seed=5)
    assert both["choices"][0] == single["choices"][0]


def test_the_blocking_api_takes_images_too(directory: Path) -> None:
    llm = LLM(str(directory), **SETTINGS)
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    (chat,) = llm.chat(body(CAT)["messages"], params, use_tqdm=False)
    text = "<|im_start|>user\nWhat is it? <|vision_start|><|image_pad|><|vision_end|><|im_end|>\n"
    prompt = {"prompt": text + "<|im_start|>assistant\n", "images": [picture(40, 40, 1)]}
    (generated,) = llm.generate(prompt, params, use_tqdm=False)
    assert generated.prompt_token_ids == chat.prompt_token_ids
    assert generated.outputs[0].token_ids == chat.outputs[0].token_ids
    assert any("images" in line for line in llm.info.lines)


def test_a_text_model_refuses_images() -> None:
    llm = LLM("demo", threads=1, kv_cache_memory_bytes=2**22, max_model_len=256)
    with pytest.raises(RequestError, match="reads text only"):
        llm.chat(body(CAT)["messages"], use_tqdm=False)
