"""Prompts equal those of transformers, and no template can hold up the server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from quire.errors import ModelError, RequestError
from quire.text.chat_template import ChatTemplate, load_chat_template
from quire.text.template_process import TemplateProcess
from quire.text.tokenizer import Tokenizer
from tests.text.chat_templates import (
    CHATML,
    CHATS,
    MISTRAL,
    PARTS,
    SPECIALS,
    TALK,
    TEMPLATES,
    TOOLS,
)


@pytest.fixture(scope="module")
def process() -> Iterator[TemplateProcess]:
    """A process with a short limit."""
    found = TemplateProcess(time_limit_s=1.0)
    yield found
    found.close()


@pytest.fixture(scope="module")
def make(process: TemplateProcess) -> Callable[[str], ChatTemplate]:
    """A template from its source."""
    return lambda source: ChatTemplate(source, SPECIALS, process=process)


def transformers_prompt(source: str, messages: list[dict[str, Any]], **options: Any) -> str:
    """What transformers makes of it, or "error: ..." with what the template said."""
    pytest.importorskip("transformers", reason="the oracle is not installed")
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    chat = [{k: v for k, v in message.items() if v is not None} for message in messages]
    try:
        prompts, _ = render_jinja_template([chat], chat_template=source, **SPECIALS, **options)
    except TemplateError as error:
        return f"error: {error.message}"
    return prompts[0]


def our_prompt(template: ChatTemplate, messages: list[dict[str, Any]], **options: Any) -> str:
    """The same from us."""
    try:
        return template.render(messages, **options)
    except RequestError as error:
        assert error.param == "messages"
        return "error: " + str(error).partition(": ")[2]


@pytest.mark.oracle
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("generate", [True, False])
def test_prompts_equal_transformers(
    make: Callable[[str], ChatTemplate],
    name: str,
    chat: str,
    tools: list[dict[str, Any]] | None,
    generate: bool,
) -> None:
    source = TEMPLATES[name]
    for extra in ({}, {"enable_thinking": False, "date_string": "1 Jan"}):
        options = {"tools": tools, "add_generation_prompt": generate, **extra}
        expected = transformers_prompt(source, CHATS[chat], **options)
        assert our_prompt(make(source), CHATS[chat], **options) == expected


@pytest.mark.oracle
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("ending", ["The weather", "The weather ", " is\n", "你好"])
def test_a_continued_message_equals_transformers(
    make: Callable[[str], ChatTemplate], name: str, ending: str
) -> None:
    messages = [*TALK, {"role": "assistant", "content": ending}]
    options = {"add_generation_prompt": False, "continue_final_message": True}
    expected = transformers_prompt(TEMPLATES[name], messages, **options)
    assert make(TEMPLATES[name]).render(messages, **options) == expected
    assert expected.rstrip().endswith(ending.strip())


def test_json_arguments_become_values(make: Callable[[str], ChatTemplate]) -> None:
    """As the OpenAI API sends them: JSON in a string."""
    template = make("{{ messages[0].tool_calls[0].function.arguments | tojson }}")
    for arguments, expected in (('{"a":"<好>"}', '{"a": "<好>"}'), ("", "{}"), ("{", '"{"')):
        call = {"function": {"name": "f", "arguments": arguments}}
        message = {"role": "assistant", "tool_calls": [call]}
        assert template.render([message]) == expected


def test_strftime_now_is_the_local_date(make: Callable[[str], ChatTemplate]) -> None:
    before = datetime.now().strftime("%Y-%m-%d")
    rendered = make("{{ strftime_now('%Y-%m-%d') }}").render(TALK)
    assert rendered in (before, datetime.now().strftime("%Y-%m-%d"))


# Content as parts.


def test_parts_are_flattened_for_templates_that_take_strings(
    make: Callable[[str], ChatTemplate],
) -> None:
    parts = [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}]
    flat = make(CHATML).render([{"role": "user", "content": "Hi\nthere"}])
    assert make(CHATML).render([{"role": "user", "content": parts}]) == flat
    assert not make(CHATML).wants_parts


@pytest.mark.parametrize("content", ["Hi", [{"type": "text", "text": "Hi"}]])
def test_templates_that_want_parts_get_parts(
    make: Callable[[str], ChatTemplate], content: Any
) -> None:
    rendered = make(PARTS).render([{"role": "user", "content": content}])
    assert rendered.replace("\n", "") == "<user>Hi<assistant>"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that_refuses_the_trial_takes_strings(
    make: Callable[[str], ChatTemplate], name: str
) -> None:
    refusing = "{% if messages|length == 1 %}{{ raise_exception('no') }}{% endif %}"
    assert not make(refusing + TEMPLATES[name]).wants_parts


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "video", None, ["text"]])
def test_images_are_refused(make: Callable[[str], ChatTemplate], kind: Any) -> None:
    message = {"role": "user", "content": [{"type": kind, "image_url": {"url": "x"}}]}
    with pytest.raises(RequestError, match="is not supported; there are texts") as caught:
        make(CHATML).render([message])
    assert caught.value.param == "messages"


# What goes wrong.


@pytest.mark.parametrize(
    "messages",
    [[], ["hi"], [{"content": "x"}], [{"role": "user", "content": 3}]]
    + [[{"role": "user", "content": [{"type": "text"}]}], [{"role": "user", "content": ["x"]}]],
)
def test_malformed_messages_are_refused(make: Callable[[str], ChatTemplate], messages: Any) -> None:
    with pytest.raises(RequestError) as caught:
        make(CHATML).render(messages)
    assert caught.value.param == "messages"


def test_what_the_template_says_reaches_the_user(make: Callable[[str], ChatTemplate]) -> None:
    with pytest.raises(RequestError, match="roles must alternate"):
        make(MISTRAL).render([TALK[0], TALK[0]])
    with pytest.raises(RequestError, match="'nothing' is undefined"):
        make("{{ nothing.more }}").render(TALK)
    with pytest.raises(RequestError, match="ZeroDivisionError"):
        make("{{ 1 // 0 }}").render(TALK)


def test_a_template_that_does_not_compile_is_a_model_error(
    make: Callable[[str], ChatTemplate],
) -> None:
    for source in ("{% if %}", "{{ x", "{% unknown %}", "{{" + "(" * 5000 + ")" * 5000 + "}}"):
        with pytest.raises(ModelError, match="does not compile"):
            make(source).render(TALK)


def test_options_that_exclude_each_other(make: Callable[[str], ChatTemplate]) -> None:
    with pytest.raises(RequestError, match="exclude each other"):
        make(CHATML).render(TALK, continue_final_message=True)
    with pytest.raises(RequestError, match="may not set 'messages'"):
        make(CHATML).render(TALK, **{"messages": []})


def test_a_model_without_template_says_what_to_do(load: Callable[[str], Tokenizer]) -> None:
    with pytest.raises(RequestError, match="--chat-template FILE"):
        load_chat_template(load("byte_level"))
    assert load_chat_template(load("byte_level"), "{{ bos_token }}").render(TALK) == "<|bos|>"


def test_the_template_for_tools_is_used_with_tools(process: TemplateProcess) -> None:
    template = ChatTemplate("plain", SPECIALS, "tools", process)
    assert (template.render(TALK), template.render(TALK, TOOLS)) == ("plain", "tools")


# What nobody vouched for.

R = "range(99999)"
ENDLESS = {
    "loops": f"{{% for a in {R} %}}{{% for b in {R} %}}{{% endfor %}}{{% endfor %}}",
    "loops over a list": f"{{% set r = {R}|list %}}{{% for a in r %}}{{% for b in r %}}"
    "{% for c in r %}{% endfor %}{% endfor %}{% endfor %}",
    "recursion": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
    "filters": f"{{{{ ([{R}] * 100000) | map('list') | list | length }}}}",
    "text": "{{ 'a' * 10**10 }}",
    "padding": "{{ ('a' | center(10**10)) | length }}",
    "format": "{{ '%10000000000d' % 1 }}",
    "doubling": "{% set n = namespace(t='ab') %}{% for i in range(60) %}"
    "{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t | length }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "nested lists": "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(60) %}"
    "{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}",
    "much output": f"{{% for a in {R} %}}{{{{ 'a' * 1000 }}}}{{% endfor %}}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_hostile_template_ends_soon(
    make: Callable[[str], ChatTemplate], process: TemplateProcess, name: str
) -> None:
    process.start()
    started = time.monotonic()
    with pytest.raises((RequestError, ModelError)):
        make(ENDLESS[name]).render(TALK)
    assert time.monotonic() - started < 60  # the limit is one second
    assert make("{{ messages[0].role }}").render(TALK) == "user"


@pytest.mark.parametrize(
    "expression",
    ["''.__class__.__mro__", "messages.append(1)", "cycler.__init__.__globals__"]
    + ["self._TemplateReference__context", "(messages|attr('__class__')).mro()"],
)
def test_the_sandbox_is_closed(make: Callable[[str], ChatTemplate], expression: str) -> None:
    with pytest.raises(RequestError):
        make("{{ (" + expression + ").x }}").render(TALK)


def test_the_process_comes_back_after_it_was_killed(process: TemplateProcess) -> None:
    template = ChatTemplate(CHATML, process=process)
    first = template.render(TALK)
    assert process._process is not None
    process._process.kill()
    process._process.wait()
    assert template.render(TALK) == first
    process.close()
    assert template.render(TALK) == first


def test_a_large_conversation_passes(make: Callable[[str], ChatTemplate]) -> None:
    messages = [{"role": "user", "content": "你好\u2028" * 50_000}] * 5
    assert make(CHATML).render(messages).count("你好\u2028") == 250_000
