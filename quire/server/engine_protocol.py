"""What the server needs of an engine; `quire.async_engine.AsyncEngine` has all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from quire.config import EngineConfig
    from quire.engine import EngineStats
    from quire.outputs import Delta, EmbeddingOutput
    from quire.sampling_params import SamplingParams
    from quire.text.tokenizer import Tokenizer
    from quire.vision.prompt_images import PromptImages
    from quire.vision.reader import ImageReader

__all__ = ["ModelInfo", "ServedEngine", "Stream"]


class ModelInfo(Protocol):
    """What is fixed about a loaded model."""

    @property
    def name(self) -> str: ...
    @property
    def max_model_len(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def num_kv_blocks(self) -> int: ...
    @property
    def block_tokens(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def implementation(self) -> str: ...
    @property
    def lines(self) -> Sequence[str]: ...


class Stream(Protocol):
    """One prompt with its n completions."""

    @property
    def request_id(self) -> str: ...
    @property
    def prompt_token_ids(self) -> list[int]: ...
    def cancel(self) -> None: ...


class ServedEngine(Protocol):
    """An engine that runs in another thread and is talked to from the event loop's thread."""

    @property
    def config(self) -> EngineConfig: ...
    @property
    def info(self) -> ModelInfo: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def images(self) -> ImageReader: ...
    @property
    def default_sampling(self) -> Mapping[str, Any]: ...
    @property
    def error(self) -> BaseException | None: ...

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
    ) -> Stream:
        """Start a request; receive: takes each delta, or the error that ends it, later."""
        ...

    async def embed(
        self, prompt: str | Sequence[int], dimensions: int | None = None
    ) -> EmbeddingOutput: ...

    async def score(
        self, query: str, document: str, instruction: str | None = None
    ) -> tuple[float, int]: ...

    async def warm(self, params: SamplingParams) -> None: ...

    def stats(self) -> EngineStats: ...

    def expert_usage(self) -> Mapping[int, Sequence[int]]: ...

    async def shutdown(self, drain: bool = True, timeout_s: float = 30.0) -> None: ...
