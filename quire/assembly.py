"""Puts the parts of one model together: tokenizer, loaded weights, scheduler, engine, frontend."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from quire.backends.executable import LaunchingExecutable
from quire.config import EngineConfig
from quire.control.policy import load_policy
from quire.control.scheduler import Scheduler
from quire.engine import Engine
from quire.errors import ConfigError, ModelError, RequestError
from quire.frontend import Frontend
from quire.models.generation import GenerationDefaults, read_generation_defaults
from quire.models.pooling import Pooling
from quire.models.spec import ModelSpec
from quire.models.wrapped import WrappedSpec
from quire.pooling_frontend import PoolingFrontend
from quire.runtime.load import LoadedModel, load_model
from quire.runtime.pooling_runner import PoolingRunner
from quire.runtime.runner import Runner
from quire.sampling.state import GrammarState
from quire.sampling_params import StructuredOutput
from quire.speculative.methods import load_speculator
from quire.text.grammar import GrammarCompiler
from quire.text.tokenizer import Tokenizer, load_tokenizer
from quire.vision.reader import ImageReader
from quire.weights.gguf.files import SUFFIX
from quire.weights.hub import resolve_model

__all__ = ["Assembly", "ModelInfo"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a user may want to know of the model that runs.

    implementation: whose code computes the model, quire's or transformers'.  lines: the memory
    budget and the kernels in words.  load_s: seconds from start to ready.
    """

    name: str
    architecture: str
    max_model_len: int
    vocab_size: int
    num_kv_blocks: int
    block_tokens: int
    fingerprint: str
    implementation: str
    load_s: float
    lines: tuple[str, ...]


class Assembly:
    """One model, ready to be driven by a blocking loop (LLM) or an engine thread (AsyncEngine)."""

    def __init__(self, config: EngineConfig) -> None:
        started = time.monotonic()
        self.config = config
        self.model = load_model(config)
        model_ready = time.monotonic()
        self.tokenizer = self._load_tokenizer()
        tokenizer_ready = time.monotonic()
        self.generation = self._generation_defaults()
        self.engine = _engine(config, self.model)
        self.eos_token_ids = self._eos_token_ids()
        self._generating: Frontend | None = None
        self._pooling: PoolingFrontend | None = None
        if self.model.pooling is None:
            self._generating = Frontend(
                self.model.spec,
                self.tokenizer,
                self.model.memory.max_model_len,
                sorted(self.eos_token_ids),
                self._compile_grammar,
                self.model.ropes,
                config.seed,
            )
        else:
            self._pooling = _pooling_frontend(self.model, self.model.pooling, self.tokenizer)
        phases = {"model": model_ready - started, "tokenizer": tokenizer_ready - model_ready}
        self.info = self._info(time.monotonic() - started, phases)

    @property
    def frontend(self) -> Frontend:
        """Prepares requests for text.  Raises RequestError for a model that has another task."""
        if self._generating is None:
            assert self.model.pooling is not None
            task = self.model.pooling.task
            raise RequestError(f"this model is served to {task}; it generates no text", "model")
        return self._generating

    @property
    def pooling_frontend(self) -> PoolingFrontend:
        """Prepares requests for vectors and scores.  Raises RequestError for one that generates."""
        if self._pooling is None:
            raise RequestError(
                "this model is served to generate text; start one with --task embed or score",
                "model",
            )
        return self._pooling

    @property
    def images(self) -> ImageReader:
        """What makes requests' images ready.  Raises RequestError for a model that sees none."""
        if self.model.vision is None:
            raise RequestError(
                f"this model ({self.model.spec.architecture}) reads text only; leave images out",
                "messages",
            )
        return self.model.vision.reader

    @property
    def default_sampling(self) -> Mapping[str, Any]:
        """SamplingParams fields that the model's authors recommend, or nothing if told so."""
        return self.generation.sampling

    @cached_property
    def grammars(self) -> GrammarCompiler:
        """Compiles grammars for this tokenizer; made when a request first asks for one."""
        vocab_size = self.model.spec.vocab_size
        return GrammarCompiler(self.tokenizer, vocab_size, sorted(self.eos_token_ids))

    def _compile_grammar(self, wanted: StructuredOutput) -> GrammarState:
        return self.grammars.compile(wanted)

    def _load_tokenizer(self) -> Tokenizer:
        tokenizer = load_tokenizer(self._tokenizer_directory())
        beyond = range(self.model.spec.vocab_size, tokenizer.vocab_size)
        if not tokenizer.added_ids.issuperset(beyond):
            raise ModelError(
                f"the tokenizer knows {tokenizer.vocab_size} tokens, the model only "
                f"{self.model.spec.vocab_size}: they do not belong together"
            )
        if beyond:  # as Gemma 3 has one for images in models that see none
            names = ", ".join(map(tokenizer.token_text, beyond[:5]))
            logger.info("the model knows no %s, which the tokenizer does", names)
        return tokenizer

    def _tokenizer_directory(self) -> Path:
        config = self.config
        if config.tokenizer is None:
            return self.model.directory
        return resolve_model(
            config.tokenizer, None, config.source, config.offline, config.download_dir
        )

    def _generation_defaults(self) -> GenerationDefaults:
        choice = self.config.generation_config
        if choice == "vllm":
            eos = _authors_defaults(self.model.directory).eos_token_ids
            return GenerationDefaults(eos_token_ids=eos)
        if choice == "auto":
            return _authors_defaults(self.model.directory)
        directory = Path(choice)
        if not (directory / "generation_config.json").is_file():
            raise ConfigError(
                f"generation_config {choice!r} holds no generation_config.json; give auto, vllm or "
                "a directory that has one"
            )
        return read_generation_defaults(directory)

    def _eos_token_ids(self) -> frozenset[int]:
        found = self.generation.eos_token_ids or self.model.spec.eos_token_ids
        own = self.tokenizer.eos_token_id
        ends = self.tokenizer.turn_end_ids
        return frozenset(found) | ends | (frozenset() if own is None else {own})

    def _info(self, load_s: float, phases: Mapping[str, float]) -> ModelInfo:
        model, memory = self.model, self.model.memory
        kind = f"{model.spec.architecture}, {model.spec.num_parameters / 1e6:,.1f} M parameters"
        if self.config.quantization != "auto":
            kind += f" in {self.config.quantization}"
        waterfall = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in phases.items())
        lines = (
            f"{self.config.model}: {kind}",
            *memory.lines(),
            model.executable.summary,
            *([] if model.vision is None else [model.vision.line]),
            f"loaded in {load_s:.2f} s: {waterfall}",
        )
        return ModelInfo(
            self.config.model,
            model.spec.architecture,
            memory.max_model_len,
            model.spec.vocab_size,
            memory.num_blocks,
            memory.block_tokens,
            model.fingerprint.hex(),
            "transformers" if isinstance(model.spec, WrappedSpec) else "quire",
            load_s,
            lines,
        )


def _authors_defaults(path: Path) -> GenerationDefaults:
    """What came with a model: in a file of its directory, or in its GGUF file."""
    if path.suffix == SUFFIX:
        from quire.weights.gguf.config import gguf_generation_defaults  # here: few need it
        from quire.weights.gguf.model import open_gguf

        return gguf_generation_defaults(open_gguf(path))
    return read_generation_defaults(path)


def _pooling_frontend(
    model: LoadedModel, pooling: Pooling, tokenizer: Tokenizer
) -> PoolingFrontend:
    """An encoder takes what one step takes, if that is less than what it is made for."""
    assert isinstance(model.spec, ModelSpec), "a wrapped model generates"
    memory = model.memory
    longest, limit = memory.max_model_len, "the length of the model (max_model_len)"
    if model.spec.bidirectional and memory.max_num_batched_tokens < longest:
        longest = memory.max_num_batched_tokens
        limit = "what one step computes (max_num_batched_tokens), as an encoder reads a text whole"
    return PoolingFrontend(model.spec, tokenizer, pooling, model.ropes, longest, limit)


def _engine(config: EngineConfig, model: LoadedModel) -> Engine:
    memory, whole = model.memory, model.spec.bidirectional
    scheduler = Scheduler(
        memory.num_blocks,
        memory.block_tokens,
        memory.max_num_batched_tokens,
        memory.max_num_seqs,
        load_policy(config.scheduling_policy),
        memory.max_model_len,
        config.enable_prefix_caching and not whole,
        config.max_num_queued_reqs,
        model.fingerprint,
        config.enable_chunked_prefill and not whole,
        window=model.spec.window,
        drafter=load_speculator(config.speculative, config.max_drafts),
        store=model.store,
        num_state_records=memory.num_state_records or None,
    )
    if model.pooling is not None:
        return Engine(scheduler, PoolingRunner(model.executable, model.ropes, model.pooling))
    encode = None if model.vision is None else model.vision.encoder.encode
    executable = model.executable
    ahead = isinstance(executable, LaunchingExecutable) and executable.overlaps
    runner = Runner(executable, model.ropes, model.store, encode)
    return Engine(scheduler, runner, plans_ahead=ahead)
