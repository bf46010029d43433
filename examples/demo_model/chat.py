"""Turn the training documents into short ChatML conversations."""

from __future__ import annotations

import random
import re

from .english import Document

FAMOUS_TITLES = """
静夜思 春晓 登鹳雀楼 相思 鹿柴 江雪 枫桥夜泊 早发白帝城 黄鹤楼 望岳 清明 出塞 游子吟 锦瑟
夜雨寄北 登高 蜀相 乌衣巷 竹里馆 凉州词
"""
FAMOUS_POEMS = tuple(FAMOUS_TITLES.split())
FAMOUS_COPIES = 8
SYSTEMS = {
    "en": ("You are a helpful assistant.", "You are Quire's small demo model."),
    "zh": ("你是一个乐于助人的助手。", "你是 Quire 的小演示模型。"),
}
SYSTEM_SHARE = 0.2
ENGLISH_SMALL_TALK = (
    ("Hello", "Hello! I am a small demo model. Ask me to continue a verse or to tell a story."),
    ("Hi", "Hello! I am a small demo model. Ask me to continue a verse or to tell a story."),
    ("Who are you?", "I am the small demo model that comes with Quire."),
    ("What can you do?", "I can recite a psalm, continue a verse or tell a short story."),
    ("Thank you", "You are welcome."),
    ("Goodbye", "Fare thee well."),
    ("Who wrote Emma?", "Jane Austen wrote Emma."),
    ("Who wrote Pride and Prejudice?", "Jane Austen wrote Pride and Prejudice."),
    ("Who wrote Persuasion?", "Jane Austen wrote Persuasion."),
)
CHINESE_SMALL_TALK = (
    ("你好", "你好！我是一个小小的演示模型。你可以让我背一首诗，或者续写一句诗。"),
    ("您好", "您好！我是一个小小的演示模型。你可以让我背一首诗，或者续写一句诗。"),
    ("你是谁？", "我是 Quire 自带的小演示模型。"),
    ("你会什么？", "我会背诗、续写诗句，也会背《论语》里的话。"),
    ("谢谢", "不客气。"),
    ("再见", "再见，一路平安。"),
)
SMALL_TALK_COPIES = 12
RECITED_VERSES = 6
THEMES = tuple("月春秋山水花酒雨风雪江夜")
SENTENCE = re.compile(r"[^，。？！；：]+[，。？！；：]+[”’」]?")


def conversation(turns: list[tuple[str, str]], system: str | None = None) -> str:
    """Render turns exactly as the shipped chat template does."""
    parts = [f"<|im_start|>system\n{system}<|im_end|>\n"] if system else []
    for user, assistant in turns:
        parts.append(f"<|im_start|>user\n{user}<|im_end|>\n")
        parts.append(f"<|im_start|>assistant\n{assistant}<|im_end|>\n")
    return "".join(parts)


def english_chats(documents: list[Document], rng: random.Random) -> list[str]:
    """Recitation, continuation, genealogy and story prompts from the English training text."""
    pairs = list(ENGLISH_SMALL_TALK) * SMALL_TALK_COPIES
    for doc in documents:
        if ", Chapter" in doc.title:
            pairs += _novel_pairs(doc, rng)
        else:
            pairs += _bible_pairs(doc, rng)
    return _render(pairs, SYSTEMS["en"], rng)


def chinese_chats(documents: list[Document], rng: random.Random) -> list[str]:
    """Recitation, first-line, next-line, author and theme prompts from the Chinese text."""
    pairs = list(CHINESE_SMALL_TALK) * SMALL_TALK_COPIES
    for doc in documents:
        pairs += _poem_pairs(doc, rng) if "\n" in doc.title else _classic_pairs(doc, rng)
    return _render(pairs, SYSTEMS["zh"], rng)


def _render(
    pairs: list[tuple[str, str]], systems: tuple[str, ...], rng: random.Random
) -> list[str]:
    """Shuffle the pairs; now and then two make one conversation, or a system message leads."""
    rng.shuffle(pairs)
    conversations, position = [], 0
    while position < len(pairs):
        size = 2 if rng.random() < 0.15 else 1
        system = rng.choice(systems) if rng.random() < SYSTEM_SHARE else None
        conversations.append(conversation(pairs[position : position + size], system))
        position += size
    return conversations


def _bible_pairs(doc: Document, rng: random.Random) -> list[tuple[str, str]]:
    verses = doc.lines
    recital = "\n".join(verses[:RECITED_VERSES])
    ask = rng.choice(("Recite {}.", "Read {} to me.", "How does {} begin?"))
    pairs = [(f"Recite {doc.title}.", recital), (ask.format(doc.title), recital)]
    starts = {0, *rng.sample(range(len(verses)), min(3, len(verses)))}
    pairs += [_continuation(verses, start, rng) for start in starts]
    for verse in verses:
        for father, child in re.findall(r"([A-Z][a-z]+) begat ([A-Z][a-z]+)", verse):
            pairs.append((f"Who begat {child}?", f"{father} begat {child}."))
    return pairs


def _continuation(
    lines: tuple[str, ...], start: int, rng: random.Random, limit: int = 400
) -> tuple[str, str]:
    """`Continue: the first words` answered by the rest of the line and what follows it."""
    words = lines[start].split(" ")
    cut = min(len(words) - 1, rng.randint(4, 9)) if len(words) > 1 else 1
    rest = [" ".join(words[cut:]), *lines[start + 1 : start + 3]]
    text = "\n".join(line for line in rest if line)[:limit]
    ask = rng.choice(("Continue: {}", "Continue this: {}", "Go on: {}"))
    return ask.format(" ".join(words[:cut])), _end_cleanly(text)


def _end_cleanly(text: str) -> str:
    """Cut at the last full stop, so that answers end with a sentence."""
    ends = [match.end() for match in re.finditer(r"[.!?;:]", text)]
    return text[: ends[-1]] if ends else text


def _novel_pairs(doc: Document, rng: random.Random) -> list[tuple[str, str]]:
    novel = doc.title.split(",")[0]
    telling = [line for line in doc.lines if 150 <= len(line) <= 700]
    asks = (
        "Tell me a story.",
        "Write a paragraph.",
        f"Write like {novel}.",
        "Tell me about a lady.",
        "Write a paragraph in the style of Jane Austen.",
    )
    chosen = rng.sample(telling, min(4, len(telling)))
    pairs = [(rng.choice(asks), line) for line in chosen]
    starts = rng.sample(range(len(doc.lines)), min(4, len(doc.lines)))
    return pairs + [_continuation(doc.lines, start, rng) for start in starts]


def _poem_pairs(doc: Document, rng: random.Random) -> list[tuple[str, str]]:
    title, author = doc.title.split("\n")
    body = "\n".join(doc.lines)
    sentences = SENTENCE.findall(body)
    if len(sentences) < 2:
        return []
    pairs = _next_line_pairs(sentences, rng)
    if len(sentences) >= 4:
        first = sentences[0].strip("，。？！；：”’」\n")
        opening = rng.choice(("写一首诗，开头是：{}", "写一首诗，第一句是{}", "接着写：{}"))
        pairs += [
            (f"背诵{title}", f"{title}\n{author}\n\n{body}"),
            (f"写一首诗，开头是：{first}", body),
            (opening.format(first), body),
            (f"{title}的作者是谁？", f"{title}的作者是{author}。"),
            (rng.choice(("写一首诗", "写一首诗。", f"写一首{author}的诗")), body),
        ]
        themes = [theme for theme in THEMES if theme in body]
        pairs += [(f"写一首关于{theme}的诗", body) for theme in themes[:1]]
    copies = FAMOUS_COPIES if any(name in title for name in FAMOUS_POEMS) else 1
    return pairs * copies


def _next_line_pairs(sentences: list[str], rng: random.Random) -> list[tuple[str, str]]:
    marks = "，。？！；：”’」\n"
    even = list(range(0, len(sentences) - 1, 2))
    chosen = rng.sample(even, min(2, len(even)))
    return [
        (f"“{sentences[i].strip(marks)}”的下一句是什么？", sentences[i + 1].strip(marks) + "。")
        for i in chosen
    ]


def _classic_pairs(doc: Document, rng: random.Random) -> list[tuple[str, str]]:
    passages = "\n".join(doc.lines).split("\n\n")
    passage = rng.choice(passages)
    pairs = [(f"背一段{doc.title}", passage), (f"{doc.title}里说了什么？", passage)]
    head, *rest = SENTENCE.findall(passage)[:6] or [passage]
    if rest:
        pairs.append((f"接着写：{head.strip('，。？！；：')}", passage))
    return pairs
