from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag.errors import RagError
from rag.passages import FieldType, passage_schema
from rag.sources import Reader, Source, Split, detect

EXAMPLE = Path(__file__).parents[3] / "examples" / "xquad-en"

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
}

unicode = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
names = unicode.filter(lambda text: bool(text) and not text.isspace())


def write_json(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(reader: Reader) -> list[dict[str, Any]]:
    return [row for batch in reader for row in batch.to_pylist()]


def test_the_shipped_collection_reads_as_a_naive_reading_does() -> None:
    path = EXAMPLE / "corpus.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        naive = [json.loads(line) for line in file]
    reader = Reader(detect(EXAMPLE))
    rows = read(reader)
    assert [(r["id"], r["document"], r["title"], r["text"]) for r in rows] == [
        (d["_id"], d["_id"], d["title"], d["text"]) for d in naive
    ]
    assert {(r["part"], r["start"], r["meta"]) for r in rows} == {(0, 0, "{}")}
    assert [r["end"] for r in rows] == [len(d["text"]) for d in naive]
    assert (reader.rows, reader.bad) == (len(naive), 0)
    assert reader.bytes_read == reader.bytes_total == path.stat().st_size
    assert rows == read(Reader(detect(path)))  # as one file


@pytest.mark.parametrize("suffix", list(PACKERS))
def test_batches_are_small_typed_and_in_order_whatever_the_compression(
    tmp_path: Path, suffix: str
) -> None:
    data = b"".join(b'{"id": %d, "text": "t%d", "year": %d}\n' % (i, i, i) for i in range(4500))
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(PACKERS[suffix](data))
    fields: dict[str, FieldType] = {"year": "int"}
    batches = list(Reader(detect(path), fields=fields))
    assert [batch.num_rows for batch in batches] == [2000, 2000, 500]
    assert all(batch.schema == passage_schema(fields) for batch in batches)
    assert pa.Table.from_batches(batches)["year"].to_pylist() == list(range(4500))


def test_several_compressed_members_are_one_stream(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    members = [b'{"id": "a", "te', b'xt": "x"}\n{"id": "b",', b' "text": "y"}']
    path.write_bytes(b"".join(map(gzip.compress, members)))
    assert [row["id"] for row in read(Reader(detect(path)))] == ["a", "b"]


def test_reading_is_lazy_and_counts_as_it_goes(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.jsonl", [{"id": i, "text": "x" * 500} for i in range(9000)])
    reader = Reader(detect(path))
    assert (reader.rows, reader.bytes_read) == (0, 0)
    next(iter(reader))
    assert reader.rows == 2000
    assert 0 < reader.bytes_read < reader.bytes_total


def test_reading_twice_gives_the_same(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.jsonl", [{"id": "a", "text": "x"}, {"id": "b", "text": "y"}])
    reader = Reader(detect(path))
    assert read(reader) == read(reader)
    assert reader.rows == 2


def test_few_large_documents_are_not_held_together(tmp_path: Path) -> None:
    rows = [{"id": i, "text": "x" * 9_000_000} for i in range(4)]
    reader = Reader(detect(write_json(tmp_path / "a.jsonl", rows)))
    batches = iter(reader)
    assert next(batches).num_rows == 2
    assert reader.bytes_read < reader.bytes_total
    assert next(batches).num_rows == 2


@pytest.mark.parametrize("data", [b"", b"\n \n\r\n"])
def test_a_json_file_without_rows_has_no_batches(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(data)
    assert list(Reader(detect(tmp_path / "a.jsonl"))) == []


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_byte_order_mark_carriage_returns_and_blank_lines_do_no_harm(
    tmp_path: Path, suffix: str
) -> None:
    lines = {
        ".jsonl": ['{"id":"a","text":"é"}', "", '{"id":"b","text":"y"}'],
        ".csv": ["id,text", "a,é", "", "b,y"],
        ".tsv": ["id\ttext", "a\té", "", "b\ty"],
    }[suffix]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())  # no newline at the end
    assert [(r["id"], r["text"]) for r in read(Reader(detect(path)))] == [("a", "é"), ("b", "y")]


def test_defaults_take_the_first_known_key_and_the_rest_is_meta(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "x", "id": "second", "_id": "first", "contents": "other"},
        {"docid": 7, "contents": "y", "title": None, "metadata": {"b": "é\u2028", "a": [1, None]}},
    ]
    first, second = read(Reader(detect(write_json(tmp_path / "a.jsonl", rows))))
    assert (first["id"], first["title"], first["text"]) == ("first", "", "x")
    assert first["meta"] == '{"contents":"other","id":"second"}'
    assert (second["id"], second["text"], second["title"]) == ("7", "y", "")
    assert second["meta"] == '{"metadata":{"a":[1,null],"b":"é\u2028"}}'


def test_mapped_keys_replace_the_defaults(tmp_path: Path) -> None:
    rows = [{"url": "u", "name": "n", "body": "b", "y": 5, "id": "i", "title": "t", "text": "x"}]
    path = write_json(tmp_path / "a.jsonl", rows)
    mapping = {"id": "url", "title": "name", "text": "body", "year": "y", "link": "url"}
    source = Source(type="jsonl", path=str(path), fields=mapping)
    (row,) = read(Reader(source, fields={"year": "int", "link": "str"}))
    assert (row["id"], row["title"], row["text"]) == ("u", "n", "b")
    assert (row["year"], row["link"]) == (5, "u")
    assert row["meta"] == '{"id":"i","text":"x","title":"t"}'


FIELDS: dict[str, FieldType] = {"s": "str", "i": "int", "f": "float", "b": "bool"}


def test_declared_fields_of_json(tmp_path: Path) -> None:
    rows = [
        {"id": 0, "text": "x", "s": "", "i": -(2**63), "f": 2, "b": False},
        {"id": 1, "text": "x", "s": None, "i": None, "f": None, "b": None},
        {"id": 2, "text": "x"},
    ]
    got = read(Reader(detect(write_json(tmp_path / "a.jsonl", rows)), fields=FIELDS))
    assert [got[0][name] for name in FIELDS] == ["", -(2**63), 2.0, False]
    assert [[row[name] for name in FIELDS] for row in got[1:]] == [[None] * 4] * 2
    assert {row["meta"] for row in got} == {"{}"}


def test_declared_fields_of_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("id\ttext\ts\ti\tf\tb\n0\tx\t\t+7\t-.5e1\tTRUE\n1\tx\tz\t\t\t\n")
    got = read(Reader(detect(path), fields=FIELDS))
    assert [got[0][name] for name in FIELDS] == ["", 7, -5.0, True]
    assert [got[1][name] for name in FIELDS] == ["z", None, None, None]


def test_a_beir_document_may_have_a_title_alone(tmp_path: Path) -> None:
    rows = [{"_id": "a", "title": "T", "text": ""}, {"_id": "b", "title": "", "text": "x"}]
    write_json(tmp_path / "corpus.jsonl", rows)
    got = read(Reader(detect(tmp_path)))
    assert [(r["title"], r["text"], r["end"]) for r in got] == [("T", "", 0), ("", "x", 1)]
    cut = read(Reader(detect(tmp_path), split=Split(by="words", size=5)))
    assert [(r["id"], r["text"]) for r in cut] == [("a#0", ""), ("b#0", "x")]


def test_tsv_quotation_marks_are_text_and_csv_ones_are_not(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('id\ttext\n"a"\tsay "hi", "\n')
    (tmp_path / "a.csv").write_text('id,text\n"a","say ""hi"",\nthere"\n')
    (row,) = read(Reader(detect(tmp_path / "a.tsv")))
    assert (row["id"], row["text"]) == ('"a"', 'say "hi", "')
    (row,) = read(Reader(detect(tmp_path / "a.csv")))
    assert (row["id"], row["text"]) == ("a", 'say "hi",\nthere')


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_long_lines_are_read(tmp_path: Path, suffix: str) -> None:
    text = "word " * 300_000  # more than a chunk, and than the default limit of the csv module
    head = {".jsonl": "", ".csv": "id,text\n", ".tsv": "id\ttext\n"}[suffix]
    body = {
        ".jsonl": json.dumps({"id": "a", "text": text}),
        ".csv": f'a,"{text}"',
        ".tsv": f"a\t{text}",
    }[suffix]
    (tmp_path / f"a{suffix}").write_text(head + body + "\n")
    (row,) = read(Reader(detect(tmp_path / f"a{suffix}")))
    assert row["text"] == text


table = st.lists(st.tuples(names, unicode, names), unique_by=lambda row: row[0], max_size=6)
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def triples(path: Path) -> list[tuple[str, str, str]]:
    return [(r["id"], r["title"], r["text"]) for r in read(Reader(detect(path)))]


@quick
@given(rows=table, ascii_only=st.booleans())
def test_any_unicode_survives_json(
    tmp_path: Path, rows: list[tuple[str, str, str]], ascii_only: bool
) -> None:
    path = tmp_path / "a.jsonl"
    objects = [dict(zip(("id", "title", "text"), row, strict=True)) for row in rows]
    lines = [json.dumps(value, ensure_ascii=ascii_only) + "\n" for value in objects]
    path.write_bytes("".join(lines).encode())
    assert triples(path) == rows


@quick
@given(rows=table, end=st.sampled_from(["\n", "\r\n"]))
def test_any_unicode_survives_csv(
    tmp_path: Path, rows: list[tuple[str, str, str]], end: str
) -> None:
    path = tmp_path / "a.csv"
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("id", "title", "text"), *rows])
    path.write_bytes(out.getvalue().encode())
    assert triples(path) == rows


@quick
@given(rows=table)
def test_any_unicode_without_tabs_and_line_ends_survives_tsv(
    tmp_path: Path, rows: list[tuple[str, str, str]]
) -> None:
    plain = str.maketrans("\t\n\r", "---")
    rows = [(f"{i}{a.translate(plain)}", b.translate(plain), c.translate(plain))
            for i, (a, b, c) in enumerate(rows)]  # fmt: skip
    path = tmp_path / "a.tsv"
    path.write_bytes(
        "".join("\t".join(r) + "\n" for r in [("id", "title", "text"), *rows]).encode()
    )
    assert triples(path) == rows


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | unicode,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(unicode, inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@quick
@given(rest=st.dictionaries(unicode.map(lambda key: f"x{key}"), values, max_size=4))
def test_meta_keeps_every_other_key(tmp_path: Path, rest: dict[str, Any]) -> None:
    (row,) = read(
        Reader(detect(write_json(tmp_path / "a.jsonl", [{"id": 1, "text": "x", **rest}])))
    )
    assert json.loads(row["meta"]) == rest
    compact = {"sort_keys": True, "ensure_ascii": False, "separators": (",", ":")}
    assert row["meta"] == json.dumps(rest, **compact)  # type: ignore[arg-type]


@quick
@given(data=st.binary(max_size=80), suffix=st.sampled_from([".jsonl", ".csv", ".tsv", ".csv.gz"]))
def test_any_bytes_are_read_or_refused_by_name(tmp_path: Path, data: bytes, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes((b"" if suffix == ".jsonl" else b"id,text\n") + data)
    source = detect(path).model_copy(update={"on_bad": "skip"})
    try:
        list(Reader(source, skipped=tmp_path / "bad.jsonl"))
    except RagError as error:
        assert str(path) in str(error)
