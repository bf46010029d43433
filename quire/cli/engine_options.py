"""The options of a model and its engine, which most commands share."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import fields
from typing import Any

from quire.cli.aliases import add_refusals
from quire.cli.options import add_options, given_options
from quire.cli.parser import CommandParser
from quire.cli.usage import UsageError
from quire.config import EngineConfig

__all__ = ["add_engine_options", "chosen_model", "engine_config", "engine_options"]


def add_engine_options(parser: CommandParser, only: Collection[str] = ()) -> None:
    """Add the model argument and the options of EngineConfig; `only` these, if any are named."""
    names = [option.name for option in fields(EngineConfig)]
    skip = [name for name in names if only and name not in only and name != "model"]
    parser.accept_config_file()
    # Before the argument itself, whose value would else be lost to this option's absence.
    parser.add_argument("--model", "--model-path", "-m", dest="model", help=argparse.SUPPRESS)
    add_options(parser, "engine", EngineConfig, skip)
    add_refusals(parser)


def engine_config(namespace: argparse.Namespace) -> EngineConfig:
    """The config that the options ask for.  Raises ConfigError for a value out of range."""
    return EngineConfig(chosen_model(namespace), **engine_options(namespace))


def engine_options(namespace: argparse.Namespace) -> dict[str, Any]:
    """The options of EngineConfig that were given, without the model."""
    options = given_options(namespace, EngineConfig)
    options.pop("model", None)
    return options


def chosen_model(namespace: argparse.Namespace) -> str:
    """The model argument.  Raises UsageError when there is none."""
    model: str | None = getattr(namespace, "model", None)
    if model is None:
        raise UsageError(
            "which model? give a directory, a .gguf file, org/name on the hub, or 'demo'"
        )
    return model
