"""Schemes and algorithms on the demo model, and on one with planted outliers.

    python -m bench.quantization --write docs/quant/evidence.md

Fills the tables between the marks of that page, and writes it behind every row.  A row that stands
there is kept; delete it to measure it again.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.page import between_marks, replace_between_marks
from quire.config import EngineConfig
from quire.convert.evaluate import evaluate_texts
from quire.convert.foldings import foldings
from quire.convert.recipe import Quantization
from quire.convert.run import quantize_to_directory
from quire.convert.safetensors_file import write_safetensors
from quire.convert.served_model import ServedModel
from quire.convert.source import open_source
from quire.models.spec import Norm
from quire.weights.hub import DEMO

TEXTS = tuple(str(DEMO / f"heldout.{language}.txt") for language in ("en", "zh"))
FEW_BITS = ("rtn", "mse", "awq", "gptq", "awq+gptq")
OF_DEMO = (
    ("w3a16", (*FEW_BITS, "smoothquant", "hadamard")),
    ("w4a16", (*FEW_BITS, "smoothquant", "hadamard")),
    ("w4a16_asym", FEW_BITS),
    ("w8a16", ("rtn", "gptq")),
    ("w4a8", ("rtn", "gptq", "awq+gptq", "smoothquant")),
    ("w8a8", ("rtn", "gptq", "smoothquant", "hadamard")),
    ("fp8_w8a16", ("rtn", "gptq")),
    ("fp8", ("rtn", "gptq", "hadamard")),
    ("mxfp4", ("rtn", "mse", "gptq", "awq+gptq", "hadamard")),
)
PLANTED = (
    ("w4a16", ("rtn", "mse", "awq", "gptq", "awq+gptq", "hadamard")),
    ("w8a8", ("rtn", "smoothquant", "smoothquant+gptq", "hadamard")),
    ("w4a8", ("rtn", "awq", "smoothquant", "smoothquant+gptq")),
)
LOUD_CHANNELS, LOUDER = 8, 64
KV_FORMATS = ("int8", "fp8", "int4")
KV_HEAD = ("| KV cache | English | Chinese | KL |", "| --- | --- | --- | --- |")
HEAD = (
    "| scheme | algorithm | perplexity | change | KL mean | KL p99 | same top token | "
    "served: English | Chinese | KL |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
)
TABLES = {"demo": HEAD, "planted": HEAD, "kv": KV_HEAD}

Case = tuple[str, str, str]
"""Table, scheme and algorithm of a row."""


def main() -> None:
    """Measure the rows that the page lacks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", type=Path, required=True, help="the page with the tables")
    parser.add_argument("--only", default="", help="part of TABLE/SCHEME/ALGORITHM to measure")
    parser.add_argument("--most", type=int, default=10**6, help="rows to measure in this run")
    options = parser.parse_args()
    page: Path = options.write
    missing = [each for each in cases() if each not in rows_of(page)]
    wanted = [each for each in missing if options.only in "/".join(each)]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        models = {"demo": DEMO, "planted": plant_outliers(scratch / "planted")}
        for case in wanted[: options.most]:
            table, scheme, algorithm = case
            if table == "kv":
                row = kv_row(scheme)
            else:
                row = measured(models[table], scheme, algorithm, scratch / "quantized")
            print(table, row, flush=True)
            add_row(page, case, row)


def cases() -> Iterator[Case]:
    """Every row."""
    for table, schemes in (("demo", OF_DEMO), ("planted", PLANTED)):
        for name, algorithms in schemes:
            for algorithm in algorithms:
                yield table, name, algorithm
    for name in KV_FORMATS:
        yield "kv", name, ""


def rows_of(page: Path) -> dict[Case, str]:
    """The rows that stand in the tables of a page."""
    found = {}
    for table in TABLES:
        for row in between_marks(page, f"table: {table}").splitlines()[2:]:
            first, second = (cell.strip() for cell in row.split("|")[1:3])
            found[table, first, "" if table == "kv" else second] = row
    return found


def add_row(page: Path, case: Case, row: str) -> None:
    """Put a row where it belongs; rows of no case are left out."""
    rows = {**rows_of(page), case: row}
    table = case[0]
    lines = [*TABLES[table], *(rows[each] for each in cases() if each[0] == table and each in rows)]
    replace_between_marks(page, f"table: {table}", "\n".join(lines) + "\n")


def measured(model: Path, scheme: str, algorithm: str, output: Path) -> str:
    """One row."""
    shutil.rmtree(output, ignore_errors=True)
    asked = Quantization(scheme, algorithm, evaluation=TEXTS, evaluation_tokens=10**6)
    config = EngineConfig(str(model))
    figures = quantize_to_directory(
        config, asked, output, show_progress=False, measure_speed=False
    )["figures"]
    original = ServedModel(config, 512)
    return f"| {scheme} | {algorithm} | {simulated(figures)} | {served(output, original)} |"


def simulated(figures: dict[str, float]) -> str:
    """The report's figures, over both languages."""
    change = figures["perplexity"] / figures["perplexity_original"] - 1
    return (
        f"{figures['perplexity']:.2f} | {change:+.2%} | {figures['kl_mean']:.5f} | "
        f"{figures['kl_p99']:.4f} | {figures['top1_agreement']:.2%}"
    )


def served(directory: Path, original: ServedModel) -> str:
    """What the kernels that serve give: perplexities and the mean divergence of both texts."""
    model = ServedModel(EngineConfig(str(directory)), 512)
    found = evaluate_texts(model, original, TEXTS, 512)
    tokens = sum(each["tokens"] for each in found)
    kl = sum(each["kl_mean"] * each["tokens"] for each in found) / tokens
    changes = [each["perplexity"] / each["perplexity_original"] - 1 for each in found]
    shown = [
        f"{each['perplexity']:.2f} ({change:+.2%})"
        for each, change in zip(found, changes, strict=True)
    ]
    return f"{' | '.join(shown)} | {kl:.5f}"


def kv_row(name: str) -> str:
    """A format of the KV cache with the weights as they are."""
    original = ServedModel(EngineConfig(str(DEMO)), 512)
    model = ServedModel(EngineConfig(str(DEMO), kv_cache_dtype=name), 512)  # type: ignore[arg-type]
    found = evaluate_texts(model, original, TEXTS, 512)
    changes = [each["perplexity"] / each["perplexity_original"] - 1 for each in found]
    shown = [
        f"{each['perplexity']:.3f} ({change:+.3%})"
        for each, change in zip(found, changes, strict=True)
    ]
    kl = sum(each["kl_mean"] for each in found) / len(found)
    return f"| {name} | {' | '.join(shown)} | {kl:.6f} |"


def plant_outliers(directory: Path) -> Path:
    """The demo model with loud channels behind every norm: the same model, by powers of two.

    A few elements of each norm's weight are multiplied by 64, the columns that read them divided.
    """
    directory.mkdir()
    for path in DEMO.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copy(path, directory)
    source = open_source(EngineConfig(str(DEMO)))
    random = np.random.default_rng(0)
    for block in source.spec.blocks:
        for folding in foldings(block):
            if not isinstance(folding.source, Norm):
                continue
            factors = np.ones(source.spec.width, np.float32)
            factors[random.choice(len(factors), LOUD_CHANNELS, replace=False)] = LOUDER
            norm = folding.source_names[0]
            for name in (norm, *(each.weight.name for each in folding.targets)):
                values = source.weights[name].float32()
                changed = values * factors if name == norm else values / factors
                source.weights[name] = source.stored(name, changed)
    write_safetensors(directory / "model.safetensors", list(source.weights.values()))
    return directory


if __name__ == "__main__":
    main()
