"""`quire serve MODEL`: serve a model over HTTP with the OpenAI API."""

from __future__ import annotations

import argparse

from quire.cli.engine_options import add_engine_options, engine_config
from quire.cli.options import add_options, given_options
from quire.cli.parser import CommandParser
from quire.server.config import ServerConfig

__all__ = ["add_arguments", "run"]


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    add_options(parser, "server", ServerConfig)
    add_engine_options(parser)


def run(namespace: argparse.Namespace) -> int:
    """Serve until a signal; both configs are checked before anything heavy is imported."""
    config = engine_config(namespace)
    server = ServerConfig(**given_options(namespace, ServerConfig))
    from quire.server.serve import serve

    return serve(config, server)
