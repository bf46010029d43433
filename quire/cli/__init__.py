"""The command line: one file per command, options derived from the config dataclasses."""
