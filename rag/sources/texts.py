"""One file of a folder as one row: text, Markdown, HTML."""

from __future__ import annotations

import re
from pathlib import Path

from rag.errors import BadRow, InvalidInput
from rag.sources.html_text import declared_charset, html_text
from rag.sources.lines import Lines
from rag.sources.rows import Row
from rag.sources.settings import COMPRESSIONS, OFFICE
from rag.sources.walk import reason, trouble

_FENCE = re.compile(r" {0,3}(```|~~~)")
_ATX = re.compile(r" {0,3}#{1,6}[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*")


def file_row(path: Path, folder: Path | None, name: str) -> Row:
    """The document of a file: its id is the path below ``folder``, with ``/``.

    The title is ``<title>`` or the first heading (HTML), the first heading (Markdown) or the name
    of the file without its suffix. Line ends become newlines. The text of Markdown is kept as it
    stands; that of HTML is what ``html_text`` makes of it.

    Args:
        path: The file.
        folder: What ids and links are relative to; None for a file given by itself.
        name: What messages call the file.

    Returns:
        A row of line 1 with ``id``, ``title`` and ``text``, or with what is wrong with the file.
    """
    wrong = trouble(path, folder, inside=True) if folder is not None else None
    if wrong is not None:
        return Row(1, b"", BadRow(name, 1, "file", *wrong))
    plain = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    suffix = plain.suffix.lower()
    try:
        if suffix in OFFICE:
            from rag.sources.office import office_text

            title, text = "", office_text(path, suffix, name)
        else:
            data = Lines(path, name).whole()
            title, text = _read(data, suffix, name)
    except BadRow as bad:
        return Row(1, b"", bad)
    except InvalidInput as error:
        fix = "rename the file by what it holds"
        return Row(1, b"", BadRow(name, 1, "file", str(error).removeprefix(f"{name}: "), fix))
    except OSError as error:
        found = f"cannot be read: {reason(error).removeprefix(f'{name}: ')}"
        return Row(1, b"", BadRow(name, 1, "file", found, _READ))
    where = path.relative_to(folder).as_posix() if folder is not None else path.name
    values = {"id": where, "title": title or plain.stem, "text": text}
    return Row(1, b"", values, len(text))


_READ = "see that the file is whole and that you may read it"


def _read(data: bytes, suffix: str, name: str) -> tuple[str, str]:
    """The title (empty if there is none) and the text of a file's bytes."""
    html = suffix in (".html", ".htm", ".xhtml")
    charset = "utf-8"
    try:
        charset = declared_charset(data) if html else "utf-8"
        text = data.decode(charset)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"not {charset.upper()}: byte 0x{data[error.start]:02x}"
        raise BadRow(name, line, "text", found, "save the file as UTF-8") from None
    except LookupError as error:
        raise BadRow(name, 1, "text", str(error), "save the file as UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        fix = "save it as UTF-8 text, or take the file out of the folder"
        raise BadRow(name, line, "text", "a NUL byte: no text, or text in UTF-16", fix)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if html:
        return html_text(text)
    return (_heading(text) if suffix in (".md", ".markdown") else ""), text


def _heading(text: str) -> str:
    """The first heading of Markdown outside of code; empty if there is none."""
    fence, before = "", ""
    for line in text.split("\n"):
        mark = _FENCE.match(line)
        if mark and (not fence or mark[1] == fence):
            fence, before = ("" if fence else mark[1]), ""
            continue
        if fence:
            continue
        if atx := _ATX.fullmatch(line):
            return atx[1].strip()
        if before and _SETEXT.fullmatch(line):
            return before
        before = line.strip() if line[:1] not in (">", "-", "*", "+", "|") else ""
    return ""
