"""Says what the user asked for: frozen, validated, the same names in Python and on the CLI."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from quire.errors import ConfigError

__all__ = ["EngineConfig", "cache_directory"]

Dtype = Literal["auto", "float32", "float16", "bfloat16"]
KvCacheDtype = Literal["auto", "float32", "float16", "bfloat16", "int8", "fp8", "int4"]
Quantization = Literal["auto", "int4", "int8"]
LoadFormat = Literal["auto", "dummy"]
BackendName = Literal["auto", "native", "reference", "torch", "transformers"]
InstructionSet = Literal[
    "auto", "portable", "avx2", "avx512", "avx512vnni", "avx512bf16",
    "neon", "neon_dotprod", "neon_i8mm", "amx",
]  # fmt: skip
Source = Literal["huggingface", "modelscope"]
Speculation = Literal["off", "ngram", "suffix"]
Task = Literal["auto", "generate", "embed", "score"]

DEFAULT_DRAFTS = 8


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What one engine should be; None and "auto" mean that Quire chooses and says what it chose.

    Raises ConfigError, naming the option, for a value that cannot be honoured.
    """

    model: str = field(
        metadata={"help": "a directory, a .gguf file, org/name on the hub, or 'demo'"}
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": "directory or org/name of another tokenizer"}
    )
    task: Task = field(
        default="auto",
        metadata={"help": "generate text, embed texts or score pairs; auto asks the model's files"},
    )
    revision: str | None = field(
        default=None, metadata={"help": "branch, tag or commit of the model on the hub"}
    )
    source: Source = field(default="huggingface", metadata={"help": "which hub org/name means"})
    offline: bool = field(default=False, metadata={"help": "use only what is downloaded already"})
    download_dir: str | None = field(default=None, metadata={"help": "where downloads are kept"})
    load_format: LoadFormat = field(
        default="auto",
        metadata={"help": "auto reads the files that are there; dummy draws random weights"},
    )
    dtype: Dtype = field(default="auto", metadata={"help": "format of weights in memory"})
    quantization: Quantization = field(
        default="auto",
        metadata={"help": "int4 or int8 rounds a float checkpoint's matrices while loading"},
    )
    kv_cache_dtype: KvCacheDtype = field(
        default="auto",
        metadata={
            "help": "format of the KV cache; auto takes the model's; int8 and fp8 (e4m3) halve"
            " bfloat16, int4 halves it again"
        },
    )
    max_model_len: int | None = field(
        default=None, metadata={"help": "longest prompt + output in tokens; auto fits the memory"}
    )
    memory_utilization: float = field(
        default=0.8, metadata={"help": "share of the free memory that may be used"}
    )
    kv_cache_memory_bytes: int | None = field(
        default=None, metadata={"help": "exact size of the KV cache, overrides the share"}
    )
    cpu_offload_gb: float | None = field(
        default=None,
        metadata={
            "help": "GiB of matrices that stay in host memory and are copied to the device in every"
            " step; auto: those that do not fit it"
        },
    )
    enforce_eager: bool = field(
        default=False,
        metadata={
            "help": "never capture steps as graphs of a device; slower on CUDA, same outputs"
        },
    )
    kv_offloading_size: float | None = field(
        default=None,
        metadata={"help": "GiB of host memory for KV blocks that a device's cache gives up"},
    )
    block_size: int = field(default=16, metadata={"help": "tokens per KV block: 16 or 32"})
    max_num_seqs: int = field(default=128, metadata={"help": "requests running at once"})
    max_num_batched_tokens: int = field(default=1024, metadata={"help": "token budget of a step"})
    max_num_queued_reqs: int = field(
        default=1024, metadata={"help": "requests that may wait; more are refused with 429"}
    )
    enable_prefix_caching: bool = field(
        default=True, metadata={"help": "reuse KV blocks of equal prefixes"}
    )
    prefix_cache_dir: str | None = field(
        default=None,
        metadata={"help": "private folder that keeps KV blocks, hence users' texts, over restarts"},
    )
    prefix_cache_disk_bytes: int | None = field(
        default=None, metadata={"help": "most bytes in prefix_cache_dir; auto is 10G"}
    )
    enable_chunked_prefill: bool = field(
        default=True, metadata={"help": "split long prompts over several steps"}
    )
    scheduling_policy: str = field(
        default="fcfs", metadata={"help": "fcfs, priority, shortest_remaining, or an entry point"}
    )
    speculative: Speculation = field(
        default="off",
        metadata={"help": "guess tokens from the text (ngram) and past outputs too (suffix)"},
    )
    num_speculative_tokens: int | None = field(
        default=None, metadata={"help": "most tokens guessed per request and step; auto is 8"}
    )
    threads: int | None = field(
        default=None, metadata={"help": "compute threads; default: the cores this process may use"}
    )
    backend: BackendName = field(
        default="auto",
        metadata={
            "help": "which kernels run the model; auto is native, or torch on other devices, or"
            " transformers for a model that only it knows"
        },
    )
    device: str = field(
        default="auto",
        metadata={
            "help": "of torch and transformers: cuda (NVIDIA, AMD), xpu, npu, hpu, xla, mps or cpu,"
            " or one of several as in cuda:1; auto takes the first it finds"
        },
    )
    instruction_set: InstructionSet = field(
        default="auto", metadata={"help": "instruction set of the native kernels"}
    )
    tuning: str = field(
        default="auto",
        metadata={"help": "of the native kernels: what `quire tune` kept, off, or a file of it"},
    )
    generation_config: str = field(
        default="auto",
        metadata={"help": "sampling defaults: auto takes the model's, 'vllm' takes none"},
    )
    strict_config: bool = field(
        default=False, metadata={"help": "refuse config.json keys that Quire does not know"}
    )
    seed: int = field(default=0, metadata={"help": "seed of dummy weights and unseeded sampling"})
    hf_overrides: Mapping[str, Any] = field(
        default_factory=dict, metadata={"help": "JSON object merged into config.json"}
    )

    def __post_init__(self) -> None:
        for name, kind in _CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                allowed = ", ".join(get_args(kind))
                raise ConfigError(f"{name} is {getattr(self, name)!r}; choose one of {allowed}")
        counts = ("max_num_seqs", "max_num_batched_tokens", "max_num_queued_reqs")
        for name in counts:
            _require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        sizes = ("max_model_len", "kv_cache_memory_bytes", "prefix_cache_disk_bytes")
        for name in (*sizes, "num_speculative_tokens", "threads"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "1 or more")
        _require(self.block_size in (16, 32), "block_size", self.block_size, "16 or 32")
        share = self.memory_utilization
        _require(0 < share <= 1, "memory_utilization", share, "above 0 and at most 1")
        if self.prefix_cache_dir is not None and not self.enable_prefix_caching:
            raise ConfigError("prefix_cache_dir needs enable_prefix_caching; leave out one of them")
        if self.kv_offloading_size is not None and not self.enable_prefix_caching:
            raise ConfigError(
                "kv_offloading_size needs enable_prefix_caching; leave out one of them"
            )
        if self.prefix_cache_disk_bytes is not None and self.prefix_cache_dir is None:
            raise ConfigError("prefix_cache_disk_bytes bounds prefix_cache_dir; give that too")
        if self.num_speculative_tokens is not None and self.speculative == "off":
            raise ConfigError(
                "num_speculative_tokens bounds what speculative guesses, which is off; set it to "
                "ngram or suffix"
            )
        offload, kept = self.cpu_offload_gb, self.kv_offloading_size
        _require(offload is None or offload >= 0, "cpu_offload_gb", offload, "0 or more")
        _require(kept is None or kept > 0, "kv_offloading_size", kept, "more than 0")
        self._check_backend()

    @classmethod
    def from_options(cls, model: str, options: Mapping[str, Any]) -> EngineConfig:
        """A config from options by name; ConfigError, with the nearest name, for one unknown."""
        for name in options:
            if name not in cls.names():
                near = difflib.get_close_matches(name, cls.names(), 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ConfigError(f"there is no option {name!r}{hint}")
        return cls(model, **options)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The option names, in order."""
        return tuple(option.name for option in fields(cls))

    @property
    def max_drafts(self) -> int:
        """Most tokens guessed per request and step; 0 without speculation."""
        return 0 if self.speculative == "off" else self.num_speculative_tokens or DEFAULT_DRAFTS

    @property
    def backend_in_use(self) -> Literal["native", "reference", "torch", "transformers"]:
        """The backend that "auto" means for a model that Quire has a family for."""
        if self.backend != "auto":
            return self.backend
        return "native" if self.device in ("auto", "cpu") else "torch"

    def _check_backend(self) -> None:
        """Refuse what the backend in use would not heed."""
        backend = self.backend_in_use
        if self.tuning not in ("auto", "off") and backend != "native":
            raise ConfigError(
                f"tuning is {self.tuning!r}, but the {backend} backend has nothing to tune; leave "
                "out one of them"
            )
        of_torch = backend in ("torch", "transformers")
        if self.instruction_set != "auto" and backend != "native":
            raise ConfigError(
                f"instruction_set is {self.instruction_set!r}, which is for the native backend, "
                f"not for {backend}; leave out one of them"
            )
        for name in ("cpu_offload_gb", "kv_offloading_size"):
            if getattr(self, name) and backend != "torch":
                raise ConfigError(
                    f"{name} is for weights and blocks of other devices, which only the torch "
                    f"backend moves, and backend is {backend!r}; leave it out"
                )
        if self.device not in ("auto", "cpu") and not of_torch:
            raise ConfigError(
                f"device is {self.device!r}, and the {backend} backend runs on the CPU; set "
                "backend to torch"
            )


_CHOICES: Mapping[str, Any] = {
    "task": Task,
    "source": Source,
    "load_format": LoadFormat,
    "dtype": Dtype,
    "quantization": Quantization,
    "kv_cache_dtype": KvCacheDtype,
    "backend": BackendName,
    "instruction_set": InstructionSet,
    "speculative": Speculation,
}


def cache_directory() -> Path:
    """Where Quire keeps what it can make again: QUIRE_CACHE_DIR, else the user's cache."""
    base = os.environ.get("QUIRE_CACHE_DIR")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quire"


def _require(good: bool, name: str, value: object, wanted: str) -> None:
    if not good:
        raise ConfigError(f"{name} is {value!r}; give {wanted}")
