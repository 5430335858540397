"""A corpus written in the convention of another tool, read here, is the corpus."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag.errors import BadRow, InvalidInput
from rag.sources import Reader, Source, Split, detect
from rag.sources.settings import Type

quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
unicode = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
filled = unicode.filter(lambda text: bool(text) and not text.isspace())
cell = unicode.map(lambda text: text.translate(str.maketrans("\t\n\r", "---")))
full_cell = cell.map(lambda text: f"x{text}")


def read(kind: Type, path: Path, **more: Any) -> list[dict[str, Any]]:
    reader = Reader(Source(type=kind, path=str(path), **more))
    return [row for batch in reader for row in batch.to_pylist()]


def triples(kind: Type, path: Path) -> list[tuple[str, str, str]]:
    return [(row["id"], row["title"], row["text"]) for row in read(kind, path)]


def with_ids(rows: list[tuple[str, str]], ids: str = "{}") -> list[tuple[str, str, str]]:
    return [(ids.format(number), *row) for number, row in enumerate(rows)]


@quick
@given(texts=st.lists(full_cell, max_size=6))
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_ms_marco(tmp_path: Path, texts: list[str], suffix: str) -> None:
    data = "".join(f"{pid}\t{text}\n" for pid, text in enumerate(texts)).encode()
    path = tmp_path / f"collection.tsv{suffix}"
    pack = {"": bytes, ".gz": gzip.compress, ".zst": pa.Codec("zstd").compress}[suffix]
    path.write_bytes(bytes(pack(data)))
    assert triples("msmarco", path) == [(str(pid), "", text) for pid, text in enumerate(texts)]


@quick
@given(rows=st.lists(st.tuples(cell, full_cell), max_size=6), tab=st.booleans())
def test_seal_whose_ids_hold_spaces(tmp_path: Path, rows: list[tuple[str, str]], tab: bool) -> None:
    wanted = with_ids([(title, text + '\ta "tab"' * tab) for title, text in rows], "{}, 12")
    path = tmp_path / "passages.tsv"
    path.write_bytes("".join("\t".join(row) + "\n" for row in wanted).encode())
    assert triples("seal", path) == wanted


@quick
@given(rows=st.lists(st.tuples(unicode, filled), max_size=6), quoted=st.booleans())
def test_dpr_as_the_csv_module_writes_it(
    tmp_path: Path, rows: list[tuple[str, str]], quoted: bool
) -> None:
    wanted = with_ids(rows)
    out = io.StringIO(newline="")
    if quoted:
        writer = csv.writer(out, delimiter="\t", quoting=csv.QUOTE_ALL)
    else:
        writer = csv.writer(out, delimiter="\t")
    writer.writerow(["id", "text", "title"])
    writer.writerows((name, text, title) for name, title, text in wanted)
    path = tmp_path / "psgs_w100.tsv"
    path.write_bytes(out.getvalue().encode())
    assert detect(path).type == "dpr"
    assert triples("dpr", path) == wanted


def test_dpr_as_it_is_published(tmp_path: Path) -> None:
    path = tmp_path / "psgs_w100.tsv"
    path.write_text(
        'id\ttext\ttitle\n1\t"Aaron Aaron ( or ; ""Ahärôn"") is a prophet"\tAaron\n'
        '2\tno quotes needed, nor for 5" in the middle\tInch\n'
    )
    assert triples("dpr", path) == [
        ("1", "Aaron", 'Aaron Aaron ( or ; "Ahärôn") is a prophet'),
        ("2", "Inch", 'no quotes needed, nor for 5" in the middle'),
    ]


def test_dpr_with_literal_quotes_is_told_to_be_tsv(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('id\ttext\ttitle\n1\t"Aaron" is a name\tAaron\n2\tfine\tB\n')
    with pytest.raises(BadRow, match=r"a\.tsv:2: .* plain text in this file, use type 'tsv'"):
        read("dpr", path)
    assert triples("tsv", path)[0] == ("1", "Aaron", '"Aaron" is a name')


paragraphs = st.lists(unicode, max_size=4).filter(lambda each: bool("".join(each).strip()))


@quick
@given(rows=st.lists(st.tuples(unicode, paragraphs), max_size=5))
def test_kilt_knowledge_source(tmp_path: Path, rows: list[tuple[str, list[str]]]) -> None:
    path = tmp_path / "kilt_knowledgesource.json"
    pages = [
        {"_id": str(n), "wikipedia_id": str(n), "wikipedia_title": title, "text": text,
         "categories": "A,B", "anchors": [{"paragraph_id": 1, "start": 0}]}
        for n, (title, text) in enumerate(rows)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(page) + "\n" for page in pages))
    wanted = with_ids([(title, "\n".join(text)) for title, text in rows])
    assert triples("kilt", path) == wanted
    for row, page in zip(read("kilt", path), pages, strict=True):
        rest = ("_id", "anchors", "categories")
        assert json.loads(row["meta"]) == {key: page[key] for key in rest}
    for split in (Split(by="words", size=2), Split(by="sentences", size=1)):
        reader = Reader(Source(type="kilt", path=str(path)), split=split)
        texts = {name: text for name, _, text in wanted}
        for row in (row for batch in reader for row in batch.to_pylist()):
            assert row["text"] == texts[row["document"]][row["start"] : row["end"]]


@pytest.mark.parametrize(
    ("text", "found"),
    [('["a", 7]', "paragraph 2 is the number 7"), ("[]", "empty"), ("7", "'text' is the number")],
)
def test_a_bad_page_of_kilt(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "k.jsonl"
    path.write_text(f'{{"wikipedia_id": "1", "wikipedia_title": "T", "text": {text}}}\n')
    with pytest.raises(BadRow, match=f"k.jsonl:1: field 'text': .*{found}"):
        read("kilt", path)


@quick
@given(rows=st.lists(st.tuples(cell, filled), max_size=6))
def test_flashrag_and_pyserini(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    path = tmp_path / "corpus.jsonl"
    lines = [{"id": n, "contents": f"{title}\n{text}"} for n, (title, text) in enumerate(rows)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert triples("flashrag", path) == with_ids(rows)
    whole = [(str(line["id"]), "", line["contents"]) for line in lines]
    assert triples("jsonl", path) == whole


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"contents": "one line"}, "no line break between a title and a text"),
        ({"contents": "T\n "}, "only whitespace"),
        ({"contents": ["T", "x"]}, "'contents' is a list"),
        ({"text": "x"}, "no 'contents'"),
    ],
)
def test_a_bad_row_of_flashrag(tmp_path: Path, row: dict[str, Any], found: str) -> None:
    (tmp_path / "c.jsonl").write_text(json.dumps({"id": "a", **row}) + "\n")
    with pytest.raises(BadRow, match=f"c.jsonl:1: field 'text': .*{found}"):
        read("flashrag", tmp_path / "c.jsonl")


def test_a_pyserini_folder_of_json_lines(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.jsonl").write_text('{"id": "1", "contents": "x"}\n')
    (tmp_path / "b" / "c.json").write_text('{"id": "2", "contents": "y", "vector": {"y": 1.5}}\n')
    (tmp_path / "notes.txt").touch()
    rows = read("jsonl", tmp_path)
    assert [(row["id"], row["text"]) for row in rows] == [("1", "x"), ("2", "y")]
    assert rows[1]["meta"] == '{"vector":{"y":1.5}}'


@quick
@given(rows=st.lists(st.tuples(unicode, filled), max_size=6))
def test_beir(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    wanted = with_ids(rows)
    lines = [{"_id": n, "title": title, "text": text, "metadata": {}} for n, title, text in wanted]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert triples(detect(tmp_path).type, tmp_path) == wanted


@pytest.mark.parametrize(
    ("kind", "good", "bad", "found"),
    [
        ("msmarco", "0\tx\n", "1 no tab\n", "1 cells between tabs, not 2; write id, text"),
        ("msmarco", "0\tx\n", "1\ty\tz\n", "3 cells between tabs, not 2"),
        ("msmarco", "0\tx\n", "0\ty\n", "'0' is the id of line 1 too"),
        ("msmarco", "0\tx\n", "1\t \n", "only whitespace"),
        ("seal", "0\tt\tx\n", "1\tt\n", "2 cells between tabs, not 3; write id, title, text"),
        ("seal", "0\tt\tx\n", "\tt\tx\n", "'id' is empty"),
    ],
)
def test_a_bad_row_without_a_header(
    tmp_path: Path, kind: Type, good: str, bad: str, found: str
) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(good + bad)
    with pytest.raises(BadRow, match=rf"a\.tsv:2: .*{found}"):
        read(kind, path)
    source = Source(type=kind, path=str(path), on_bad="skip")
    reader = Reader(source, skipped=tmp_path / "bad.jsonl")
    assert [batch.num_rows for batch in reader] == [1]
    assert json.loads((tmp_path / "bad.jsonl").read_text())["row"] == bad[:-1]


def test_a_tsv_file_without_a_header_is_told_its_type(tmp_path: Path) -> None:
    path = tmp_path / "collection.tsv"
    path.write_text("0\tThe presence of communication\n1\tThe Manhattan Project\n")
    with pytest.raises(BadRow, match=r"no header line, give the source the type 'msmarco' \(id"):
        read(detect(path).type, path)


def test_columns_that_a_headerless_type_lacks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("0\tx\n")
    source = Source(type="msmarco", path=str(tmp_path / "a.tsv"))
    with pytest.raises(InvalidInput, match="'msmarco' has the columns id, text, and none .*'year'"):
        Reader(source, fields={"year": "int"})
    with pytest.raises(InvalidInput, match="none called 'pid' for 'id'"):
        Reader(source.model_copy(update={"fields": {"id": "pid"}}))
