"""Make the demo model that ships in `quire/demo`, from public-domain text to weights.

    python examples/train_demo_model.py all --minutes 110

Stages can be run one at a time: text, tokenizer, train, export, evaluate, sample. The scratch
folder (`--work`) holds the corpus and a checkpoint; `train` resumes from it. Needs a Debian
system for the text, and torch, transformers and tokenizers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from demo_model import corpus, evaluate, export, samples, tokenizer, train
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

DEMO = Path(__file__).resolve().parent.parent / "quire" / "demo"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def make_text(options: argparse.Namespace) -> None:
    """Fetch the packages, extract the text, split off the held-out documents."""
    for name, texts in corpus.build_corpus(options.work).items():
        size = sum(len(text.encode()) for text in texts)
        print(f"{name}: {len(texts)} documents, {size} bytes")


def make_tokenizer(options: argparse.Namespace) -> None:
    """Train the byte-level BPE."""
    print(f"{tokenizer.train_tokenizer(options.work).get_vocab_size()} tokens")


def make_weights(options: argparse.Namespace) -> None:
    """Train, or go on training, until the budget is spent."""
    train.train(options.work, train.Budget(options.minutes, options.steps), options.workers)


def make_folder(options: argparse.Namespace) -> None:
    """Export the latest checkpoint."""
    export.export(options.work, options.out)
    total = sum(path.stat().st_size for path in options.out.iterdir() if path.is_file())
    print(f"{options.out}: {total} bytes in all")


def print_scores(options: argparse.Namespace) -> None:
    """Held-out perplexity of the exported folder, in float32 and in bfloat16."""
    encoder = Tokenizer.from_file(str(options.out / "tokenizer.json"))
    for dtype_name, dtype in DTYPES.items():
        model = AutoModelForCausalLM.from_pretrained(options.out, dtype=dtype)
        for language, score in evaluate.score_languages(model, encoder, options.out).items():
            print(f"{dtype_name} {language}: {score}")


def print_samples(options: argparse.Namespace) -> None:
    """A few greedy and sampled generations of the exported folder."""
    samples.print_samples(options.out)


STAGES: dict[str, Callable[[argparse.Namespace], None]] = {
    "text": make_text,
    "tokenizer": make_tokenizer,
    "train": make_weights,
    "export": make_folder,
    "evaluate": print_scores,
    "sample": print_samples,
}


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stage", choices=[*STAGES, "all"])
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "quire-demo")
    parser.add_argument("--out", type=Path, default=DEMO, help="the folder to export to")
    parser.add_argument("--minutes", type=float, default=60, help="training time")
    parser.add_argument("--steps", type=int, help="train this many steps instead; repeatable")
    parser.add_argument("--workers", type=int, default=2, help="training processes: 1 or 2")
    return parser.parse_args()


def main() -> None:
    """Run one stage, or all of them in order."""
    options = parse_options()
    options.work.mkdir(parents=True, exist_ok=True)
    for name in STAGES if options.stage == "all" else [options.stage]:
        STAGES[name](options)


if __name__ == "__main__":
    main()
