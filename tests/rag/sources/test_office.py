"""PDF and office files. These need the extra ``haystack``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rag.errors import BadRow, MissingExtra
from rag.sources import Reader, Source, office


def test_the_extra_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "haystack", None)
    monkeypatch.setitem(sys.modules, "haystack.components.converters.pypdf", None)
    office._converter.cache_clear()
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4")
    source = Source(type="haystack", path=str(tmp_path))
    with pytest.raises(MissingExtra, match=r"pip install 'ragstone\[haystack\]'"):
        list(Reader(source))
    office._converter.cache_clear()


def texts(path: Path) -> dict[str, tuple[str, str]]:
    reader = Reader(Source(type="haystack", path=str(path)))
    rows = [row for batch in reader for row in batch.to_pylist()]
    return {row["id"]: (row["title"], row["text"]) for row in rows}


def pdf(words: str) -> bytes:
    """A page with one line of text, as small as PDF allows."""
    draw = f"BT /F1 12 Tf 10 10 Td ({words}) Tj ET".encode()
    font = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
    uses = b"/Resources<</Font<</F1 5 0 R>>>>"
    parts = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 50]/Contents 4 0 R%s>>" % uses,
        b"<</Length %d>>stream\n%s\nendstream" % (len(draw), draw),
        font,
    ]
    data, places = b"%PDF-1.4\n", []
    for number, part in enumerate(parts, 1):
        places.append(len(data))
        data += b"%d 0 obj%s endobj\n" % (number, part)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % len(data)
    return data + b"xref\n0 6\n0000000000 65535 f \n" + table + end


@pytest.mark.slow
def test_office_files_beside_texts(tmp_path: Path) -> None:
    pytest.importorskip("haystack")
    docx, pptx = pytest.importorskip("docx"), pytest.importorskip("pptx")
    openpyxl = pytest.importorskip("openpyxl")
    (tmp_path / "in").mkdir()
    (tmp_path / "a.pdf").write_bytes(pdf("Penicillin was found in 1928."))
    (tmp_path / "in" / "b.txt").write_text("plain")
    letter = docx.Document()
    letter.add_paragraph("Radium glows.")
    letter.add_paragraph("So does polonium.")
    letter.save(tmp_path / "in" / "letter.docx")
    slides = pptx.Presentation()
    slides.slides.add_slide(slides.slide_layouts[0]).shapes.title.text = "X-rays"
    slides.save(tmp_path / "slides.pptx")
    book = openpyxl.Workbook()
    book.active.append(["year", "name"])
    book.active.append([1928, "Fleming"])
    book.save(tmp_path / "table.xlsx")
    got = texts(tmp_path)
    assert list(got) == ["a.pdf", "in/b.txt", "in/letter.docx", "slides.pptx", "table.xlsx"]
    assert got["a.pdf"] == ("a", "Penicillin was found in 1928.")
    assert got["in/b.txt"] == ("b", "plain")
    assert got["in/letter.docx"] == ("letter", "Radium glows.\nSo does polonium.")
    assert "X-rays" in got["slides.pptx"][1]
    assert "1928,Fleming" in got["table.xlsx"][1]
    assert texts(tmp_path / "a.pdf") == {"a.pdf": got["a.pdf"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.pdf", "a.docx", "a.pptx", "a.xlsx"])
def test_a_broken_file_is_a_bad_row_with_the_reason(tmp_path: Path, name: str) -> None:
    pytest.importorskip("haystack")
    (tmp_path / name).write_bytes(b"PK no such file")
    with pytest.raises(BadRow, match=rf"{name}:1: field 'file': cannot be converted: .*{name}"):
        texts(tmp_path)


@pytest.mark.slow
def test_a_scan_has_no_text(tmp_path: Path) -> None:
    pytest.importorskip("haystack")
    (tmp_path / "a.pdf").write_bytes(pdf(""))
    with pytest.raises(BadRow, match=r"a\.pdf:1: field 'text': no text in it, as in a scan"):
        texts(tmp_path)
