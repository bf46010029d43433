"""Fills the table of docs/models.md from the registry and the oracle cases; --check only compares.

Needs transformers, which says what architecture a case's model type is.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES  # noqa: E402

from quire.models.registry import load_families  # noqa: E402
from tests.models import cases_mixtures, test_latent_families, test_layouts  # noqa: E402
from tests.models.checkpoints import CASES  # noqa: E402
from tests.vision import checkpoints as seeing  # noqa: E402

PAGE = ROOT / "docs" / "models.md"
ELSEWHERE = "[embeddings](../tests/engine/test_embeddings.py)"
INNER = "[the same spec](../tests/models/test_recurrent.py)"
"""What stands for a number of cases: of families without a head, and of models inside a config."""
MARKED = re.compile(r"(<!-- table: families -->\n).*?(<!-- end -->)", re.DOTALL)


def main(argv: list[str]) -> int:
    """Rewrite the page, or say that it is stale."""
    text = PAGE.read_text(encoding="utf-8")
    fresh = MARKED.sub(lambda found: found[1] + table() + found[2], text)
    if fresh != text and "--check" in argv:
        print(f"{PAGE.name}: run python scripts/model_docs.py", file=sys.stderr)
        return 1
    PAGE.write_text(fresh, encoding="utf-8")
    return 0


def table() -> str:
    """One row for each function that builds a spec."""
    known = {**MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "deepseek": "DeepseekForCausalLM"}
    plain = (*CASES, *cases_mixtures.CASES, *test_latent_families.CASES)
    cases = Counter(known[case.model_type] for case in plain)
    cases.update(case.config["architectures"][0] for case in test_layouts.CASES)
    cases["Qwen2VLForConditionalGeneration"] = len(seeing.CASES)
    rows = {}
    for family in load_families().values():
        module = sys.modules[family.build.__module__]
        names = [each for each, other in load_families().items() if other.build is family.build]
        about = (module.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
        what = about.partition(": ")[2].rstrip(".")
        inner = "text_config" in family.tiny
        count = sum(cases[each] for each in names) or (INNER if inner else ELSEWHERE)
        rows[family.build] = (
            f"| {family.summary.rstrip('.')} | {', '.join(f'`{each}`' for each in names)} "
            f"| {what} | {count} |"
        )
    head = [
        "| Models | Architectures | What its file says of it | Oracle cases |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *sorted(rows.values(), key=str.lower)]) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
