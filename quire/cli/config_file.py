"""Reads a file of options, by their long names, as the arguments that it stands for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from quire.errors import ConfigError

__all__ = ["read_arguments"]


def read_arguments(path: str) -> list[str]:
    """The command line that a config file says: {"port": 80} is --port=80.

    true and false switch an option on and off, a list gives several values, an object is JSON, null
    leaves the option out; `model` is the positional argument.  Raises ConfigError, naming the file,
    for one that is not there or not an object.
    """
    values = _read(Path(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}; expected options by name")
    model = values.pop("model", None)
    arguments = [] if model is None else [str(model)]
    for name, value in values.items():
        arguments += _arguments(str(name).replace("_", "-"), value)
    return arguments


def _arguments(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, list):
        return [f"--{name}={item}" for item in value]
    return [f"--{name}={json.dumps(value) if isinstance(value, dict) else value}"]


def _read(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read --config {path}: {error}") from None
    try:
        return _parse(text, path.suffix.lower())
    except ValueError as error:
        raise ConfigError(f"{path} cannot be parsed: {error}") from None


def _parse(text: str, suffix: str) -> Any:
    if suffix == ".json":
        return json.loads(text)
    if suffix == ".toml":
        return _parse_toml(text)
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def _parse_toml(text: str) -> Any:
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib.loads(text)
    raise ConfigError("reading TOML needs Python 3.11; write the file as YAML or JSON")
