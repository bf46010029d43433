"""`quire generate MODEL`: complete one prompt and show the text as it comes."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from quire.cli.engine_options import add_engine_options, engine_config
from quire.cli.parser import CommandParser
from quire.cli.sampling_options import add_sampling_options, sampling_params
from quire.cli.usage import UsageError

if TYPE_CHECKING:
    from quire.cli.session import Answer
    from quire.outputs import Delta

__all__ = ["add_arguments", "run"]

MAX_TOKENS = 256


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("--prompt", metavar="TEXT", help="the prompt; default: standard input")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    add_sampling_options(parser, MAX_TOKENS)
    add_engine_options(parser)


def run(namespace: argparse.Namespace) -> int:
    """Generate; text goes to standard output, figures to standard error."""
    config = engine_config(namespace)
    as_json: bool = getattr(namespace, "json", False)
    if not as_json and {"logprobs", "prompt_logprobs"} & vars(namespace).keys():
        raise UsageError("--logprobs and --prompt-logprobs are shown with --json only")
    prompt = _prompt(namespace)
    from quire.cli.session import Session

    with Session(config) as session:
        defaults = session.engine.default_sampling
        params = sampling_params(namespace, defaults, max_tokens=MAX_TOKENS)
        streams = params.n == 1 and not as_json
        answer = session.answer(prompt, params, _print_text if streams else _ignore)
    if as_json:
        print(json.dumps(_as_json(answer), ensure_ascii=False))
    elif streams:
        print(flush=True)
    else:
        _print_all(answer)
    print(answer.summary, file=sys.stderr)
    return 0


def _prompt(namespace: argparse.Namespace) -> str:
    given: str | None = getattr(namespace, "prompt", None)
    if given is not None:
        return given
    if sys.stdin.isatty():
        print("reading the prompt from the terminal; end it with Ctrl-D", file=sys.stderr)
    return sys.stdin.read()


def _print_text(delta: Delta) -> None:
    print(delta.text, end="", flush=True)


def _ignore(delta: Delta) -> None:
    """What is printed at the end is not printed as it comes."""


def _print_all(answer: Answer) -> None:
    for completion in answer.output.outputs:
        print(f"--- {completion.index}\n{completion.text}")


def _as_json(answer: Answer) -> dict[str, Any]:
    output = answer.output
    return {
        "prompt": output.prompt,
        "prompt_token_ids": output.prompt_token_ids,
        "prompt_logprobs": output.prompt_logprobs and [_named(e) for e in output.prompt_logprobs],
        "outputs": [
            {**asdict(each), "logprobs": each.logprobs and [_named(e) for e in each.logprobs]}
            for each in output.outputs
        ],
        "first_token_s": round(answer.first_token_s, 6),
        "total_s": round(answer.total_s, 6),
        "tokens_per_s": round(answer.tokens_per_s, 3),
    }


def _named(entry: Any) -> Any:
    """{token id: Logprob} → a list of objects, the token itself first."""
    return entry and [{"token_id": token, **each._asdict()} for token, each in entry.items()]
