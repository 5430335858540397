"""The text and the title of an HTML page.

``html.parser`` is not used: in the versions of Python that we support it takes the square of the
length for an unclosed tag, and stops with an AssertionError at a broken declaration. What is
needed of HTML here is little: where tags, comments and raw texts end (WHATWG, HTML, section
13.2.5), which all of ``_TOKEN`` says, in one pass.
"""

from __future__ import annotations

import codecs
import re
from html import unescape

_DROPPED = frozenset(("template", "noscript", "svg", "math"))
_RAW = frozenset(("script", "style", "iframe", "title"))  # no tags inside, but their own end
_HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
_BREAKS: dict[str, str] = {
    **dict.fromkeys(("td", "th"), "\t"),
    **dict.fromkeys(("br", "caption", "dd", "div", "dt", "figcaption"), "\n"),
    **dict.fromkeys(("li", "option", "summary", "tr"), "\n"),
    **dict.fromkeys(("address", "article", "aside", "blockquote", "body", "dl"), "\n\n"),
    **dict.fromkeys(("fieldset", "figure", "footer", "form", "header", "hr", "main"), "\n\n"),
    **dict.fromkeys(("h1", "h2", "h3", "h4", "h5", "h6", "p", "pre"), "\n\n"),
    **dict.fromkeys(("nav", "ol", "section", "table", "title", "ul"), "\n\n"),
}
"""What stands between the text before a tag and the text after it. The longest of several wins."""

_TOKEN = re.compile(
    r"""
    <!-- (?: -?> | .*? (?: --!?> | \Z ) )
    | < (?: [!?] | /(?![a-z]) ) [^>]*+ >?
    | < (?P<close>/?) (?P<name>[a-z][^\s/>]*+)
      (?: [^\s/>=]++ (?: \s*+ = \s*+ (?: "[^"]*+" | '[^']*+' | [^\s"'>][^\s>]*+ )?+ )?+
        | [\s/=]++ )*+
      (?: > | \Z )
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE | re.ASCII,
)
_BLANKS = re.compile(r"[ \t\n\r\f]+")
_LONG = re.compile(r"&#(?:[0-9]{8,}|[xX][0-9a-fA-F]{8,});?")  # no character, and slow to read
_CHARSET = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]{1,40})", re.IGNORECASE
)


def html_text(page: str) -> tuple[str, str]:
    """The title (``<title>``, else the first heading, else empty) and the text of a page.

    Scripts, styles, templates, frames, drawings and formulas are dropped, entities are decoded.
    Paragraphs, headings, lists and tables stand between blank lines; ``<br>``, list items and rows
    of a table begin a line; cells stand between tabs. Other runs of whitespace are one space,
    except inside ``<pre>``. As in a browser, what is not closed reaches to the end of the page.
    """
    parts, at = _Page(), 0
    while match := _TOKEN.search(page, at):
        parts.data(page[at : match.start()])
        at, name = match.end(), (match["name"] or "").lower()
        empty = match[0].endswith("/>")
        if name in _RAW and not match["close"] and not empty:
            end = re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE).search(page, at)
            stop = end.start() if end else len(page)
            if name == "title":
                parts.page_title(page[at:stop])
            at = stop
        elif name:
            parts.tag(name, close=bool(match["close"]), empty=empty)
    parts.data(page[at:])
    return parts.title(), parts.text()


def declared_charset(data: bytes) -> str:
    """The encoding that ``<meta charset>`` declares in the first 1,024 bytes, else ``utf-8``.

    Latin-1 is read as Windows-1252, as browsers do (WHATWG, Encoding, section 4.2).

    Raises:
        LookupError: Python does not know the encoding.
    """
    match = _CHARSET.search(data[:1024])
    if match is None:
        return "utf-8"
    name = codecs.lookup(match[1].decode()).name
    if name.startswith("utf-16"):  # a page that can be searched for ASCII is not UTF-16
        return "utf-8"
    return "cp1252" if name in ("iso8859-1", "ascii") else name


class _Page:
    """Takes the tags and the text between them, in order."""

    def __init__(self) -> None:
        self._dropped, self._depth = "", 0  # the element whose content is dropped, how often open
        self._pre = 0
        self._run: list[str] = []  # the text since the last break
        self._wanted = ""  # the break before it
        self._out: list[str] = []
        self._title: str | None = None
        self._heading: list[str] | None = None
        self._in_heading = False

    def tag(self, name: str, *, close: bool, empty: bool) -> None:
        if self._dropped:
            if name == self._dropped and not empty:
                self._depth += -1 if close else 1
                self._dropped = self._dropped if self._depth else ""
        elif name in _DROPPED:
            if not close and not empty:
                self._dropped, self._depth = name, 1
        else:
            self._break(_BREAKS.get(name, ""))
            if name == "pre":
                self._pre = max(self._pre + (-1 if close else 1), 0)
            if name in _HEADINGS:
                if not close and self._heading is None:
                    self._heading = []
                self._in_heading = not close and not self._heading

    def data(self, raw: str) -> None:
        if raw and not self._dropped:
            text = _decoded(raw)
            self._run.append(text)
            if self._in_heading and self._heading is not None:
                self._heading.append(text)

    def page_title(self, raw: str) -> None:
        if self._title is None and not self._dropped:
            self._title = _BLANKS.sub(" ", _decoded(raw)).strip()

    def title(self) -> str:
        return self._title or _BLANKS.sub(" ", "".join(self._heading or ())).strip()

    def text(self) -> str:
        self._break("\n")
        return "".join(self._out)

    def _break(self, kind: str) -> None:
        """End the run of text, if there is a break here."""
        if not kind:
            return
        text = "".join(self._run)
        text = text.strip("\n") if self._pre else _BLANKS.sub(" ", text).strip(" ")
        if text:
            self._out += [self._wanted if self._out else "", text]
            self._wanted = ""
        self._run = []
        self._wanted = max(self._wanted, kind, key=("", "\t", "\n", "\n\n").index)


def _decoded(raw: str) -> str:
    return unescape(_LONG.sub("\ufffd", raw))
