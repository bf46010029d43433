"""The interface's descriptions are those of the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import msgspec

from quire.server.routes import OPERATIONS

ROOT = Path(__file__).parent.parent.parent


def test_pages_are_fresh() -> None:
    command = [sys.executable, "scripts/api_docs.py", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_every_field_and_route_is_documented() -> None:
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    for operation in OPERATIONS:
        assert f"{operation.method} `{operation.path.replace(':path', '')}`" in page
        for field in operation.request.__struct_fields__ if operation.request else ():
            assert f"| `{field}` |" in page, field


async def test_openapi_describes_every_route(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    for operation in OPERATIONS:
        described = document["paths"][operation.path.replace(":path", "")]
        assert operation.method.lower() in described
    assert schemas["ChatRequest"]["properties"]["functions"]["x-support"] == "refused"
    assert schemas["ChatRequest"]["additionalProperties"] is False
    text = msgspec.json.encode(document).decode()
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in schemas


async def test_examples_of_the_docs_page_work(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "<script" not in page.text
    for operation in OPERATIONS:
        if operation.example:
            headers = {"content-type": "application/json"}
            response = await client.request(
                operation.method, operation.path, content=operation.example, headers=headers
            )
            assert response.status_code == 200, response.text
