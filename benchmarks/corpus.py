"""A corpus of real English text, made from the documentation packages of Debian.

    python benchmarks/corpus.py --out corpus

needs apt-get with a Debian release's sources, and dpkg-deb; nothing is installed. The packages that
``corpus_packages.txt`` names are downloaded into ``--out``/debs (those there already are kept),
their web pages, manual pages, dictionaries and plain texts are read, and passages of 100 words are
written to ``passages.jsonl`` (``_id``, ``title``, ``text``), with what they were made from in
``corpus.json``. The same packages give the same bytes; the record names their versions and hashes.

A paragraph is kept when it looks like English prose (see ``prose``) and did not come before in any
package, so that menus, licences and repeated headers are there once. The passages of a document
are its kept paragraphs, cut every 100 words, as DPR cut Wikipedia (Karpukhin et al., 2020, 4.1); no
two passages are equal.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any
from zlib import error as ZlibError

from rag.sources.html_text import declared_charset, html_text

WORDS = 100
SHORTEST = 20
LARGEST = 32 * 1024 * 1024
NAMES = Path(__file__).with_name("corpus_packages.txt")

HTML = (".html", ".htm", ".xhtml", ".page")
PLAIN = (".txt", ".rst", ".md", ".text", ".adoc", ".pod", ".info", ".rtx", ".dict")
MAN = re.compile(r"usr/share/man/man\d/")
MDOC = frozenset(("Nm", "Fl", "Ar", "Pa", "Em", "Sy", "Xr", "Cm", "Dv", "Va", "Fa", "Dq", "Ql"))
FORTUNES = "usr/share/games/fortunes/"
LEFT_OUT = re.compile(r"(?i)(?:^|/)(?:changelog|copyright|licen[cs]e|copying|genindex|search)\b")

COMMON = """the of and to a is that it with as be are by this on or an from which not at can was
have you will has were his he all but they for in if when"""
SMALL = frozenset(COMMON.split())
WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")

Document = tuple[str, str, list[str]]  # where it stands, its title, its paragraphs


def prose(paragraph: str) -> bool:
    """Whether English words are most of a paragraph, and small words many of them.

    At least 5 words; letters and spaces at least three quarters of the characters; at least 18% of
    the words among the commonest of English: running text has 40%, a listing of code hardly any.
    """
    words = WORD.findall(paragraph)
    if len(words) < 5:
        return False
    letters = sum(map(len, words)) + paragraph.count(" ")
    small = sum(word.lower() in SMALL for word in words)
    return letters >= 0.75 * len(paragraph) and small >= 0.18 * len(words)


def man_text(source: str) -> str:
    """The text of a manual page in roff with the macros man or mdoc.

    What the page looks like is lost, and so are tables; paragraphs and words are kept.
    """
    out = []
    for line in source.split("\n"):
        line = re.sub(r"\\\".*|\\[fF](?:\(..|\[[^]]*\]|.)|\\s[-+]?\d|\\[&|^/,:%)]", "", line)
        line = re.sub(r"\\\((?:aq|cq|oq)", "'", line)
        line = re.sub(r"\\\((?:lq|rq|dq)|\\\*\([lr]q", '"', line)
        line = re.sub(r"\\\((?:em|en|mi|hy)|\\-", "-", line).replace("\\e", "\\")
        line = re.sub(r"\\\(..|\\\[[^]]*\]|\\\*(?:\(..|.)", "", line).replace("\\ ", " ")
        if line[:1] not in (".", "'"):
            out.append(line)
            continue
        macro, _, rest = line[1:].strip().partition(" ")
        if macro in ("B", "I", "BR", "RB", "BI", "IB", "IR", "RI", "SM", "SB"):
            pieces = re.findall(r'"([^"]*)"|(\S+)', rest)
            out.append(("" if len(macro) == 2 else " ").join(a or b for a, b in pieces))
        elif macro in MDOC:
            out.append(rest)
        else:
            out.append("")
    return "\n".join(out)


def document(path: str, data: bytes) -> tuple[str, str] | None:
    """The title and the text of a file of a package; None where it is not text to read."""
    if path.endswith((".gz", ".dz")):
        path, data = path[:-3], gzip.decompress(data)
    suffix, name = PurePosixPath(path).suffix.lower(), PurePosixPath(path).stem
    if b"\0" in data:
        return None
    if suffix in HTML:
        title, text = html_text(data.decode(_charset(data), errors="replace"))
        return title or name, text
    text = data.decode("utf-8", errors="replace")
    if MAN.match(path):
        return PurePosixPath(path).name, man_text(text)
    if path.startswith(FORTUNES):
        return name, re.sub(r"(?m)^%$", "\n", text)
    return (name, text) if suffix in PLAIN else None


def _charset(data: bytes) -> str:
    try:
        return declared_charset(data)
    except LookupError:  # a page of a package with an encoding of its own
        return "utf-8"


def wanted(path: str) -> bool:
    """Whether a file of a package may hold text."""
    plain = path.removesuffix(".gz").removesuffix(".dz")
    known = PurePosixPath(plain).suffix.lower() in (*HTML, *PLAIN)
    return (known or bool(MAN.match(path)) or path.startswith(FORTUNES)) and not LEFT_OUT.search(
        path
    )


def documents(deb: Path) -> list[Document]:
    """The documents of a package with their paragraphs of prose, in the order of their paths."""
    found = []
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        for member in archive:
            path = member.name.removeprefix("./")
            file = archive.extractfile(member) if member.isreg() else None
            if file is None or member.size > LARGEST or not wanted(path):
                continue
            try:
                read = document(path, file.read())
            except (OSError, EOFError, ZlibError):  # not what its name says
                continue
            if read is not None and (kept := paragraphs(read[1])):
                found.append((path, " ".join(read[0].split())[:200], kept))
    if process.returncode:
        raise SystemExit(f"{deb.name}: dpkg-deb ended with code {process.returncode}")
    return sorted(found)


def paragraphs(text: str) -> list[str]:
    """The paragraphs of prose of a text, with single spaces."""
    parts = (" ".join(part.split()) for part in re.split(r"\n[ \t]*\n|\x1f", text))
    return [part for part in parts if "\ufffd" not in part and prose(part)]


def passages(found: Iterator[tuple[str, list[Document]]]) -> Iterator[tuple[str, dict[str, str]]]:
    """The package and the row of each passage, without what came before."""
    seen: set[bytes] = set()
    written: set[bytes] = set()
    for package, of_package in found:
        for path, title, kept in of_package:
            words: list[str] = []
            for paragraph in kept:
                if _new(paragraph, seen):
                    words += paragraph.split(" ")
            where = f"{package}/{path.removeprefix('usr/share/').removeprefix('doc/')}"
            for number, start in enumerate(range(0, len(words), WORDS)):
                piece = words[start : start + WORDS]
                text = " ".join(piece)
                if len(piece) >= SHORTEST and _new(text, written):
                    yield package, {"_id": f"{where}#{number}", "title": title, "text": text}


def _new(text: str, seen: set[bytes]) -> bool:
    """Whether ``text`` is not among ``seen``, to which it is added."""
    before = len(seen)
    seen.add(hashlib.blake2b(text.encode(), digest_size=8).digest())
    return len(seen) > before


def downloaded(names: list[str], folder: Path) -> dict[str, Path]:
    """The file of each package, fetched where it is not in ``folder`` yet."""
    folder.mkdir(parents=True, exist_ok=True)
    there = {file.name.partition("_")[0] for file in folder.glob("*.deb")}
    if missing := [name for name in names if name not in there]:
        subprocess.run(["apt-get", "download", "-qq", *missing], cwd=folder, check=True)
    files: dict[str, Path] = {}
    for name in names:
        fitting = sorted(folder.glob(f"{name}_*.deb"))
        if len(fitting) != 1:
            raise SystemExit(f"{folder}: {len(fitting)} versions of {name}; leave one")
        files[name] = fitting[0]
    return files


def write(files: dict[str, Path], out: Path, workers: int) -> dict[str, Any]:
    """Write the passages of the packages, in order of their names, and return the record."""
    count: dict[str, int] = dict.fromkeys(files, 0)
    words = characters = 0
    digest = hashlib.sha256()
    with ProcessPoolExecutor(workers) as pool, (out / "passages.jsonl.part").open("wb") as file:
        read = zip(files, pool.map(documents, files.values()), strict=True)
        for package, row in passages(read):
            line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
            file.write(line)
            digest.update(line)
            count[package] += 1
            words += row["text"].count(" ") + 1
            characters += len(row["text"])
    os.replace(out / "passages.jsonl.part", out / "passages.jsonl")
    made_from = []
    for name, deb in files.items():
        with deb.open("rb") as data:
            sha256 = hashlib.file_digest(data, "sha256").hexdigest()
        version = deb.name.split("_")[1].replace("%3a", ":")
        row = {"name": name, "version": version, "sha256": sha256, "passages": count[name]}
        made_from.append(row)
    return {
        "passages": sum(count.values()),
        "words": words,
        "characters": characters,
        "sha256": digest.hexdigest(),
        "packages": made_from,
    }


def lines(record: dict[str, Any]) -> str:
    """The record as JSON with a line for each package."""
    packages = ",\n  ".join(map(json.dumps, record["packages"]))
    head = json.dumps({**record, "packages": []}, indent=1)
    return head.replace('"packages": []', f'"packages": [\n  {packages}\n ]') + "\n"


def main() -> None:
    """Read the arguments, make the corpus and say how large it is."""
    parser = argparse.ArgumentParser(description="real English text, see the file's docstring")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--packages", type=Path, default=NAMES, help="their names, one a line")
    parser.add_argument("--workers", type=int, default=2, help="processes that read packages")
    args = parser.parse_args()
    names = sorted(set(args.packages.read_text().split()))
    record = write(downloaded(names, args.out / "debs"), args.out, args.workers)
    (args.out / "corpus.json").write_text(lines(record))
    sys.stdout.write(f"{record['passages']:,} passages, {record['words']:,} words\n")


if __name__ == "__main__":
    main()
