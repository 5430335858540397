from __future__ import annotations

import html

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.sources.html_text import declared_charset, html_text
from rag.sources.sentences import sentence_spans

CASES = [
    # the page, its title, its text
    ("", "", ""),
    ("plain", "", "plain"),
    ("<title> A &amp;\n B </title><p>x", "A & B", "x"),
    ("<h2>Sub <b>bold</b></h2><h1>Top</h1>x", "Sub bold", "Sub bold\n\nTop\n\nx"),
    ("<head><title>T</title><body><h1>H</h1>", "T", "H"),
    ("<title></title><h1></h1><h2>H</h2>", "H", "H"),
    ("<p>one<p>two\n  three</p>", "", "one\n\ntwo three"),
    ("a<br>b<br/>c<hr>d", "", "a\nb\nc\n\nd"),
    ("<ul><li>a<li>b</ul>c", "", "a\nb\n\nc"),
    ("<table><tr><th>a<th>b<tr><td>c</td> <td>d</td></table>", "", "a\tb\nc\td"),
    ("x <i>y</i><b>z</b>", "", "x yz"),
    ("<pre>a\n  b\n</pre>c", "", "a\n  b\n\nc"),
    ("<script>var a = '<p>no</p>';</script>a<style>p{}</style>b", "", "ab"),
    ("<svg><title>no</title><text>no</text></svg>yes", "", "yes"),
    ("<template><p>no</p></template><noscript>no</noscript>yes", "", "yes"),
    ("a<script src='x'/>b", "", "ab"),
    ("<!-- no --><!DOCTYPE html><?php no ?>yes", "", "yes"),
    ("&lt;p&gt; &eacute;&#233;&#xe9; &nosuch; &#xD800;", "", "<p> ééé &nosuch; \ufffd"),
    ("&#65; &#6;x &#99999999999999;", "", "A x \ufffd"),
    ('<p class="a"">x</p><a href=it\'s>y</a>', "", "x\n\ny"),
    ("1 < 2 <3> </> <a", "", "1 < 2 <3>"),
    ("<![if x]>a<![endif]><!-->b<!--->c<!-- d --!>e<!-- f", "", "abce"),
    ("<TITLE>a <b>c</TITLE ><p>x<title>two</title>", "a <b>c", "x"),
    ("a&nbsp;b", "", "a\u00a0b"),
    ("</p></ul></pre>x</table>", "", "x"),
    ("<div><div><div>a</div></div></div><div>b</div>", "", "a\nb"),
]


@pytest.mark.parametrize(("page", "title", "text"), CASES)
def test_pages(page: str, title: str, text: str) -> None:
    assert html_text(page) == (title, text)


def test_headings_do_not_run_into_the_first_sentence() -> None:
    _, text = html_text("<h1>The heading</h1><p>A sentence. Another.</p><ul><li>Item</ul>")
    parts = [text[start:end] for start, end in sentence_spans(text)]
    assert parts == ["The heading", "A sentence.", "Another.", "Item"]


words = st.lists(st.text("abc<>&\"'é漢", min_size=1, max_size=6), min_size=1, max_size=8)


@given(paragraphs=st.lists(words, max_size=5))
@settings(deadline=None)
def test_escaped_words_come_back(paragraphs: list[list[str]]) -> None:
    page = "".join(f"<p>{html.escape('  '.join(each))}</p>\n" for each in paragraphs)
    assert html_text(page)[1] == "\n\n".join(" ".join(each) for each in paragraphs)


@given(st.text("<>/!-='\"&;#x ap[]?\n", max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_markup_is_read(page: str) -> None:
    title, text = html_text(page)
    assert title == title.strip()
    assert text == text.strip(" \n")


@pytest.mark.parametrize(
    ("page", "name"),
    [
        (b"<p>x", "utf-8"),
        (b"<meta charset=utf-8>", "utf-8"),
        (b'<META http-equiv=x content="text/html; charset=ISO-8859-1">', "cp1252"),
        (b"<meta charset='koi8-r'>", "koi8-r"),
        (b"<meta charset=utf-16>", "utf-8"),
        (b" " * 1024 + b"<meta charset=koi8-r>", "utf-8"),
    ],
)
def test_the_declared_encoding(page: bytes, name: str) -> None:
    assert declared_charset(page) == name


HOSTILE = ["<", "<a ", "<!", "<!--", "<![", "</", "&", "&#9", "<a b='", "<a b=\"'>", "<p>", "<?"]
HOSTILE += [
    "<svg>",
    "</math>",
    "<title>",
    "<script>",
    "<pre>",
    "<h1>",
    "<a b=",
    "<a\n=",
    "&#99999999",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_megabyte_of_hostile_markup_is_read(piece: str) -> None:
    # With time that grows as the square of the length, this would not come to an end.
    html_text(piece * (1_000_000 // len(piece)))
    html_text("<svg>" * 100_000 + piece * 100_000)
