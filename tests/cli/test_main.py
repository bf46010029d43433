"""The command line as a whole: commands, exit codes, errors in one line, imports put off."""

from __future__ import annotations

import subprocess
import sys

import pytest

from quire.cli.main import COMMANDS, main

HEAVY = ("numpy", "starlette", "uvicorn", "tokenizers", "jinja2", "huggingface_hub", "torch")


def modules_after(*arguments: str) -> set[str]:
    """Everything that is imported once a command line has run in a fresh process."""
    code = (
        "import sys, contextlib, io\n"
        "from quire.cli.main import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        f"    main({list(arguments)!r})\n"
        "print(*sys.modules)"
    )
    return set(subprocess.check_output([sys.executable, "-c", code], text=True).split())


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)


def test_no_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: quire COMMAND" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("quire 0.")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["srve"], 2, "quire: error: there is no command 'quire srve'; did you mean serve?"),
        (
            ["bench", "late"],
            2,
            "quire: error: there is no command 'quire bench late'; did you mean",
        ),
        (["zzz"], 2, "choose one of serve, chat,"),
        (["serve"], 2, "which model?"),
        (["serve", "demo", "--prot", "1"], 2, "there is no option --prot; did you mean --port?"),
        (["serve", "demo", "extra"], 2, "unexpected argument 'extra'"),
        (["serve", "demo", "--port", "x"], 2, "--port/--server-port: 'x' is not an integer"),
        (["serve", "demo", "--port", "70000"], 1, "port is 70000; give 0 to 65535"),
        (["serve", "demo", "--block-size", "7"], 1, "block_size is 7; give 16 or 32"),
        (["explain", "/no/such/model"], 1, "/no/such/model: no such directory"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith("quire: error: ") and err.count("\n") == 1


def test_debug_raises() -> None:
    with pytest.raises(Exception, match="no such directory"):
        main(["explain", "/no/such/model", "--debug"])


def test_each_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS.keys() - {"bench"}:
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        assert stopped.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: quire {name} ")


def test_overview_imports_next_to_nothing() -> None:
    assert not modules_after("--help") & {*HEAVY, "argparse", "dataclasses", "difflib"}


@pytest.mark.parametrize("command", ["serve", "chat", "generate", "explain", "doctor"])
def test_help_of_a_command_imports_nothing_heavy(command: str) -> None:
    assert not modules_after(command, "--help") & set(HEAVY)


def test_python_m_quire() -> None:
    run = subprocess.run([sys.executable, "-m", "quire", "--version"], capture_output=True)
    assert run.returncode == 0 and run.stdout.startswith(b"quire ")


def test_a_reader_that_leaves_early_is_no_error() -> None:
    """As in `quire explain demo | head -1`."""
    command = f"{sys.executable} -m quire --help | head -c 1; exit ${{PIPESTATUS[0]}}"
    run = subprocess.run(["bash", "-c", command], capture_output=True)
    assert run.returncode == 0 and not run.stderr
