"""Split the documents into training text, chat text and whole held-out documents."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

from . import chat, chinese, english
from .english import Document
from .packages import fetch_packages

SEED = 20240607
HELDOUT_ENGLISH = {
    *("Ruth 2", "Ecclesiastes 11", "Psalm 104", "Job 38", "Jonah 2", "Acts 27", "James 3"),
    *("Emma, Chapter 17", "Pride and Prejudice, Chapter 21", "Persuasion, Chapter 9"),
}
HELDOUT_COUNTS = {"tang300": 30, "song100": 10, "signed": 40}
HELDOUT_CLASSICS = {"论语": 6, "菜根谭": 5, "增广贤文": 2}
CLAUSE = re.compile(r"[^\w]+")
LEAK_CLAUSE_CHARS = 5
STREAMS = ("en", "zh", "en_chat", "zh_chat")


def build_corpus(work: Path) -> dict[str, list[str]]:
    """Extract, split and write `corpus.json` plus the two held-out files under `work`."""
    root = fetch_packages(work)
    rng = random.Random(SEED)
    english_docs = english.bible_chapters(root) + english.austen_chapters(root)
    en = [doc for doc in english_docs if doc.title not in HELDOUT_ENGLISH]
    en_held = [doc for doc in english_docs if doc.title in HELDOUT_ENGLISH]
    zh, zh_held = _split_chinese(_deduplicate(chinese.poems(root)), chinese.classics(root), rng)
    streams = {
        "en": [doc.text for doc in en],
        "zh": [doc.text for doc in zh],
        "en_chat": chat.english_chats(en, rng),
        "zh_chat": chat.chinese_chats(zh, rng),
    }
    (work / "corpus.json").write_text(json.dumps(streams, ensure_ascii=False), encoding="utf-8")
    _write_heldout(work / "heldout.en.txt", en_held)
    _write_heldout(work / "heldout.zh.txt", zh_held)
    return streams


def load_corpus(work: Path) -> dict[str, list[str]]:
    """Read back what `build_corpus` wrote."""
    return json.loads((work / "corpus.json").read_text(encoding="utf-8"))


def _write_heldout(path: Path, documents: list[Document]) -> None:
    path.write_text("\n\n".join(doc.text for doc in documents) + "\n", encoding="utf-8")


def _deduplicate(documents: list[Document]) -> list[Document]:
    """Drop repeats of the same body; the first one, the best titled, stays."""
    seen: set[str] = set()
    unique = []
    for doc in documents:
        key = CLAUSE.sub("", "".join(doc.lines))
        if key not in seen:
            seen.add(key)
            unique.append(doc)
    return unique


def _split_chinese(
    poems: list[Document], classics: list[Document], rng: random.Random
) -> tuple[list[Document], list[Document]]:
    """Hold out whole poems and passages, then drop training text that quotes a held-out clause."""
    held: list[Document] = []
    for work, count in HELDOUT_COUNTS.items():
        candidates = [doc for doc in poems if doc.work == work and _fit_to_hold(doc)]
        held += rng.sample(candidates, count)
    for work, count in HELDOUT_CLASSICS.items():
        held += rng.sample([doc for doc in classics if doc.work == work], count)
    leaks = Counter(clause for doc in held for clause in _clauses(doc))
    chosen = {id(doc) for doc in held}
    train = [
        doc
        for doc in poems + classics
        if id(doc) not in chosen and not any(clause in leaks for clause in _clauses(doc))
    ]
    return train, held


def _fit_to_hold(doc: Document) -> bool:
    """Long enough to score, and not one of the poems that every reader asks for."""
    famous = any(name in doc.title for name in chat.FAMOUS_POEMS)
    return not famous and 40 <= sum(map(len, doc.lines)) <= 500


def _clauses(doc: Document) -> list[str]:
    pieces = (piece for line in doc.lines for piece in CLAUSE.split(line))
    return [piece for piece in pieces if len(piece) >= LEAK_CLAUSE_CHARS]
