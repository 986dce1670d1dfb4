"""The README pages as data: fenced blocks, links, tables between markers, and the commands of a Bash text."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
FOLDERS = ("configs", "ds2f", "launch", "tests")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[[^\]\[]*\]\(([^()\s]+)\)")


def pages() -> list[Path]:
    """All pages, the root's README.md first."""
    names = ("README*.md", "SECURITY.md")
    return [README, *sorted(path for folder in FOLDERS for name in names for path in (ROOT / folder).rglob(name))]


def read(page: Path) -> str:
    """The text of a page."""
    return page.read_text(encoding="utf-8")


def name(page: Path) -> str:
    """The path of a page from the root."""
    return page.relative_to(ROOT).as_posix()


class Block(NamedTuple):
    """A fenced block."""

    page: Path
    line: int  # of the fence, from 1
    language: str
    text: str

    def __str__(self) -> str:
        return f"{name(self.page)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """The fenced blocks of all pages, of some languages or of all."""
    found = [
        Block(page, 1 + read(page).count("\n", 0, match.start()), match[1], match[2])
        for page in pages()
        for match in _FENCE.finditer(read(page))
    ]
    return [block for block in found if not languages or block.language in languages]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", read(page))


def between(page: Path, marker: str) -> str:
    """The text between ``<!-- marker -->`` and ``<!-- /marker -->``, each on a line of its own."""
    return read(page).partition(f"<!-- {marker} -->\n")[2].partition(f"<!-- /{marker} -->")[0]


def replace(page: Path, marker: str, text: str) -> None:
    """Writes ``text`` between the markers."""
    before, _, rest = read(page).partition(f"<!-- {marker} -->\n")
    after = rest.partition(f"<!-- /{marker} -->")[2]
    page.write_text(f"{before}<!-- {marker} -->\n{text}<!-- /{marker} -->{after}", encoding="utf-8")


def links(page: Path) -> list[str]:
    """Targets of the inline links outside fenced blocks."""
    return _LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """Anchors that GitHub gives to the headings: lower case, hyphens for spaces, other punctuation dropped."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower().strip() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def tables(page: Path) -> Iterator[list[int]]:
    """The number of cells of each line, table by table."""
    for found in re.findall(r"(?:^\|.*\n)+", prose(page), re.MULTILINE):
        yield [len(re.findall(r"(?<!\\)\|", line)) - 1 for line in found.splitlines()]


class Command(NamedTuple):
    """A simple command of a shell text."""

    where: str
    words: tuple[str, ...]  # without leading assignments
    output: str  # the file that its output is redirected to, or empty

    def __str__(self) -> str:
        return f"{self.where}: {shlex.join(self.words)}"


def launcher(command: Command) -> tuple[str, list[str]]:
    """Module and flags of a command that reaches a launcher, also through a script or torchrun; else nothing.

    ``--help``, and the three dots that stand for more flags, are left out.
    """
    words = list(command.words)
    if words[0] == "bash" and words[1].startswith("launch/"):
        script = (ROOT / words[1]).read_text(encoding="utf-8")
        flagfile = re.search(r"^start_training (\w+)|--flagfile=configs/(\w+)\.flags", script, re.MULTILINE)
        if flagfile:
            return "launch.train", [f"--flagfile=configs/{flagfile[1] or flagfile[2]}.flags", *words[2:]]
    elif words[0] in ("python", "torchrun") and "-m" in words:
        start = words.index("-m") + 1
        if words[start].startswith("launch."):
            return words[start], [word for word in words[start + 1 :] if word not in ("...", "--help")]
    return "", []


def commands() -> list[Command]:
    """The commands of all Bash blocks, and those in code spans that start with a program of the project."""
    found = [command for block in blocks("bash") for command in parsed(str(block), block.text)]
    for page in pages():
        spans = re.findall(r"`((?:python -m launch\.|bash launch/)[^`\n]*)`", prose(page))
        found += [command for span in spans for command in parsed(name(page), span.replace("\\|", "|"))]
    return found


def parsed(where: str, text: str) -> Iterator[Command]:
    """The commands of a shell text: words, quotes, comments, pipes, ``&&`` and redirections, and nothing else."""
    words: list[str] = []
    for token in tokens(text.replace("\\\n", " ")):
        if not set(token) <= set(";&|"):
            words.append(token)
            continue
        output = words[words.index(">") + 1] if ">" in words else ""
        words = words[: words.index(">")] if output else words
        while words and re.match(r"\w+=", words[0]):
            words = words[1:]
        if words:
            yield Command(where, tuple(words), output)
        words = []


def tokens(text: str) -> Iterator[str]:
    """Words and operators, with ``;`` for the end of a line that is not inside quotes."""
    pending = ""
    for line in text.splitlines():
        pending += line
        lexer = shlex.shlex(pending, posix=True, punctuation_chars=";&|<>")
        lexer.whitespace_split = True
        try:
            found = list(lexer)
        except ValueError:  # the quotes end on a later line
            pending += "\n"
            continue
        yield from [*found, ";"]
        pending = ""
    assert not pending, f"quotes without an end: {pending}"
