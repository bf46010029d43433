"""What the GPU at hand does: whether its kernels are right, how fast they are, and whole models.

    python -m bench.gpu PART [--results FILE] [--minutes 8]
    python -m bench.gpu decode --device cpu --shape tiny      to see that it works, without a GPU

ceilings, correctness, kernels, tune     of the Triton kernels; only on a GPU
decode, prefill, serve, start            of whole models with random weights
show, table                              what was found, here and in docs/performance.md

A part writes what it finds to the file as it finds it, and begins nothing new when its minutes are
over: run again, it goes on where it was.  Weights and inputs are made on the device.  ceilings
measures what the others are compared with: bytes a second of a copy, operations a second of
torch's own product.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from bench.gpu import engine, kernels, server
from bench.gpu.plans import PLANS
from bench.gpu.results import Results
from bench.gpu.table import render
from bench.page import replace_between_marks
from quire.backends.torch.devices import find_device
from quire.backends.torch.triton.launcher import launcher_of

WHOLE_MODELS = {
    "decode": engine.decode,
    "prefill": engine.prefill,
    "serve": server.serve,
    "start": server.start,
}
PAGE = Path(__file__).parent.parent.parent / "docs" / "performance.md"


def main(argv: list[str] | None = None) -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", choices=[*kernels.PARTS, *WHOLE_MODELS, "show", "table"])
    parser.add_argument("--results", type=Path, default=Path("gpu-results.json"))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", default="cuda", help="or cuda:1; of whole models also cpu")
    parser.add_argument("--shape", choices=[*PLANS], default="llama-3-8b", help="of whole models")
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args(argv)
    results = Results(arguments.results, arguments.minutes * 60)
    if arguments.part == "table":
        replace_between_marks(arguments.page, "gpu", render(results.found))
    elif arguments.part == "show":
        print(json.dumps(results.found, indent=2))
    elif not _has_device(arguments.part, arguments.device):
        print("no GPU that torch can use: nothing was measured")
    elif arguments.part in WHOLE_MODELS:
        folder = arguments.results.absolute().with_suffix(".models")
        WHOLE_MODELS[arguments.part](results, arguments.shape, arguments.device, folder)
    else:
        device = find_device(arguments.device)
        with device.current():
            kernels.PARTS[arguments.part](results, launcher_of(device), device.torch_device)


def _has_device(part: str, device: str) -> bool:
    """Whether a part can run: those of kernels only on a GPU."""
    return torch.cuda.is_available() or (part in WHOLE_MODELS and device != "cuda")


if __name__ == "__main__":
    main()
