"""An engine without a model: it says the same sentence to everybody, one byte per token."""

from __future__ import annotations

import asyncio
import codecs
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quire.config import EngineConfig
from quire.control.stats import SchedulerStats
from quire.engine import EngineStats
from quire.errors import EngineError, RequestError
from quire.outputs import Delta, EmbeddingOutput, Logprob, RequestMetrics, TokenLogprobs
from quire.sampling_params import SamplingParams
from quire.text.token_bytes import TokenTexts
from quire.vision.prompt_images import PromptImages
from quire.vision.reader import ImageReader

__all__ = ["SAYING", "FakeEngine", "FakeStream", "FakeTokenizer"]

SAYING = "Grüße, 世界! 👋 The quick brown fox jumps over the lazy dog. " * 40
SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}{{ mood }}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class FakeTokenizer:
    """One token per byte, and four special tokens."""

    vocab_size = 256 + len(SPECIAL)
    byte_exact = True
    special_ids = frozenset(range(256, 256 + len(SPECIAL)))
    added_ids = special_ids
    bos_token_id = 256
    eos_token_id = 257
    turn_end_ids: frozenset[int] = frozenset()
    special_tokens_map: Mapping[str, str] = {"bos_token": "<s>", "eos_token": "</s>"}

    def __init__(self, chat_template: str | None = TEMPLATE) -> None:
        self.chat_template = chat_template
        self.texts = TokenTexts(self)
        self.chat_templates = {} if chat_template is None else {"default": chat_template}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [256] * add_special_tokens + list(text.encode())

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        shown = [i for i in ids if not (skip_special_tokens and i in self.special_ids)]
        return b"".join(map(self.token_bytes, shown)).decode("utf-8", "replace")

    def token_bytes(self, token: int, leading: bool = False) -> bytes:
        return bytes([token]) if token < 256 else SPECIAL[token - 256].encode()

    def token_text(self, token: int) -> str:
        return self.token_bytes(token).decode("utf-8", "replace")


@dataclass(frozen=True)
class FakeInfo:
    name: str = "fake/model"
    max_model_len: int = 4096
    vocab_size: int = FakeTokenizer.vocab_size
    num_kv_blocks: int = 100
    block_tokens: int = 16
    fingerprint: str = "0123456789abcdef"
    implementation: str = "quire"
    lines: tuple[str, ...] = ("a fake",)


@dataclass
class FakeEngine:
    """What tests may turn: the pace, the moment of death, the error of the next submit."""

    token_delay_s: float = 0.0
    hang_after: int | None = None
    die_after: int | None = None
    fail_after: int | None = None
    refusal: Exception | None = None
    tokenizer: FakeTokenizer = field(default_factory=FakeTokenizer)
    default_sampling: Mapping[str, Any] = field(default_factory=dict)
    info: FakeInfo = FakeInfo()
    config: EngineConfig = field(default_factory=lambda: EngineConfig(model="fake/model"))
    error: BaseException | None = None
    streams: list[FakeStream] = field(default_factory=list)
    submitted: list[dict[str, Any]] = field(default_factory=list)
    heartbeat_s: float = field(default_factory=time.monotonic)
    was_shut_down: bool = False

    @property
    def images(self) -> ImageReader:
        raise RequestError("this model reads text only; leave images out", "messages")

    def submit(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams,
        *,
        request_id: str | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
        cache_salt: str = "",
        images: PromptImages | None = None,
        receive: Callable[[Delta | BaseException], None],
    ) -> FakeStream:
        assert not isinstance(prompt, str), "the server tokenizes"
        if self.refusal is not None:
            raise self.refusal
        if not prompt or len(prompt) >= self.info.max_model_len:
            raise RequestError(f"the prompt has {len(prompt)} tokens", "prompt")
        if any(not 0 <= token < self.info.vocab_size for token in prompt):
            raise RequestError("a token id is not in the vocabulary", "prompt")
        stream = FakeStream(self, f"request-{len(self.streams)}", list(prompt), params)
        stream.begin(receive)
        self.streams.append(stream)
        self.submitted.append(
            {"params": params, "priority": priority, "timeout_s": timeout_s, "salt": cache_salt}
        )
        return stream

    async def embed(
        self, prompt: str | Sequence[int], dimensions: int | None = None
    ) -> EmbeddingOutput:
        """The vector of a prompt is its first tokens."""
        if self.refusal is not None:
            raise self.refusal
        assert not isinstance(prompt, str), "the server tokenizes"
        await asyncio.sleep(self.token_delay_s)
        vector = [float(token) for token in prompt][: dimensions or 4]
        return EmbeddingOutput(None, list(prompt), vector)

    async def score(
        self, query: str, document: str, instruction: str | None = None
    ) -> tuple[float, int]:
        """The share of the query's letters that the document has."""
        if self.refusal is not None:
            raise self.refusal
        await asyncio.sleep(self.token_delay_s)
        hits = sum(letter in document for letter in query + (instruction or ""))
        return hits / len(query), len(query) + len(document)

    async def warm(self, params: SamplingParams) -> None:
        """There is no grammar here; whoever asks for one may be refused."""
        if self.refusal is not None and params.structured_outputs is not None:
            raise self.refusal

    def stats(self) -> EngineStats:
        num_running = sum(not stream.over for stream in self.streams)
        scheduler = SchedulerStats(
            num_running, 3, 50, 50, 10, 0.5, 0.25, 1.5, 7, 1000, 400, 21, 8, 32, 24
        )
        return EngineStats(
            scheduler=scheduler,
            num_steps=sum(stream.num_steps for stream in self.streams),
            num_prompt_tokens=sum(len(stream.prompt_token_ids) for stream in self.streams),
            num_generation_tokens=123,
            step_tokens=4,
            heartbeat_s=self.heartbeat_s,
        )

    def expert_usage(self) -> dict[int, list[int]]:
        return {1: [4, 0, 2]}

    async def shutdown(self, drain: bool = True, timeout_s: float = 30.0) -> None:
        self.was_shut_down = True


class FakeStream:
    """Says SAYING in every completion; completion i begins at its i-th character.

    Stop strings must be one character: nothing is held back.
    """

    def __init__(
        self, engine: FakeEngine, request_id: str, prompt: list[int], params: SamplingParams
    ) -> None:
        self.request_id = request_id
        self.prompt_token_ids = prompt
        self.cancelled = False
        self.over = False
        self.run: asyncio.Task[None] | None = None
        self.num_steps = 0
        self._engine = engine
        self._params = params
        self._arrival_s = time.monotonic()

    def cancel(self) -> None:
        if not self.over:
            self.cancelled = True

    def begin(self, receive: Callable[[Delta | BaseException], None]) -> None:
        self.run = asyncio.get_running_loop().create_task(self._run(receive))

    async def _run(self, receive: Callable[[Delta | BaseException], None]) -> None:
        try:
            completions = [self._completion(index) for index in range(self._params.n)]
            while completions:
                await self._step()
                for completion in list(completions):
                    delta = next(completion)
                    receive(delta)
                    if delta.finish_reason is not None:
                        completions.remove(completion)
        except EngineError as error:
            receive(error)
        finally:
            self.over = True

    async def _step(self) -> None:
        engine, done = self._engine, self.num_steps
        await asyncio.sleep(engine.token_delay_s)
        while engine.hang_after is not None and done >= engine.hang_after and not self.cancelled:
            await asyncio.sleep(0.005)
        if engine.die_after is not None and done >= engine.die_after:
            engine.error = ZeroDivisionError("division by zero")
            raise EngineError("the engine died") from engine.error
        self.num_steps += 1
        engine.heartbeat_s = time.monotonic()

    def _completion(self, index: int) -> Any:
        params, text = self._params, SAYING[index:]
        finder = codecs.getincrementaldecoder("utf-8")()
        said = ""
        tokens = text.encode()
        most = min(params.max_tokens or 4096, 4096 - len(self.prompt_token_ids))
        for n, token in enumerate(tokens[:most]):
            new = finder.decode(bytes([token]))
            reason: str | None = "length" if n + 1 == most or n + 1 == len(tokens) else None
            stop_reason = None
            for stop in params.stop:
                at = (said + new).find(stop)
                if at >= 0:
                    new, reason, stop_reason = (said + new)[len(said) : at], "stop", stop
            if self.cancelled:
                yield self._delta(index, n, "", (), "abort", None)
                return
            if self._engine.fail_after == n:
                reason = "error"
            said += new
            yield self._delta(index, n, new, (token,), reason, stop_reason)

    def _delta(
        self,
        index: int,
        n: int,
        text: str,
        tokens: tuple[int, ...],
        reason: str | None,
        stop_reason: str | None,
    ) -> Delta:
        params, now = self._params, time.monotonic()
        of_prompt: list[TokenLogprobs | None] | None = None
        if n == 0 and params.prompt_logprobs is not None:
            prompt = self.prompt_token_ids
            of_prompt = [None, *[_entry(token, params.prompt_logprobs) for token in prompt[1:]]]
        logprobs = None
        if params.logprobs is not None:
            logprobs = tuple(_entry(token, params.logprobs) for token in tokens)
        return Delta(
            index,
            text,
            tokens,
            logprobs=logprobs,
            finish_reason=reason,
            stop_reason=stop_reason,
            num_cached_tokens=2,
            prompt_logprobs=None if of_prompt is None else tuple(of_prompt),
            metrics=RequestMetrics(self._arrival_s, self._arrival_s + 0.001, now, now),
        )


def _entry(token: int, num_top: int) -> TokenLogprobs:
    """The token is the second likeliest; the likeliest one has no finite probability."""
    likely = {token: Logprob(-0.5, 2, "")}
    for rank in range(1, num_top + 1):
        if rank != 2:
            likely[(token + rank) % 256] = Logprob(-float("inf") if rank > 3 else -0.1, rank, "")
    return likely
