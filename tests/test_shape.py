"""The shape of the package: docstrings, exported names, file names, import time, dependencies.

The order of imports between layers is checked by `scripts/check`.
"""

from __future__ import annotations

import ast
import functools
import importlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.installed import packages

PACKAGE = Path(__file__).parents[1] / "quire"
MODULES = sorted(PACKAGE.rglob("*.py"))
BANNED = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}
MAX_PACKAGES = 30
MAX_IMPORT_S = 0.15


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@functools.cache
def trees() -> dict[str, ast.Module]:
    """The syntax tree of every module that is not empty, by its path."""
    texts = {name_of(path): path.read_text(encoding="utf-8") for path in MODULES}
    return {name: ast.parse(text) for name, text in texts.items() if text.strip()}


def exported(tree: ast.Module) -> list[str] | None:
    """The value of __all__, None when there is none."""
    for node in tree.body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            value = ast.literal_eval(node.value)  # type: ignore[attr-defined]
            assert isinstance(value, list)
            return value
    return None


def public_definitions(tree: ast.Module) -> set[str]:
    """The classes and functions that a module defines without an underscore."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = {node.name for node in tree.body if isinstance(node, kinds)}
    return {name for name in found if not name.startswith("_")}


def is_script(tree: ast.Module) -> bool:
    """Whether the module is run rather than imported."""
    return any("__main__" in ast.dump(node) for node in tree.body if isinstance(node, ast.If))


@pytest.mark.parametrize("name", sorted(trees()))
def test_module_says_what_it_is(name: str) -> None:
    docstring = ast.get_docstring(trees()[name])
    assert docstring, f"{name} has no docstring"
    assert docstring.partition("\n")[0].rstrip().endswith((".", ":")), docstring.partition("\n")[0]


def test_public_names_are_exported() -> None:
    """Every module that is imported names each public definition in its __all__, once."""
    wrong = []
    for name, tree in trees().items():
        if is_script(tree):
            continue
        public, listed = public_definitions(tree), exported(tree)
        if listed is None:
            wrong += [f"{name} has no __all__"] if public else []
            continue
        wrong += [f"{name}: {each} is not in __all__" for each in public - set(listed)]
        if len(set(listed)) != len(listed):
            wrong.append(f"{name}: __all__ names something twice")
    assert not wrong, "\n".join(wrong)


def test_exported_names_exist() -> None:
    missing = []
    for name, tree in trees().items():
        if name.startswith("backends/torch/") and not all(map(find_spec, ("torch", "triton"))):
            continue
        module = "quire." + name.removesuffix(".py").replace("/", ".").removesuffix("__init__")
        loaded = importlib.import_module(module.rstrip("."))
        missing += [f"{name}: {each}" for each in exported(tree) or () if not hasattr(loaded, each)]
    assert not missing, "\n".join(missing)


def test_file_names_are_concepts() -> None:
    assert not [name_of(path) for path in MODULES if path.stem in BANNED]


def test_import_is_quick_and_light() -> None:
    """Processor time, best of five, so that a busy machine does not fail it."""
    code = (
        "import sys, time; start = time.process_time(); import quire\n"
        "print(time.process_time() - start, bool({'numpy', 'torch'} & {*sys.modules}))"
    )
    runs = [
        subprocess.check_output([sys.executable, "-c", code], text=True).split() for _ in range(5)
    ]
    assert {is_heavy for _, is_heavy in runs} == {"False"}
    assert min(float(seconds) for seconds, _ in runs) <= MAX_IMPORT_S


def test_only_the_torch_backend_imports_torch() -> None:
    """A model that runs natively does not."""
    code = (
        "import sys; from quire import LLM, SamplingParams; llm = LLM('demo', threads=1)\n"
        "llm.generate('Once', SamplingParams(max_tokens=2), use_tqdm=False)\n"
        "print({'torch', 'triton', 'transformers'} & {*sys.modules})"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_install_is_small() -> None:
    found = packages()
    assert "numpy" in found and "tokenizers" in found
    assert len(found) <= MAX_PACKAGES, sorted(found)
    assert not found & {"torch", "transformers", "pydantic", "rich", "typer", "aiohttp"}
