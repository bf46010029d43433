"""Fills the tables of docs/models.md and docs/gguf.md from what is registered; --check compares.

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
from quire.weights.gguf.architectures import ARCHITECTURES  # noqa: E402
from tests.models import cases_layouts, cases_mixtures, test_latent_families  # noqa: E402
from tests.models.checkpoints import CASES  # noqa: E402
from tests.vision import checkpoints as seeing  # noqa: E402

NOT_NAMED = {"deepseek": "DeepseekForCausalLM", "mistral4": "Mistral4ForCausalLM"}
"""Model types that transformers' table of causal models lacks."""
ELSEWHERE = "[embeddings](../tests/engine/test_embeddings.py)"
"""What stands for a number of cases of families without a head."""
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main(argv: list[str]) -> int:
    """Rewrite the pages, or say that one is stale."""
    tables = {"families": families, "gguf": gguf_architectures}
    for page in (ROOT / "docs" / "models.md", ROOT / "docs" / "gguf.md"):
        text = page.read_text(encoding="utf-8")
        fresh = MARKED.sub(lambda found: found[1] + tables[found[2]]() + found[3], text)
        if fresh != text and "--check" in argv:
            print(f"{page.name}: run python scripts/model_docs.py", file=sys.stderr)
            return 1
        page.write_text(fresh, encoding="utf-8")
    return 0


def gguf_architectures() -> str:
    """One row for each value of general.architecture."""
    rows = [
        f"| `{key}` | {', '.join(f'`{each}`' for each in architecture.families)} |"
        for key, architecture in sorted(ARCHITECTURES.items())
    ]
    head = ["| `general.architecture` | read as one of |", "|---|---|"]
    return "\n".join([*head, *rows]) + "\n"


def families() -> str:
    """One row for each function that builds a spec."""
    known = {**MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, **NOT_NAMED}
    plain = (*CASES, *cases_mixtures.CASES, *test_latent_families.CASES)
    cases = Counter(known[case.model_type] for case in plain)
    cases.update(case.config["architectures"][0] for case in cases_layouts.CASES)
    cases["Qwen2VLForConditionalGeneration"] = len(seeing.CASES)
    rows = {}
    for family in load_families().values():
        module = sys.modules[family.build.__module__]
        names = [each for each, other in load_families().items() if other.build is family.build]
        about = (module.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
        what = about.partition(": ")[2].rstrip(".")
        count = sum(cases[each] for each in names) or ELSEWHERE
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
