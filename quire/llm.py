"""The blocking Python API: prompts in, completions out."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from quire.assembly import Assembly, ModelInfo
from quire.config import EngineConfig
from quire.control.plan import Update
from quire.engine import EngineStats
from quire.errors import RequestError
from quire.frontend import Completion, Prepared
from quire.outputs import CompletionOutput, EmbeddingOutput, RequestOutput
from quire.sampling_params import SamplingParams
from quire.text.chat_template import load_chat_template
from quire.text.template_variables import check_variables
from quire.text.tokenizer import Tokenizer
from quire.vision.messages import take_images

__all__ = ["LLM", "Prompt"]

Prompt: TypeAlias = "str | Sequence[int] | Mapping[str, Any]"
"""Text, token ids, or {"prompt": text} or {"prompt_token_ids": ids} as vLLM has it.

With "images" beside it, one for each image token of the prompt: data: URIs, bytes of files or
pictures of Pillow.  With "cache_salt", cached prefixes are shared with equal salts only.
"""

Message: TypeAlias = Mapping[str, Any]


class LLM:
    """One model in this process.

        llm = LLM("demo")
        print(llm.generate("In the beginning", SamplingParams(max_tokens=20))[0].outputs[0].text)

    options: the fields of EngineConfig.  Calls from several threads take turns.
    """

    def __init__(self, model: str, **options: Any) -> None:
        self._assembly = Assembly(EngineConfig.from_options(model, options))
        self._engine = self._assembly.engine
        self._num_requests = 0
        self._turn = threading.Lock()

    @property
    def info(self) -> ModelInfo:
        """What runs, and the memory budget."""
        return self._assembly.info

    def stats(self) -> EngineStats:
        """Counts since the start, and gauges now."""
        return self._engine.stats()

    def get_tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._assembly.tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """What the model's authors recommend in generation_config.json."""
        return SamplingParams(**self._assembly.default_sampling)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Complete every prompt; the outputs stand in the order of the prompts.

        sampling_params: one for all, one for each, or None for the model's defaults.
        Raises RequestError for a bad prompt or parameter before anything runs.
        """
        listed = _as_list(prompts)
        params = self._params_for(listed, sampling_params)
        prepared = [
            self._prepare(prompt, each) for prompt, each in zip(listed, params, strict=True)
        ]
        return self._run(prepared, use_tqdm)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **template_arguments: Any,
    ) -> list[RequestOutput]:
        """Answer one conversation, or each of several.

        A message's content may be a list of parts: texts, and images, for models that see; see
        `take_images`.  chat_template_kwargs, template_arguments: tools, documents and further
        variables for the chat template.  Raises RequestError for one that it does not read.
        """
        single = not messages or isinstance(messages[0], Mapping)
        conversations: Sequence[Any] = [messages] if single else messages
        template = load_chat_template(self.get_tokenizer(), chat_template)
        variables = {**template_arguments, **(chat_template_kwargs or {})}
        check_variables(template.sources, variables)
        prompts: list[Prompt] = []
        for conversation in conversations:
            messages, images = take_images(conversation)
            if images:
                _ = self._assembly.images  # refuses them before the template does, in worse words
            text = template.render(
                messages,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **variables,
            )
            tokens = self.get_tokenizer().encode(text, add_special_tokens=False)
            prompts.append({"prompt_token_ids": tokens, "images": images})
        return self.generate(prompts, sampling_params, use_tqdm)

    def embed(
        self,
        prompts: Prompt | Sequence[Prompt],
        dimensions: int | None = None,
        use_tqdm: bool = True,
    ) -> list[EmbeddingOutput]:
        """The vector of every text, in the order of the texts.

        dimensions: how many of its numbers; only models that were trained for it allow fewer.
        Raises RequestError for a bad text before anything runs.
        """
        frontend = self._assembly.pooling_frontend
        frontend.check_dimensions(dimensions)
        prepared = [frontend.prepare_text(_unwrap(prompt)) for prompt in _as_list(prompts)]
        self._run(prepared, use_tqdm)
        return [
            EmbeddingOutput(
                each.prompt,
                each.prompt_token_ids,
                frontend.embedding(each, dimensions).tolist(),
            )
            for each in prepared
        ]

    def score(
        self,
        query: str,
        documents: str | Sequence[str],
        instruction: str | None = None,
        use_tqdm: bool = True,
    ) -> list[float]:
        """How well each document matches the query, 0 to 1.

        instruction: what counts as a match, for language models that score.
        """
        frontend = self._assembly.pooling_frontend
        listed = [documents] if isinstance(documents, str) else documents
        prepared = [frontend.prepare_pair(query, each, instruction) for each in listed]
        self._run(prepared, use_tqdm)
        return [frontend.score(each) for each in prepared]

    def _params_for(
        self, prompts: Sequence[Prompt], given: SamplingParams | Sequence[SamplingParams] | None
    ) -> Sequence[SamplingParams]:
        if given is None:
            given = self.get_default_sampling_params()
        if isinstance(given, SamplingParams):
            return [given] * len(prompts)
        if len(given) != len(prompts):
            raise RequestError(
                f"{len(prompts)} prompts but {len(given)} sampling_params; give one or as many",
                "sampling_params",
            )
        return given

    def _prepare(self, prompt: Prompt, params: SamplingParams) -> Prepared:
        self._num_requests += 1
        name, plain = str(self._num_requests - 1), _unwrap(prompt, "images", "cache_salt")
        beside = prompt if isinstance(prompt, Mapping) else {}
        sources, salt = beside.get("images"), beside.get("cache_salt") or ""
        if not sources:
            return self._assembly.frontend.prepare(plain, params, name, cache_salt=salt)
        reader = self._assembly.images
        tokens = self.get_tokenizer().encode(plain) if isinstance(plain, str) else plain
        tokens, images = reader.place(tokens, reader.read_all(sources))
        return self._assembly.frontend.prepare(tokens, params, name, cache_salt=salt, images=images)

    def _run(self, prepared: Sequence[Prepared], use_tqdm: bool) -> list[RequestOutput]:
        """Run every request, when no other thread's run."""
        for each in prepared:
            self._engine.refuse_impossible(each.completions[0].request)
        with self._turn:
            return self._run_now(prepared, use_tqdm)

    def _run_now(self, prepared: Sequence[Prepared], use_tqdm: bool) -> list[RequestOutput]:
        """Keep the engine's queue filled and step until every request is finished."""
        outputs = [_empty_output(each) for each in prepared]
        open_requests = {
            completion.request.id: (completion, output)
            for each, output in zip(prepared, outputs, strict=True)
            for completion in each.completions
        }
        waiting = list(reversed(open_requests.values()))
        with _progress(len(outputs), use_tqdm) as advance:
            try:
                while open_requests:
                    self._fill_queue(waiting)
                    for update in self._engine.step():
                        self._take(update, open_requests, advance)
                while self._engine.has_work:  # a step that was on its way when the last one ended
                    self._engine.step()
            finally:
                for request_id in open_requests:  # left over only after an error or Ctrl-C
                    self._engine.cancel(request_id)
        return outputs

    def _fill_queue(self, waiting: list[tuple[Completion, RequestOutput]]) -> None:
        room = self._assembly.config.max_num_queued_reqs
        while waiting and self._engine.scheduler.stats().num_waiting < room:
            completion, _ = waiting.pop()
            self._engine.submit(completion.request, completion.state, completion.images)

    def _take(
        self,
        update: Update,
        open_requests: dict[str, tuple[Completion, RequestOutput]],
        advance: Any,
    ) -> None:
        request_id = update.request_id
        completion, output = open_requests[request_id]
        delta = completion.assembler.push(update)
        output.add(delta)
        if delta.finish_reason is None:
            return
        if update.finish_reason is None:
            self._engine.cancel(request_id, "stop")
        del open_requests[request_id]
        if output.finished:
            advance()


def _as_list(prompts: Any) -> list[Any]:
    """One prompt or a sequence of them → a list of prompts."""
    if isinstance(prompts, str | Mapping):
        return [prompts]
    listed = list(prompts)
    is_token_ids = bool(listed) and all(isinstance(item, int) for item in listed)
    return [listed] if is_token_ids else listed


def _unwrap(prompt: Prompt, *beside: str) -> str | Sequence[int]:
    """The text or the token ids of a prompt.  beside: keys that it may have as well."""
    if not isinstance(prompt, Mapping):
        return prompt
    unknown = prompt.keys() - {"prompt_token_ids", "prompt", *beside}
    for key in () if unknown else ("prompt_token_ids", "prompt"):
        if key in prompt:
            found: str | Sequence[int] = prompt[key]
            return found
    also = f", beside it {' and '.join(map(repr, beside))}" if beside else ""
    raise RequestError(
        f"a prompt has the keys {sorted(prompt)}; give 'prompt' or 'prompt_token_ids'{also}",
        "prompt",
    )


def _empty_output(prepared: Prepared) -> RequestOutput:
    completions = [CompletionOutput(index) for index in range(len(prepared.completions))]
    return RequestOutput(
        prepared.request_id, prepared.prompt, prepared.prompt_token_ids, completions
    )


@contextmanager
def _progress(total: int, shown: bool) -> Iterator[Any]:
    """A callable that advances a progress bar by one request."""
    if not shown:
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc="Processed prompts", unit="req", dynamic_ncols=True) as bar:
        yield bar.update
