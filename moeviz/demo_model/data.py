"""The texts that the bundled model is trained on, read from what Debian's packages and Python ship.

Knows nothing about tokens or models. Fetches nothing: a text whose package is missing is an error that names
the package. None of the texts is part of this repository.

    python -m moeviz.demo_model.data          # documents and characters per domain
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import sysconfig
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

Document = tuple[str, str]  # name, text: a document is held out, or trained on, as a whole

HELD_OUT_ONE_IN = 20  # 5% of the documents, picked by name so that a new version of a package keeps the split
JARGON = Path("/usr/share/doc/jargon-text/jargon.txt.gz")
HANDBOOK = Path("/usr/share/doc/debian-handbook/html/de-DE")


class MissingText(RuntimeError):
    """A text is not on this machine; the message names the Debian package that holds it."""


def bible() -> list[Document]:
    """King James Bible, a document per chapter (package bible-kjv-text; the text is in the public domain)."""
    if not shutil.which("bible"):
        raise MissingText("The King James Bible is missing: apt install bible-kjv")
    verses = _run(["bible", "-f", "Gen1:1-Rev22:21"])
    chapters: dict[str, list[str]] = {}
    for line in verses.splitlines():
        place, _, verse = line.partition(" ")
        chapters.setdefault(place.partition(":")[0], []).append(verse)
    return [(name, "\n".join(lines)) for name, lines in chapters.items()]


def spanish() -> list[Document]:
    """Reina-Valera 1909, a document per chapter (package sword-text-sparv, read by diatheke).

    It is in the public domain.
    """
    if not shutil.which("diatheke"):
        raise MissingText(
            "The program that reads the Reina-Valera is missing: apt install diatheke sword-text-sparv"
        )
    modules = _run(["diatheke", "-b", "system", "-k", "modulelist"])
    module = re.search(r"^(sparv\w*)", modules, re.IGNORECASE | re.MULTILINE)
    if not module:
        raise MissingText("The Reina-Valera is missing: apt install sword-text-sparv")
    verses = _run(["diatheke", "-b", module[1], "-f", "plain", "-k", "Gen 1:1-Rev 22:21"])
    chapters: dict[str, list[str]] = {}
    for line in verses.splitlines():
        if match := re.match(r"([\w ]+ \d+):\d+: *(.+)", line):
            verse = re.sub(r" *<[HG]\d+>", "", match[2])  # some verses carry Strong's numbers
            chapters.setdefault(match[1], []).append(verse)
    return [(name, "\n".join(lines)) for name, lines in chapters.items()]


def german() -> list[Document]:
    """The Debian Administrator's Handbook in German, a document per section (package debian-handbook)."""
    pages = sorted(HANDBOOK.glob("*.html"))
    if not pages:
        raise MissingText(f"The German handbook is not in {HANDBOOK}: apt install debian-handbook")
    documents = []
    for page in pages:
        reader = _Paragraphs()
        reader.feed(page.read_text(encoding="utf-8"))
        # Some paragraphs of the translation were left in English: they would blur the domain.
        kept = [p for p in reader.paragraphs if len(p) > 60 and not re.search(r"\b(the|and|with|this)\b", p)]
        documents += [(f"{page.stem}/{i // 8}", "\n".join(kept[i : i + 8])) for i in range(0, len(kept), 8)]
    return documents


def jargon() -> list[Document]:
    """The Jargon File 4.4.7, a document per entry (package jargon-text; public domain)."""
    if not JARGON.exists():
        raise MissingText(f"The Jargon File is not at {JARGON}: apt install jargon-text")
    text = gzip.decompress(JARGON.read_bytes()).decode("utf-8", errors="replace")
    documents = []
    for entry in re.split(r"\n\n(?= *:[^\n]+?: )", text):
        if match := re.match(r" *:([^\n]+?): ", entry):
            documents.append((match[1], " ".join(entry.split())))
    return documents


def python() -> list[Document]:
    """Python's standard library, a document per module (PSF licence)."""
    folder = Path(sysconfig.get_path("stdlib"))
    skipped = {
        "test",
        "tests",
        "idlelib",
        "lib2to3",
        "site-packages",
        "encodings",
        "turtledemo",
        "ensurepip",
        "pydoc_data",
    }
    documents = []
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder)
        if skipped.isdisjoint(name.parts) and 2_000 < path.stat().st_size < 200_000:
            documents.append((name.as_posix(), path.read_text(encoding="utf-8", errors="replace")))
    return documents


DOMAINS: dict[str, Callable[[], list[Document]]] = {
    "bible": bible,
    "spanish": spanish,
    "german": german,
    "jargon": jargon,
    "python": python,
}


def is_held_out(name: str) -> bool:
    return zlib.crc32(name.encode()) % HELD_OUT_ONE_IN == 0


def load(held_out: bool) -> dict[str, list[str]]:
    """Documents of every domain: those trained on, or those held out.

    Raises MissingText where a package is not installed.
    """
    return {
        domain: [text for name, text in read() if is_held_out(name) == held_out]
        for domain, read in DOMAINS.items()
    }


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, check=True)
    return done.stdout.decode("utf-8", errors="replace")


class _Paragraphs(HTMLParser):
    """Text of the handbook's paragraphs and listings, without its navigation."""

    def __init__(self) -> None:
        super().__init__()
        self.paragraphs: list[str] = []
        self._open: list[bool] = []  # for every open div, p or pre: does it hold running text?

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("div", "p", "pre"):
            text = tag == "pre" or ("class", "para") in attrs
            self._open.append(text)
            if text:
                self.paragraphs.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("div", "p", "pre") and self._open and self._open.pop():
            self.paragraphs[-1] = " ".join(self.paragraphs[-1].split())

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1]:
            self.paragraphs[-1] += data


if __name__ == "__main__":
    for held_out in (False, True):
        print("held out" if held_out else "training")
        for domain, documents in load(held_out).items():
            print(f"  {domain:8} {len(documents):5} documents {sum(map(len, documents)):>10,} characters")
