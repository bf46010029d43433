"""Deltas carry the text, the tokens and the reasons that a client is promised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.control.plan import Update
from quire.outputs import CompletionOutput, Details, Logprob, RequestMetrics
from quire.sampling_params import SamplingParams
from quire.text.output import OutputAssembler
from quire.text.tokenizer import Tokenizer

Load = Callable[[str], Tokenizer]


def assemble(
    tokenizer: Tokenizer,
    groups: Sequence[Sequence[int]],
    params: SamplingParams,
    finish: str = "length",
) -> CompletionOutput:
    """Push the groups as the steps of a request that ends with the last."""
    assembler = OutputAssembler(0, tokenizer, [], params)
    output = CompletionOutput(0)
    for n, group in enumerate(groups):
        last = n == len(groups) - 1
        update = Update("r", tuple(group), finish if last else None)
        output.add(assembler.push(update))
        if assembler.stopped:
            break
    return output


@settings(max_examples=100, deadline=None)
@given(data=st.data(), stops=st.lists(st.sampled_from(["o w", "世界", "!", "\n"]), max_size=2))
@pytest.mark.parametrize("kind", ["byte_level", "llama2", "sentencepiece"])
def test_speculation_changes_nothing(
    load: Load, kind: str, data: st.DataObject, stops: list[str]
) -> None:
    """Several tokens per step give the text, the tokens and the reasons of one per step."""
    tokenizer = load(kind)
    parts = data.draw(st.lists(st.sampled_from(["hello world", "你好 世界", "!", "\n", "😀"])))
    ids = tokenizer.encode(" ".join(parts), add_special_tokens=False) or [5]
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(ids) - 1)), max_size=5)))
    bounds = [0, *[cut for cut in cuts if cut < len(ids)], len(ids)]
    groups = [ids[a:b] for a, b in pairwise(bounds)]
    params = SamplingParams(stop=tuple(stops), min_tokens=data.draw(st.integers(0, 8)))
    grouped = assemble(tokenizer, groups, params)
    assert grouped == assemble(tokenizer, [[token] for token in ids], params)
    assert grouped.finish_reason == ("stop" if grouped.stop_reason else "length")
    assert grouped.token_ids == ids[: len(grouped.token_ids)]


def test_a_stop_string_ends_text_and_tokens(load: Load) -> None:
    tokenizer = load("byte_level")
    ids = tokenizer.encode("hello world! the dog")
    output = assemble(tokenizer, [ids], SamplingParams(stop=("d! ",)))
    assert (output.text, output.finish_reason, output.stop_reason) == ("hello worl", "stop", "d! ")
    assert tokenizer.decode(output.token_ids).startswith("hello world! ")
    assert len(output.token_ids) < len(ids)


def test_include_stop_str_in_output(load: Load) -> None:
    tokenizer = load("byte_level")
    ids = tokenizer.encode("hello world! the dog")
    params = SamplingParams(stop=("d!",), include_stop_str_in_output=True)
    assert assemble(tokenizer, [ids], params).text == "hello world!"


def test_stop_strings_wait_for_min_tokens(load: Load) -> None:
    tokenizer = load("byte_level")
    ids = tokenizer.encode("the dog the dog the dog")
    first = assemble(tokenizer, [ids], SamplingParams(stop=("dog",)))
    later = assemble(
        tokenizer, [ids], SamplingParams(stop=("dog",), min_tokens=len(first.token_ids))
    )
    assert (first.text, later.text) == ("the ", "the dog the ")


@pytest.mark.parametrize("skip", [True, False])
def test_the_end_token_is_in_the_ids_but_not_in_the_text(load: Load, skip: bool) -> None:
    tokenizer = load("byte_level")
    assert tokenizer.eos_token_id is not None
    ids = [*tokenizer.encode("hello"), tokenizer.eos_token_id]
    params = SamplingParams(skip_special_tokens=skip)
    output = assemble(tokenizer, [ids], params, finish="stop")
    assert (output.text, output.token_ids) == ("hello", ids)
    assert (output.finish_reason, output.stop_reason) == ("stop", None)


def test_a_stop_token_shows_where_the_stop_is_included(load: Load) -> None:
    tokenizer = load("byte_level")
    ids = tokenizer.encode("hello!")
    hidden = assemble(tokenizer, [ids], SamplingParams(), finish="stop")
    params = SamplingParams(include_stop_str_in_output=True)
    shown = assemble(tokenizer, [ids], params, finish="stop")
    assert (hidden.text, shown.text) == ("hello", "hello!")


def test_the_end_releases_what_was_held(load: Load) -> None:
    tokenizer = load("byte_level")
    half = tokenizer.encode("hello w", add_special_tokens=False)
    output = assemble(tokenizer, [half], SamplingParams(stop=("world",)))
    assert output.text == "hello w"


def test_an_unfinished_character_is_flushed_at_the_end(load: Load) -> None:
    tokenizer = load("byte_level")
    byte = {tokenizer.token_bytes(t): t for t in range(tokenizer.vocab_size)}
    output = assemble(tokenizer, [[byte[b"\xe4"]], [byte[b"\xbd"]]], SamplingParams())
    assert output.text == "\ufffd"


def test_logprobs_get_their_text_and_are_cut_with_the_tokens(load: Load) -> None:
    tokenizer = load("byte_level")
    ids = tokenizer.encode("hello world! the")
    entries = [{token: Logprob(-0.5, 1), 3: Logprob(-2.0, 2)} for token in ids]
    assembler = OutputAssembler(1, tokenizer, [], SamplingParams(stop=("!",), logprobs=1))
    of_prompt = (None, {ids[0]: Logprob(-0.5, 1)})
    delta = assembler.push(Update("r", tuple(ids), details=Details(entries, of_prompt)))
    assert delta.index == 1
    assert delta.prompt_logprobs is not None and delta.prompt_logprobs[0] is None
    assert delta.prompt_logprobs[1] is not None
    assert delta.prompt_logprobs[1][ids[0]].decoded_token == tokenizer.token_text(ids[0])
    assert delta.logprobs is not None
    assert len(delta.logprobs) == len(delta.token_ids) < len(ids)
    assert "".join(e[t].decoded_token for t, e in zip(ids, delta.logprobs, strict=False)) == (
        tokenizer.decode(delta.token_ids)
    )


def test_updates_after_the_end_add_nothing(load: Load) -> None:
    tokenizer = load("byte_level")
    assembler = OutputAssembler(0, tokenizer, [], SamplingParams(stop=("!",)))
    output = CompletionOutput(0)
    output.add(assembler.push(Update("r", tuple(tokenizer.encode("hello!")))))
    assert assembler.stopped and assembler.finished
    before = (output.text, list(output.token_ids))
    over = Details(metrics=RequestMetrics(finished_s=2.0))
    late = assembler.push(Update("r", (5,), "abort", details=over))
    assert late.metrics == RequestMetrics(finished_s=2.0)  # but when the engine was done is news
    output.add(late)
    assert (output.text, output.token_ids) == before
    assert (output.finish_reason, output.stop_reason) == ("stop", "!")
