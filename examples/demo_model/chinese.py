"""Chinese text: Tang and Song poems and three classics from Debian's `fortunes-zh`."""

from __future__ import annotations

import re
from pathlib import Path

from .english import Document

FORTUNES = Path("usr/share/games/fortunes")

# Every author below died before 1700; entries signed by anyone else are left out.
AUTHOR_NAMES = """
辛弃疾 苏轼 李白 李煜 杜甫 陆游 白居易 晏几道 欧阳修 晏殊 柳永 王维 李商隐 吴文英 纳兰性德 韦庄
李清照 姜夔 温庭筠 张炎 秦观 张先 杜牧 冯延巳 蒋捷 王昌龄 岑参 刘禹锡 王安石 刘过 王沂孙 刘克庄
张孝祥 张籍 杨万里 史达祖 范成大 张元 陈亮 范仲淹 刘长卿 黄庭坚 周密 张九龄 陶渊明 韩愈 朱淑真
刘辰翁 元稹 李贺 韦应物 文天祥 戴叔伦 元好问 高适 唐寅 朱熹 张若虚 柳宗元 荀子 叶梦得 王之涣
吕本中 孟浩然 岳飞 戴复古 袁去华 孙光宪 陈人杰 卓文君 许浑 王勃 王翰 曹植 张泌 贺知章 屈原 周邦彦
郑谷 陈与义 卢祖皋 牛希济 韩元吉 吴潜 汪元量 李之仪 孟郊 马致远 林逋 贾岛 杜荀鹤 宋祁 谢逸 石孝友
李璟 苏舜钦 李颀 赵鼎 李弥逊 吕渭老 葛长庚 王琪 程垓 杨炎正 黄机 崔护 罗隐 杨慎 张可久 贺铸 鲍照
赵秉文 严蕊 张志和 卢梅坡 张继 陆龟蒙 曹操 常建 寇准 叶绍翁 卢纶 关汉卿 王建 李益 李珣 鱼玄机
欧阳炯 王观 张养浩 聂胜琼 刘将孙 司马光 左思 韩缜 王禹偁 李重元 潘阆 王安国 张舜民 康与之 张抡
赵善括 高观国 严仁 邓剡 崔颢 骆宾王 杨炯 李绅
"""
AUTHORS = frozenset(AUTHOR_NAMES.split())
FULL_NAMES = {"张元": "张元干"}  # the last character is lost in the package
COMMON_TITLES = {("李白", "夜思"): "静夜思"}
CLASSICS = {"论语": 6, "菜根谭": 6, "增广贤文": 12}  # passages a document


def poems(root: Path) -> list[Document]:
    """All poems of `tang300` and `song100`, and signed poems of `chinese`."""
    tang = [_titled_poem("tang300", entry) for entry in _entries(root / FORTUNES / "tang300")]
    song = [_titled_poem("song100", entry) for entry in _entries(root / FORTUNES / "song100")]
    signed = [_signed_poem(entry) for entry in _entries(root / FORTUNES / "chinese")]
    return [poem for poem in (*tang, *song, *signed) if poem is not None]


def classics(root: Path) -> list[Document]:
    """The three classics in `chinese`, a few consecutive passages a document."""
    passages: dict[str, list[str]] = {name: [] for name in CLASSICS}
    for entry in _entries(root / FORTUNES / "chinese"):
        match = re.fullmatch(r"(.*)\n\s*--\s*《(.{2,4})》\S*\s*", entry, re.DOTALL)
        if match and match[2] in passages and "《论语》序说" not in entry:
            passages[match[2]].append("\n".join(_body(match[1])))
    documents = []
    for name, size in CLASSICS.items():
        for start in range(0, len(passages[name]), size):
            body = "\n\n".join(passages[name][start : start + size])
            documents.append(Document(name, f"《{name}》", tuple(body.split("\n"))))
    return documents


def _entries(path: Path) -> list[str]:
    text = re.sub(r"\x1b?\[[0-9;]*m", "", path.read_text(encoding="utf-8"))
    return [entry.strip("\n") for entry in re.split(r"\n%\n?", text) if entry.strip()]


def _titled_poem(work: str, entry: str) -> Document | None:
    """`《title》`, `作者：author`, then the body (`tang300` and `song100`)."""
    head, author, *body = entry.split("\n")
    title = re.search(r"《(.+)》", head)
    name = re.search(r"作者\s*[:：]\s*([^（(\s]+)", author)
    if title is None or name is None:
        return None
    clean = title[1].replace("〈", "").replace("〉", "")
    clean = COMMON_TITLES.get((name[1], clean), clean)
    return Document(work, f"《{clean}》\n{name[1]}", _body("\n".join(body)))


def _signed_poem(entry: str) -> Document | None:
    """Body lines, then `-- author《title》`; only authors on the list."""
    match = re.fullmatch(r"(.*)\n\s*--\s*([^《\s]+)\s*《([^》]+)》\s*", entry, re.DOTALL)
    if match is None or match[2] not in AUTHORS:
        return None
    author = FULL_NAMES.get(match[2], match[2])
    return Document("signed", f"《{match[3].strip()}》\n{author}", _body(match[1]))


def _body(text: str) -> tuple[str, ...]:
    """Strip indents, join lines that the package wrapped with a hanging indent."""
    lines: list[str] = []
    for line in text.split("\n"):
        stripped = line.strip()
        numbered = re.fullmatch(r"其[一二三四五六七八九十]+", stripped)
        if line[:1].isspace() and stripped and lines and lines[-1] and not numbered:
            lines[-1] += stripped
        elif stripped or (lines and lines[-1]):
            lines.append(stripped)
    while lines and not lines[-1]:
        lines.pop()
    return tuple(lines)
