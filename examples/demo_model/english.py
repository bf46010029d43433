"""English text: the King James Bible and Jane Austen's six novels, as titled documents."""

from __future__ import annotations

import re
import struct
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path

BOOK_NAMES = """
Genesis Exodus Leviticus Numbers Deuteronomy Joshua Judges Ruth 1_Samuel 2_Samuel 1_Kings
2_Kings 1_Chronicles 2_Chronicles Ezra Nehemiah Esther Job Psalm Proverbs Ecclesiastes
Song_of_Solomon Isaiah Jeremiah Lamentations Ezekiel Daniel Hosea Joel Amos Obadiah Jonah
Micah Nahum Habakkuk Zephaniah Haggai Zechariah Malachi Matthew Mark Luke John Acts Romans
1_Corinthians 2_Corinthians Galatians Ephesians Philippians Colossians 1_Thessalonians
2_Thessalonians 1_Timothy 2_Timothy Titus Philemon Hebrews James 1_Peter 2_Peter 1_John
2_John 3_John Jude Revelation
"""
BOOKS = tuple(name.replace("_", " ") for name in BOOK_NAMES.split())

NOVELS = (
    "Emma",
    "Mansfield Park",
    "Northanger Abbey",
    "Persuasion",
    "Pride and Prejudice",
    "Sense and Sensibility",
)

CHARSXP, STRSXP = 9, 16
NA_LENGTH = 0xFFFFFFFF


@dataclass(frozen=True)
class Document:
    """A whole chapter or poem: the work it belongs to, its title and its lines."""

    work: str
    title: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """Title, blank line, body."""
        return f"{self.title}\n\n" + "\n".join(self.lines)


def bible_chapters(root: Path) -> list[Document]:
    """Every chapter of the King James Bible, one verse a line, verse numbers removed."""
    command = [str(root / "usr/bin/bible"), "-f", "-p", str(root / "usr/lib")]
    dump = subprocess.run(
        [*command, "gen1:1-rev22:21"], capture_output=True, text=True, check=True
    ).stdout
    chapters: dict[tuple[str, int], list[str]] = {}
    abbreviations: list[str] = []
    for line in dump.splitlines():
        match = re.match(r"\s*(\d?[A-Za-z]+)\s?(\d+):\d+\s+(.*\S)", line)
        if match is None:
            continue
        abbreviation, number, verse = match.groups()
        if abbreviation not in abbreviations:
            abbreviations.append(abbreviation)
        book = BOOKS[abbreviations.index(abbreviation)]
        chapters.setdefault((book, int(number)), []).append(verse)
    return [Document(book, f"{book} {n}", tuple(verses)) for (book, n), verses in chapters.items()]


def austen_chapters(root: Path) -> list[Document]:
    """Every chapter of the six novels, one paragraph a line, front matter removed."""
    data = (root / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    documents: list[Document] = []
    for novel, lines in zip(NOVELS, r_string_vectors(data), strict=True):
        documents += _split_novel(novel, lines)
    return documents


def r_string_vectors(data: bytes) -> list[list[str]]:
    """Decode the character vectors of an R lazy-load database (zlib frames of XDR)."""
    vectors, position = [], 0
    while position < len(data):
        (size,) = struct.unpack_from(">I", data, position)
        frame = zlib.decompressobj()
        plain = frame.decompress(data[position + 4 :])
        if len(plain) != size:
            raise ValueError("unexpected frame size in the R database")
        position = len(data) - len(frame.unused_data)
        vectors.append(_read_vector(plain))
    return vectors


def _read_vector(plain: bytes) -> list[str]:
    """Decode one serialised STRSXP; the header ends with the native encoding's name."""
    encoding_size = struct.unpack_from(">I", plain, 14)[0]
    position = 18 + encoding_size
    flags, count = struct.unpack_from(">II", plain, position)
    if flags & 0xFF != STRSXP:
        raise ValueError("expected a character vector")
    position += 8
    strings = []
    for _ in range(count):
        flags, size = struct.unpack_from(">II", plain, position)
        if flags & 0xFF != CHARSXP:
            raise ValueError("expected a string")
        position += 8
        size = 0 if size == NA_LENGTH else size
        strings.append(plain[position : position + size].decode("utf-8", "replace"))
        position += size
    return strings


def _split_novel(novel: str, lines: list[str]) -> list[Document]:
    chapters: list[list[str]] = []
    for line in lines:
        if re.fullmatch(r"\s*chapter\s+([ivxlc]+|\d+)\.?\s*", line, re.IGNORECASE):
            chapters.append([])
        elif re.fullmatch(r"\s*(volume\s+[ivx]+|the end|finis)\.?\s*", line, re.IGNORECASE):
            continue
        elif chapters:
            chapters[-1].append(line)
    named = enumerate((_paragraphs(chapter) for chapter in chapters), start=1)
    return [Document(novel, f"{novel}, Chapter {n}", body) for n, body in named if body]


def _paragraphs(lines: list[str]) -> tuple[str, ...]:
    blocks = re.split(r"\n\s*\n", "\n".join(lines))
    joined = (" ".join(block.split()).replace("_", "") for block in blocks)
    return tuple(block for block in joined if block and not re.fullmatch(r"[*\s]+", block))
