"""Every scheme with every algorithm on the demo model, and on one with planted outliers.

    python -m bench.quantization --write docs/quant/evidence.md

Fills the tables between the marks of that page; without --write it prints them.  Rows that were
measured before are taken from a file of results; delete it to start anew.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.page import replace_between_marks
from quire.config import EngineConfig
from quire.convert.evaluate import evaluate_texts
from quire.convert.foldings import foldings
from quire.convert.recipe import Quantization
from quire.convert.run import quantize_to_directory
from quire.convert.safetensors_file import write_safetensors
from quire.convert.scheme import SCHEMES
from quire.convert.served_model import ServedModel
from quire.convert.source import open_source
from quire.models.spec import Norm
from quire.weights.hub import DEMO

TEXTS = tuple(str(DEMO / f"heldout.{language}.txt") for language in ("en", "zh"))
ALGORITHMS = ("rtn", "mse", "awq", "gptq", "awq+gptq", "smoothquant", "hadamard")
PLANTED = (
    ("w4a16", ("rtn", "mse", "awq", "gptq", "awq+gptq", "hadamard")),
    ("w8a8", ("rtn", "smoothquant", "smoothquant+gptq", "hadamard")),
    ("w4a8", ("rtn", "awq", "smoothquant", "smoothquant+gptq")),
)
LOUD_CHANNELS, LOUDER = 8, 64
KV_FORMATS = ("int8",)
KV_HEAD = ("| KV cache | English | Chinese | KL |", "| --- | --- | --- | --- |")
HEAD = (
    "| scheme | algorithm | perplexity | change | KL mean | KL p99 | same top token | "
    "served: English | Chinese | KL |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
)


def main() -> None:
    """Measure what is not in the results yet, then print the tables or write them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", type=Path, help="the page whose tables are replaced")
    parser.add_argument("--results", type=Path, default=Path("build/quantization.json"))
    parser.add_argument("--only", default="", help="part of TABLE/SCHEME/ALGORITHM to measure")
    parser.add_argument("--most", type=int, default=10**6, help="rows to measure in this run")
    options = parser.parse_args()
    results = read_results(options.results)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        models = {"demo": DEMO, "planted": plant_outliers(scratch / "planted")}
        missing = [each for each in cases() if "/".join(each) not in results]
        wanted = [each for each in missing if options.only in "/".join(each)]
        for table, scheme, algorithm in wanted[: options.most]:
            if table == "kv":
                line = kv_row(scheme)
            else:
                line = measured(models[table], scheme, algorithm, scratch / "quantized")
            print(table, line, flush=True)
            results["/".join((table, scheme, algorithm))] = line
            options.results.parent.mkdir(parents=True, exist_ok=True)
            options.results.write_text(json.dumps(results, indent=1))
    tables = {"demo": [*HEAD], "planted": [*HEAD], "kv": [*KV_HEAD]}
    for table, scheme, algorithm in cases():
        row = results.get("/".join((table, scheme, algorithm)))
        if row is not None:
            tables[table].append(row)
    for name, lines in tables.items():
        if options.write:
            replace_between_marks(options.write, f"table: {name}", "\n".join(lines) + "\n")
        else:
            print(f"\n## {name}\n", *lines, sep="\n")


def cases() -> Iterator[tuple[str, str, str]]:
    """Table, scheme and algorithm of every row."""
    for scheme in SCHEMES:
        for algorithm in ALGORITHMS:
            yield "demo", scheme, algorithm
    for scheme, algorithms in PLANTED:
        for algorithm in algorithms:
            yield "planted", scheme, algorithm
    for name in KV_FORMATS:
        yield "kv", name, "cache"


def read_results(path: Path) -> dict[str, str]:
    """Rows of earlier runs."""
    if not path.is_file():
        return {}
    found: dict[str, str] = json.loads(path.read_text())
    return found


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
