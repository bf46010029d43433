"""What a quantization run is asked for: options, steps, and a scheme for each matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from quire.convert.scheme import SCHEMES, Scheme, find_scheme
from quire.errors import ConfigError
from quire.models.spec import ModelSpec

__all__ = ["ALGORITHMS", "Algorithms", "CheckpointFormat", "Quantization", "assign", "module_of"]

CheckpointFormat = Literal["compressed-tensors", "awq", "gptq", "gguf"]

ALGORITHMS: Mapping[str, str] = {
    "rtn": "round to nearest, each range as wide as its group",
    "mse": "round to nearest, ranges searched; needs no calibration",
    "awq": "scale what meets large activations, ranges searched on them",
    "gptq": "round column by column, later columns make up for errors",
    "smoothquant": "move outliers of activations into weights",
    "hadamard": "rotate the residual stream and the values",
}


@dataclass(frozen=True, slots=True)
class Quantization:
    """What to do to a model.  Raises ConfigError, naming the option, for what cannot be done."""

    scheme: str = field(
        default="w4a16", metadata={"help": f"how matrices are stored: {', '.join(SCHEMES)}"}
    )
    algorithm: str = field(
        default="auto",
        metadata={"help": f"{', '.join(ALGORITHMS)}, or several joined by '+', as awq+gptq"},
    )
    group_size: int | None = field(
        default=None, metadata={"help": "columns that share a scale, where the scheme has groups"}
    )
    override: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "PATTERN=SCHEME for matrices by name, as down_proj=w8a16 or lm_head=none"
        },
    )
    target: str | None = field(
        default=None,
        metadata={"help": "kl=0.02 or size=0.5: raise matrices to 8 bits until this holds"},
    )
    format: CheckpointFormat = field(
        default="compressed-tensors", metadata={"help": "of the checkpoint that is written"}
    )
    calibration: tuple[str, ...] = field(
        default=(), metadata={"help": ".txt or .jsonl files; default: texts that ship with Quire"}
    )
    calibration_tokens: int = field(default=8192, metadata={"help": "most tokens to calibrate on"})
    evaluation: tuple[str, ...] = field(
        default=(), metadata={"help": "files for the report; default: calibration text held back"}
    )
    evaluation_tokens: int = field(
        default=4096, metadata={"help": "most tokens to measure the report's figures on"}
    )
    sequence_length: int = field(default=512, metadata={"help": "tokens of a sequence"})
    seed: int = field(default=0, metadata={"help": "of rotations"})

    def __post_init__(self) -> None:
        for name in ("calibration_tokens", "evaluation_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give 1 or more")
        if self.sequence_length < 8:
            raise ConfigError(f"sequence_length is {self.sequence_length}; give 8 or more")
        find_scheme(self.scheme, self.group_size)
        Algorithms.of(self)


@dataclass(frozen=True, slots=True)
class Algorithms:
    """The steps of a run, in order: rotate, scale, round."""

    rotation: bool
    scaling: Literal["awq", "smoothquant"] | None
    rounding: Literal["gptq", "calibrated", "mse", "rtn"]

    @classmethod
    def of(cls, asked: Quantization) -> Algorithms:
        """The steps that an option like "smoothquant+gptq" asks for.  Raises ConfigError."""
        names = (
            _usual(asked).split("+") if asked.algorithm == "auto" else asked.algorithm.split("+")
        )
        for name in names:
            if name not in ALGORITHMS:
                raise ConfigError(
                    f"there is no algorithm {name!r}; choose auto, {', '.join(ALGORITHMS)}, "
                    "or several of them joined by '+'"
                )
        if len(set(names)) != len(names) or {"awq", "smoothquant"} <= set(names):
            raise ConfigError(f"algorithm {asked.algorithm!r} scales twice; take one of them away")
        roundings: list[Literal["gptq", "mse", "rtn"]] = ["gptq", "mse", "rtn"]
        named = [name for name in roundings if name in names]
        if len(named) > 1:
            raise ConfigError(f"algorithm {asked.algorithm!r} rounds twice; take one of them away")
        scaling: Literal["awq", "smoothquant"] | None = None
        if "awq" in names or "smoothquant" in names:
            scaling = "awq" if "awq" in names else "smoothquant"
        return cls("hadamard" in names, scaling, named[0] if named else _usual_rounding(scaling))

    @property
    def observes(self) -> bool:
        """Whether calibration inputs are looked at."""
        return self.scaling is not None or self.rounding == "gptq"

    def __str__(self) -> str:
        names = ["hadamard"] * self.rotation + ([self.scaling] if self.scaling else [])
        if not names or self.rounding != _usual_rounding(self.scaling):
            names.append(self.rounding)
        return "+".join(names)


def assign(spec: ModelSpec, asked: Quantization) -> dict[str, Scheme]:
    """The scheme of every matrix that is to be quantized, by its weight's name.

    All linear layers of the blocks, and what an override names; the last that fits decides.
    Raises ConfigError for an override that fits nothing, or a tied head.
    """
    schemes: dict[str, Scheme] = {}
    usual = find_scheme(asked.scheme, asked.group_size)
    rules = [_rule(each) for each in asked.override]
    used: set[str] = set()
    for linear in spec.linears():
        name = linear.weight.name
        is_head = linear is spec.head
        scheme: Scheme | None = None if is_head else usual
        for pattern, overriding in rules:
            if _fits(module_of(name), pattern):
                scheme = overriding
                used.add(pattern)
        if is_head and scheme is not None and spec.tied:
            raise ConfigError(
                f"{module_of(name)} is also the head (tied); it is left as it is: leave out its "
                "override"
            )
        if scheme is not None:
            schemes[name] = scheme
    for pattern, _ in rules:
        if pattern not in used:
            names = ", ".join(module_of(each.weight.name) for each in list(spec.linears())[:7])
            raise ConfigError(f"override {pattern!r} fits no matrix; there are {names}, …")
    if not schemes:
        raise ConfigError("the overrides leave no matrix to quantize; leave one of them out")
    return schemes


def module_of(weight: str) -> str:
    """The name of a layer, given that of its weight."""
    return weight.removesuffix(".weight")


def _usual_rounding(scaling: str | None) -> Literal["calibrated", "mse"]:
    return "calibrated" if scaling == "awq" else "mse"


def _usual(asked: Quantization) -> str:
    """What a scheme is best served by; docs/quant/evidence.md has the figures."""
    scheme = find_scheme(asked.scheme)
    if scheme.numbers == "float8":
        return "rtn"
    if scheme.bits == 8:
        return "smoothquant" if scheme.activations else "rtn"
    return "awq+gptq"


def _rule(text: str) -> tuple[str, Scheme | None]:
    pattern, equals, name = text.partition("=")
    if not equals or not pattern:
        raise ConfigError(f"override is {text!r}; give PATTERN=SCHEME, as down_proj=w8a16")
    return pattern, None if name == "none" else find_scheme(name)


def _fits(module: str, pattern: str) -> bool:
    """Whether a pattern names a module in full or by its last parts."""
    return fnmatchcase(module, pattern) or fnmatchcase(module, f"*.{pattern}")
