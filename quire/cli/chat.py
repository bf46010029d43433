"""`quire chat MODEL`: a conversation in the terminal."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from quire.cli.engine_options import add_engine_options, engine_config
from quire.cli.parser import CommandParser
from quire.cli.sampling_options import add_sampling_options, sampling_params
from quire.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from quire.cli.session import Answer, Session
    from quire.outputs import Delta
    from quire.sampling_params import SamplingParams
    from quire.text.chat_template import ChatTemplate

__all__ = ["add_arguments", "run"]

HELP = """\
/reset  forget the conversation    /exit  leave (or Ctrl-D)
/help   show this                  Ctrl-C  stop the answer that is being written"""
ONE_ANSWER = ("n", "logprobs", "prompt_logprobs")


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("--system", metavar="TEXT", help="the system prompt")
    parser.add_argument("--chat-template", metavar="FILE", help="a Jinja file to use instead")
    add_sampling_options(parser, None, skip=ONE_ANSWER)
    add_engine_options(parser)


def run(namespace: argparse.Namespace) -> int:
    """Talk until the input ends."""
    config = engine_config(namespace)
    template = _read_template(getattr(namespace, "chat_template", None))
    from quire.cli.session import Session
    from quire.text.chat_template import load_chat_template

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() a history and editing keys

    with Session(config) as session:
        defaults = session.engine.default_sampling
        params = sampling_params(namespace, defaults, max_tokens=None)
        chat_template = load_chat_template(session.engine.tokenizer, template)
        print(f"{session.engine.info.lines[0]}\n{HELP}", file=sys.stderr)
        system: str | None = getattr(namespace, "system", None)
        _Conversation(session, chat_template, params, system).run()
    return 0


class _Conversation:
    """The messages so far, and the loop that adds to them."""

    def __init__(
        self,
        session: Session,
        template: ChatTemplate,
        params: SamplingParams,
        system: str | None,
    ) -> None:
        self._session, self._template, self._params = session, template, params
        self._opening = [] if system is None else [{"role": "system", "content": system}]
        self._messages = list(self._opening)

    def run(self) -> None:
        while True:
            try:
                line = input("> " if sys.stdin.isatty() else "").strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                print("\n(leave with Ctrl-D or /exit)", file=sys.stderr)
                continue
            if line == "/exit":
                return
            if line == "/reset":
                self._messages = list(self._opening)
            elif line == "/help":
                print(HELP, file=sys.stderr)
            elif line.startswith("/"):
                print(f"there is no {line.split()[0]}\n{HELP}", file=sys.stderr)
            elif line:
                self._turn(line)

    def _turn(self, text: str) -> None:
        """One question and its answer; a question that cannot be served is taken back."""
        asked = [*self._messages, {"role": "user", "content": text}]
        try:
            answer = self._answer(asked)
        except RequestError as error:
            print(f"{error}; /reset starts over", file=sys.stderr)
            return
        print(flush=True)
        print(f"[{answer.summary}]", file=sys.stderr)
        reply = {"role": "assistant", "content": answer.output.outputs[0].text}
        self._messages = [*asked, reply]

    def _answer(self, messages: list[dict[str, str]]) -> Answer:
        prompt = self._template.render(messages)
        tokens = self._session.engine.tokenizer.encode(prompt, add_special_tokens=False)
        return self._session.answer(tokens, self._params, _print_text)


def _print_text(delta: Delta) -> None:
    print(delta.text, end="", flush=True)


def _read_template(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read --chat-template {path}: {error}") from None
