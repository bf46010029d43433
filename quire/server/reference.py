"""GET /docs and GET /openapi.json: the interface described, made from the table of routes."""

from __future__ import annotations

import html
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

import quire
from quire.server.errors import json_response
from quire.server.protocol.models import ErrorAnswer
from quire.server.protocol.support import field_support
from quire.server.routes import OPERATIONS, Operation
from quire.server.state import ServerState

__all__ = ["openapi", "show_docs", "show_openapi"]

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "pre{background:#8881;padding:.6em;overflow:auto}td,th{text-align:left;padding:.1em .8em 0 0;"
    "vertical-align:top}"
)


async def show_openapi(state: ServerState, request: Request) -> Response:
    """Answer GET /openapi.json."""
    return json_response(openapi())


async def show_docs(state: ServerState, request: Request) -> Response:
    """Answer GET /docs: one page without scripts and without anything from elsewhere."""
    base = str(request.base_url).rstrip("/")
    sections = "".join(_section(operation, base) for operation in OPERATIONS)
    title = f"Quire {quire.__version__}"
    return HTMLResponse(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style><h1>{title}</h1><p>The same for programs: "
        f'<a href="{html.escape(base)}/openapi.json">openapi.json</a>.</p>{sections}</html>'
    )


def openapi() -> dict[str, Any]:
    """The OpenAPI 3.1 document of every route."""
    kinds = [kind for each in OPERATIONS for kind in (each.request, each.answer) if kind]
    template = "#/components/schemas/{name}"
    _, schemas = msgspec.json.schema_components([*kinds, ErrorAnswer], ref_template=template)
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        path = operation.path.replace(":path", "")
        paths.setdefault(path, {})[operation.method.lower()] = _describe(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Quire", "version": quire.__version__},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _describe(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": operation.handler.__name__ + operation.path.replace("/", "_"),
        "responses": {
            "200": {"description": "success", **_content(operation.answer)},
            "default": {"description": "error", **_content(ErrorAnswer)},
        },
    }
    if operation.request is not None:
        found["requestBody"] = {"required": True, **_content(operation.request)}
    if "{id" in operation.path:
        found["parameters"] = [
            {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    return found


def _content(kind: type[msgspec.Struct] | None) -> dict[str, Any]:
    if kind is None:
        return {}
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"content": {"application/json": {"schema": schema}}}


def _section(operation: Operation, base: str) -> str:
    path = operation.path.replace(":path", "")
    command = f"curl {base}{path}"
    if operation.example:
        command += f" -H 'content-type: application/json' -d '{operation.example}'"
    return (
        f"<h2>{operation.method} {path}</h2><p>{html.escape(operation.summary)}</p>"
        f"<pre>{html.escape(command)}</pre>{_fields(operation.request)}"
    )


def _fields(kind: type[msgspec.Struct] | None) -> str:
    if kind is None:
        return ""
    rows = "".join(
        f"<tr><td><code>{name}</code><td>{support.level}<td>{html.escape(support.text)}"
        for name, support in field_support(kind).items()
    )
    return f"<details><summary>fields</summary><table>{rows}</table></details>"
