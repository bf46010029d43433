"""Options made of dataclass fields, config files, aliases and refusals."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import pytest

from quire.cli.aliases import ALIASES
from quire.cli.engine_options import add_engine_options, engine_config
from quire.cli.options import add_options, given_options
from quire.cli.parser import CommandParser
from quire.cli.usage import UsageError
from quire.config import EngineConfig
from quire.errors import ConfigError
from quire.server.config import ServerConfig


@dataclass(frozen=True)
class Sample:
    """One field of every kind."""

    count: int = field(default=1, metadata={"help": "100% of it"})
    limit: int | None = field(default=None, metadata={"help": "h"})
    share: float = field(default=0.5, metadata={"help": "h"})
    name: str | None = field(default=None, metadata={"help": "h"})
    mode: Literal["a", "b"] = field(default="a", metadata={"help": "h"})
    enable_x: bool = field(default=True, metadata={"help": "h"})
    words: tuple[str, ...] = field(default=(), metadata={"help": "h"})
    ids: tuple[int, ...] | None = field(default=None, metadata={"help": "h"})
    extra: Mapping[str, Any] = field(default_factory=dict, metadata={"help": "h"})


def parse(*arguments: str) -> dict[str, Any]:
    parser = CommandParser("quire test", "a test")
    parser.accept_config_file()
    add_options(parser, "sample", Sample)
    return given_options(parser.parse(arguments), Sample)


def parse_engine(*arguments: str) -> EngineConfig:
    parser = CommandParser("quire test", "a test")
    add_engine_options(parser)
    return engine_config(parser.parse(arguments))


def test_nothing_given_is_nothing() -> None:
    assert parse() == {}


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["--count", "2k"], {"count": 2000}),
        (["--count=-3"], {"count": -3}),
        (["--limit", "auto"], {"limit": None}),
        (["--limit", "4K"], {"limit": 4096}),
        (["--share", "0.25"], {"share": 0.25}),
        (["--name", "auto"], {"name": "auto"}),
        (["--mode", "b"], {"mode": "b"}),
        (["--enable-x"], {"enable_x": True}),
        (["--no-enable-x"], {"enable_x": False}),
        (["--enable_x", "--share=1"], {"enable_x": True, "share": 1.0}),
        (["--words", "a", "b"], {"words": ["a", "b"]}),
        (["--words", "a", "--words", "b"], {"words": ["a", "b"]}),
        (["--ids", "1", "2k"], {"ids": [1, 2000]}),
        (["--extra", '{"a": 1}'], {"extra": {"a": 1}}),
    ],
)
def test_each_kind_of_field(arguments: list[str], given: dict[str, Any]) -> None:
    assert parse(*arguments) == given


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mode", "c"], "--mode: invalid choice: 'c'"),
        (["--share", "x"], "--share: invalid float value: 'x'"),
        (["--extra", "[1]"], "--extra: '[1]' is not a JSON object"),
        (["--cont", "1"], "there is no option --cont; did you mean --count?"),
        (["--count"], "--count: expected one argument"),
        (["--zzzzzz"], "there is no option --zzzzzz; see quire test --help"),
    ],
)
def test_what_is_wrong_is_named(arguments: list[str], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(*arguments)
    assert said in str(raised.value)


def test_help_shows_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    out = capsys.readouterr().out
    assert "100% of it (default: 1)" in out
    assert "--enable-x, --no-enable-x" in out and "(default: on)" in out


CONFIG: dict[str, Any] = {
    "count": "3k",
    "enable-x": False,
    "words": ["a", "-b"],
    "extra": {"x": [1, 2]},
    "name": None,
    "share": -1,
}
GIVEN = {
    "count": 3000,
    "enable_x": False,
    "words": ["a", "-b"],
    "extra": {"x": [1, 2]},
    "share": -1,
}
YAML = """\
count: 3k
enable-x: false
words: [a, "-b"]
extra: {x: [1, 2]}
name:
share: -1
"""
TOML = 'count = "3k"\nenable-x = false\nwords = ["a", "-b"]\nshare = -1\n[extra]\nx = [1, 2]\n'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.json", json.dumps(CONFIG)),
        ("c.yaml", YAML),
        ("c.yml", YAML.replace("enable-x", "enable_x")),
        pytest.param(
            "c.toml",
            TOML,
            marks=pytest.mark.skipif(
                sys.version_info < (3, 11), reason="tomllib is of Python 3.11"
            ),
        ),
    ],
)
def test_config_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert parse("--config", str(tmp_path / name)) == GIVEN


def test_command_line_beats_config_file(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(CONFIG))
    given = parse("--config", str(path), "--count", "5", "--words", "z")
    assert given == {**GIVEN, "count": 5, "words": ["z"]}


def test_model_in_config_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model: demo\nseed: 7\n")
    assert parse_engine("--config", str(path)) == EngineConfig("demo", seed=7)
    assert parse_engine("other", "--config", str(path)).model == "other"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be parsed"),
        ("[1]", "holds a list; expected options by name"),
        ('{"cuont": 1}', "there is no option --cuont; did you mean --count?"),
        ('{"mode": "q"}', "invalid choice: 'q'"),
    ],
)
def test_errors_in_a_config_file_name_it(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        parse("--config", str(path))
    assert "c.json" in str(raised.value) and said in str(raised.value)


def test_missing_config_file() -> None:
    with pytest.raises(ConfigError, match="cannot read --config"):
        parse("--config", "/no/such/file.yaml")


def test_every_config_field_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    parser = CommandParser("quire test", "a test")
    add_options(parser, "server", ServerConfig)
    add_engine_options(parser)
    for option in (*fields(EngineConfig), *fields(ServerConfig)):
        if option.name != "model":
            assert f"--{option.name.replace('_', '-')}" in parser.format_help()


def test_engine_defaults_are_the_config_s() -> None:
    assert parse_engine("demo") == EngineConfig("demo")


def test_aliases_are_the_same_option() -> None:
    assert parse_engine("demo", "--gpu-memory-utilization", "0.5").memory_utilization == 0.5
    assert parse_engine("demo", "--context-length", "1k").max_model_len == 1000
    assert parse_engine("--model", "demo") == parse_engine("--model-path", "demo")
    names = {option.name for option in (*fields(EngineConfig), *fields(ServerConfig))}
    assert set(ALIASES) <= names | {"n"}


@pytest.mark.parametrize("flag", ["--tensor-parallel-size", "-tp", "--pipeline-parallel-size"])
def test_parallel_sizes(flag: str) -> None:
    assert parse_engine("demo", flag, "1") == EngineConfig("demo")
    with pytest.raises(UsageError, match=f"{flag} 2 is not supported: one model runs in one"):
        parse_engine("demo", flag, "2")


def test_refused_switches_say_why() -> None:
    with pytest.raises(UsageError, match="--trust-remote-code is not supported: a model's own"):
        parse_engine("demo", "--trust-remote-code")


@pytest.mark.parametrize("flag", ["-q", "--quantization"])
def test_quantization(flag: str) -> None:
    for value in ("auto", "int4", "int8"):
        assert parse_engine("demo", flag, value).quantization == value
    for value in ("awq", "none", "4"):
        with pytest.raises(UsageError, match=r"quantization.*: invalid choice: .*int4.*int8"):
            parse_engine("demo", flag, value)


def test_a_checkpoint_s_own_quantization_needs_no_option() -> None:
    with pytest.raises(UsageError, match=r"'awq'.*quantized already is served as it is"):
        parse_engine("demo", "--quantization", "awq")


def test_values_of_other_engines_are_understood() -> None:
    assert parse_engine("demo", "--dtype", "half").dtype == "float16"
    assert parse_engine("demo", "--kv-cache-dtype", "fp8_e4m3").kv_cache_dtype == "fp8"


def test_options_of_llama_server() -> None:
    line = "-m demo -c 512 -t 1 -np 4 --jinja -fa on -ngl 0"
    assert parse_engine(*line.split()) == EngineConfig(
        "demo", max_model_len=512, threads=1, max_num_seqs=4
    )
    with pytest.raises(UsageError, match="-ngl 99 is not supported: layers are not divided"):
        parse_engine("demo", "-ngl", "99")
    with pytest.raises(UsageError, match=r"-ctk q8_0 is not supported: .*--kv-cache-dtype"):
        parse_engine("demo", "-ctk", "q8_0")


def test_a_short_option_is_not_the_beginning_of_another() -> None:
    with pytest.raises(UsageError, match="there is no option -p"):
        parse_engine("demo", "-p", "2")
    with pytest.raises(UsageError, match="there is no option -hf"):
        parse_engine("demo", "-hf", "org/name")
    assert parse_engine("demo", "-t2").threads == 2


def test_what_already_holds_is_accepted() -> None:
    assert parse_engine("demo", "--metrics", "--disable-log-requests") == EngineConfig("demo")
    assert parse_engine("demo", "--enforce-eager") == EngineConfig("demo", enforce_eager=True)
