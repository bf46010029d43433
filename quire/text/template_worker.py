"""Renders the templates that come in on stdin; the other end is template_process.py.

One line of JSON in: {"source", "variables"}.  One line out: {"text"} or {"error", "message"}.
Run as a file, not as a module: it needs nothing of Quire, so it starts sooner.
"""

from __future__ import annotations

import functools
import json
import signal
import sys
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["main"]

MAX_CHARS = 16 * 2**20
MAX_MEMORY_BYTES = 2**30


class GenerationTag(Extension):
    """Accepts `{% generation %}…{% endgeneration %}`, which marks assistant text for training."""

    tags = {"generation"}  # noqa: RUF012  (as Jinja declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        """Render the body as it is, in a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def raise_exception(message: str) -> None:
    """Let a template refuse the messages."""
    raise jinja2.TemplateError(message)


def strftime_now(pattern: str) -> str:
    """The local date and time, as a template wants it written."""
    return datetime.now().strftime(pattern)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as models know it: Jinja's own filter escapes characters for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


@functools.cache
def environment() -> ImmutableSandboxedEnvironment:
    """The sandbox, with the filters and functions that Hugging Face gives to templates."""
    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    sandbox.filters["tojson"] = tojson
    sandbox.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    return sandbox


@functools.lru_cache(maxsize=16)
def compiled(source: str) -> jinja2.Template:
    """The template, compiled once."""
    return environment().from_string(source)


def render(source: str, variables: dict[str, Any]) -> dict[str, str]:
    """The answer to one request; whatever goes wrong is part of the answer."""
    try:
        template = compiled(source)
    except (jinja2.TemplateSyntaxError, SyntaxError, RecursionError, MemoryError) as error:
        return {"error": "syntax", "message": f"{type(error).__name__}: {error}"}
    try:
        return {"text": collect(template.generate(variables))}
    except jinja2.TemplateError as error:
        return {"error": "refused", "message": str(error.message)}
    except Exception as error:  # a template can raise anything, and the answer says what
        return {"error": "failed", "message": f"{type(error).__name__}: {error}"}


def collect(pieces: Iterable[str]) -> str:
    """Join the output; raises TemplateError where it grows too long."""
    parts, size = [], 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_CHARS:
            raise jinja2.TemplateError(f"the prompt grows beyond {MAX_CHARS} characters")
        parts.append(piece)
    return "".join(parts)


def limit_memory() -> None:
    """Make a template that builds too much fail alone; Windows has no such limit."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    except (ImportError, OSError, ValueError):
        return


def main() -> None:
    """Answer requests until stdin ends; a line without content says that the process is ready."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this one
    limit_memory()
    answers = sys.stdout
    sys.stdout = sys.stderr
    environment()
    print(file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(render(request["source"], request["variables"])), file=answers, flush=True)


if __name__ == "__main__":
    main()
