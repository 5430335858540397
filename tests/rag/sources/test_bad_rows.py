from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rag.errors import BadRow, Damaged, InvalidInput
from rag.passages import FieldType
from rag.sources import Reader, Source, Split, detect

GOOD = {".jsonl": b'{"id":"%s","text":"fine"}\n', ".csv": b"%s,fine,3\n", ".tsv": b"%s\tfine\t3\n"}
HEAD = {".jsonl": b"", ".csv": b"id,text,n\n", ".tsv": b"id\ttext\tn\n"}
FIELDS: dict[str, FieldType] = {"n": "int"}

CASES: list[tuple[str, bytes, str, str]] = [
    # suffix, the row, the field, what was found
    (".jsonl", b'{"id":"x","text":', "row", "no JSON: Expecting value at character 18"),
    (".jsonl", b'{"id":"x","text":"t"} {}', "row", "no JSON: Extra data at character 23"),
    (".jsonl", b'["x","t"]', "row", "a JSON list"),
    (".jsonl", b"null", "row", "a JSON null"),
    (".jsonl", b'{"id":"x","text":"t","v":NaN}', "row", "NaN is not JSON"),
    (".jsonl", b'{"id":"x","text":"t","v":1e999}', "meta", "a value that JSON cannot hold"),
    (".jsonl", b"[" * 100_000, "row", "no usable JSON"),
    (".jsonl", b'{"id":"x","text":"t","v":1' + b"0" * 5000 + b"}", "row", "no usable JSON"),
    (".jsonl", b'{"text":"t"}', "id", "no key '_id' or 'id' or 'docid'; the row has 'text'"),
    (".jsonl", b'{"id":"x"}', "text", "no key 'text' or 'contents'; the row has 'id'"),
    (".jsonl", b'{"id":1.5,"text":"t"}', "id", "'id' is the number 1.5"),
    (".jsonl", b'{"id":true,"text":"t"}', "id", "'id' is true"),
    (".jsonl", b'{"id":null,"text":"t"}', "id", "'id' is null"),
    (".jsonl", b'{"id":["x"],"text":"t"}', "id", "'id' is a list"),
    (".jsonl", b'{"id":" ","text":"t"}', "id", "'id' is empty"),
    (".jsonl", b'{"id":"x","text":null}', "text", "'text' is null"),
    (".jsonl", b'{"id":"x","text":5}', "text", "'text' is the number 5"),
    (".jsonl", b'{"id":"x","text":{}}', "text", "'text' is an object"),
    (".jsonl", b'{"id":"x","text":""}', "text", "'text' is empty"),
    (".jsonl", b'{"id":"x","title":"T","text":" \\u2003\\n"}', "text", "only whitespace"),
    (".jsonl", b'{"id":"x","text":"t","title":7}', "title", "'title' is the number 7"),
    (".jsonl", b'{"id":"x","text":"t","n":"7"}', "n", "the string '7', not an integer"),
    (".jsonl", b'{"id":"x","text":"t","n":7.0}', "n", "the number 7.0, not an integer"),
    (".jsonl", b'{"id":"x","text":"t","n":true}', "n", "true, not an integer"),
    (".jsonl", b'{"id":"x","text":"t","n":9223372036854775808}', "n", "of 64 bits"),
    (".jsonl", b'{"id":"x","text":"caf\xe9"}', "row", "not UTF-8: byte 0xe9 at byte 22"),
    (".jsonl", b'{"id":"x\\ud800","text":"t"}', "id", "half of a surrogate pair, \\ud800"),
    (".jsonl", b'{"id":"x","text":"t \\udc00"}', "text", "\\udc00, at character 3"),
    (".jsonl", b'{"id":"x","text":"t","title":"\\uDFFF"}', "title", "\\udfff"),
    (".jsonl", b'{"id":"x","text":"t","\\ud800":1}', "meta", "\\ud800"),
    (".jsonl", b'{"id":"one","text":"t"}', "id", "'one' is the id of line 1 too"),
    (".csv", b"x,t", "row", "2 cells where the header has 3"),
    (".csv", b"x,t,1,2", "row", "4 cells where the header has 3"),
    (".csv", b'x,"a"b,1', "row", "broken CSV quoting"),
    (".csv", b",t,1", "id", "'id' is empty"),
    (".csv", b'x," ",1', "text", "only whitespace"),
    (".csv", b"x,t,1_0", "n", "the string '1_0', not an integer"),
    (".csv", b"x,t,99999999999999999999", "n", "of 64 bits"),
    (".csv", b'x,"two\nlines",many', "n", "the string 'many'"),
    (".csv", b'x,"two\nlines \xff",1', "row", "not UTF-8: byte 0xff at line 4"),
    (".csv", b"x,caf\xe9,1", "row", "not UTF-8: byte 0xe9 at byte 6"),
    (".csv", b'"one",t,1', "id", "'one' is the id of line 2 too"),
    (".tsv", b"x\tt", "row", "2 cells where the header has 3"),
    (".tsv", b"x\tt\t1\t", "row", "4 cells where the header has 3"),
    (".tsv", b"x\t\t1", "text", "'text' is empty"),
    (".tsv", b"x\tt\t1.0", "n", "the string '1.0'"),
    (".tsv", b"x\t\xc3\x28\t1", "row", "not UTF-8: byte 0xc3 at byte 3"),
    (".tsv", b"one\tt\t1", "id", "'one' is the id of line 2 too"),
]


def write(path: Path, suffix: str, row: bytes) -> Path:
    good = GOOD[suffix]
    path.write_bytes(HEAD[suffix] + good % b"one" + row + b"\n" + good % b"two" + good % b"three")
    return path


def ids(reader: Reader) -> list[str]:
    return [name for batch in reader for name in batch["id"].to_pylist()]


@pytest.mark.parametrize(("suffix", "row", "field", "found"), CASES)
def test_a_bad_row_stops_and_says_where_what_and_how(
    tmp_path: Path, suffix: str, row: bytes, field: str, found: str
) -> None:
    path = write(tmp_path / f"a{suffix}", suffix, row)
    with pytest.raises(BadRow) as caught:
        list(Reader(detect(path), fields=FIELDS))
    bad = caught.value
    line = 2 if suffix == ".jsonl" else 3
    assert (bad.file, bad.line, bad.field) == (str(path), line, field)
    assert found in bad.found
    assert bad.fix
    assert str(bad).startswith(f"{path}:{line}: field {field!r}: ")
    assert len(str(bad)) < 600
    str(bad).encode()


@pytest.mark.parametrize(("suffix", "row", "field", "found"), CASES)
def test_a_skipped_row_is_kept_with_its_reason_and_disturbs_no_other(
    tmp_path: Path, suffix: str, row: bytes, field: str, found: str
) -> None:
    path = write(tmp_path / f"a{suffix}", suffix, row)
    source = detect(path).model_copy(update={"on_bad": "skip"})
    reader = Reader(source, fields=FIELDS, skipped=tmp_path / "bad.jsonl")
    assert ids(reader) == ["one", "two", "three"]
    lines = (tmp_path / "bad.jsonl").read_text().splitlines()
    assert reader.rows == 3
    assert reader.bad == len(lines) == 1
    entry = json.loads(lines[0])
    assert list(entry) == ["file", "line", "field", "found", "fix", "row"]
    assert (entry["file"], entry["field"]) == (str(path), field)
    assert found in entry["found"]
    assert entry["row"] == row.decode(errors="backslashreplace")


def test_an_unclosed_quotation_mark_does_not_swallow_the_file(tmp_path: Path) -> None:
    for end in (b"d,fine,4\n", b'd,"fine",4\n'):
        path = tmp_path / "a.csv"
        path.write_bytes(b'id,text,n\na,fine,1\nb,"broken,2\nc,fine,3\n' + end)
        source = detect(path).model_copy(update={"on_bad": "skip"})
        reader = Reader(source, fields=FIELDS, skipped=tmp_path / "bad.jsonl")
        assert ids(reader) == ["a", "c", "d"]
        entry = json.loads((tmp_path / "bad.jsonl").read_text())
        assert (entry["line"], entry["row"]) == (3, 'b,"broken,2')


def test_lines_of_rows_after_a_cell_with_newlines_are_physical(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,text\r\na,"1\n2\r\n3"\n\nb,ok\nb,again\n')
    with pytest.raises(BadRow, match=r"a\.csv:7: field 'id': 'b' is the id of line 6 too"):
        list(Reader(detect(tmp_path / "a.csv")))


@pytest.mark.parametrize(
    ("suffix", "head", "line", "field", "found"),
    [
        (".csv", "", 1, "row", "no header line"),
        (".tsv", "\n\n", 1, "row", "no header line"),
        (".csv", "\nname,text,n\n", 2, "id", "no '_id' or 'id' or 'docid'; it has 'name, text, n'"),
        (".csv", "id,body,n\n", 1, "text", "no 'text' or 'contents'"),
        (".tsv", "id\ttext\n", 1, "n", "no 'n'; it has 'id, text'"),
        (".tsv", "id\ttext\tn\tn\n", 1, "n", "names 'n' 2 times"),
        (".csv", '"id,text\n', 1, "row", "broken CSV quoting"),
    ],
)
@pytest.mark.parametrize("on_bad", ["stop", "skip"])
def test_a_header_that_cannot_be_used_always_stops(
    tmp_path: Path, suffix: str, head: str, line: int, field: str, found: str, on_bad: str
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text(head)
    source = detect(path).model_copy(update={"on_bad": on_bad})
    with pytest.raises(BadRow) as caught:
        list(Reader(source, fields=FIELDS, skipped=tmp_path / "bad.jsonl"))
    assert (caught.value.line, caught.value.field) == (line, field)
    assert found in caught.value.found
    assert not (tmp_path / "bad.jsonl").exists()


def test_a_mapped_title_must_be_in_the_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\na,b\n")
    source = Source(type="csv", path=str(tmp_path / "a.csv"), fields={"title": "name"})
    with pytest.raises(BadRow, match="field 'title': the header has no 'name'"):
        list(Reader(source))


@pytest.mark.parametrize("on_bad", ["stop", "skip"])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_utf16_has_its_own_hint(tmp_path: Path, suffix: str, on_bad: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text('{"id": "a", "text": "x"}\n', encoding="utf-16")
    source = detect(path).model_copy(update={"on_bad": on_bad})
    with pytest.raises(BadRow, match=r":1: .*UTF-16; save the file as UTF-8 \(iconv"):
        list(Reader(source, skipped=tmp_path / "bad.jsonl"))


@pytest.mark.parametrize("on_bad", ["stop", "skip"])
@pytest.mark.parametrize("keep", [0, 5, 0.5, -4])
def test_a_truncated_archive_is_damaged_and_named_with_the_line(
    tmp_path: Path, keep: float, on_bad: str
) -> None:
    rows = [json.dumps({"id": i, "text": os.urandom(40).hex()}) for i in range(3000)]
    whole = gzip.compress("\n".join(rows).encode())
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    source = detect(path).model_copy(update={"on_bad": on_bad})
    reader = Reader(source, skipped=tmp_path / "bad.jsonl")
    with pytest.raises(Damaged, match=r"a\.jsonl\.gz: (.* in line \d+|0 bytes)"):
        list(reader)


def test_a_flipped_byte_in_an_archive_is_damaged(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(b'{"id": "a", "text": "x"}\n'))
    data[-6] ^= 1  # the checksum
    (tmp_path / "a.jsonl.gz").write_bytes(data)
    with pytest.raises(Damaged, match=r"a\.jsonl\.gz"):
        list(Reader(detect(tmp_path / "a.jsonl.gz")))


def test_compression_and_name_must_agree(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(b"{}"))
    with pytest.raises(InvalidInput, match=r"a\.jsonl: holds gzip data .* end in \.gz"):
        list(Reader(detect(tmp_path / "a.jsonl")))
    (tmp_path / "b.jsonl.gz").write_bytes(b'{"id": "a", "text": "x"}\n')
    with pytest.raises(Damaged, match=r"b\.jsonl\.gz: the gzip data"):
        list(Reader(detect(tmp_path / "b.jsonl.gz")))


def test_the_first_error_of_the_file_is_the_one_raised(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id":"a","text":"x"}\n{"id":"a","text":"y"}\nbroken\n')
    with pytest.raises(BadRow, match=":2: field 'id'"):
        list(Reader(detect(path)))


def test_one_json_value_over_the_whole_file_gets_a_hint(tmp_path: Path) -> None:
    for text in ('[\n{"id": "a", "text": "x"}\n]\n', '[{"id": "a", "text": "x"}]'):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(BadRow, match=r":1: .* one JSON value over the whole file"):
            list(Reader(detect(tmp_path / "a.json")))


def test_the_id_of_a_bad_row_stays_free(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id":"a","text":""}\n{"id":"a","text":"x"}\n{"id":"a","text":"y"}\n')
    source = detect(path).model_copy(update={"on_bad": "skip"})
    (batch,) = Reader(source, skipped=tmp_path / "bad.jsonl")
    assert batch["text"].to_pylist() == ["x"]
    entries = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [entry["line"] for entry in entries] == [1, 3]
    assert "line 2" in entries[1]["found"]


def test_a_duplicate_far_away_names_the_first_line(tmp_path: Path) -> None:
    rows: list[Any] = [{"id": i, "text": "x"} for i in range(5000)]
    rows.append({"id": "3", "text": "an integer and a string are one id"})
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(BadRow, match=":5001: field 'id': '3' is the id of line 4 too"):
        list(Reader(detect(path), split=Split(by="words", size=3)))


def test_the_skip_file_is_of_this_run(tmp_path: Path) -> None:
    path, skipped = tmp_path / "a.jsonl", tmp_path / "bad.jsonl"
    skipped.write_text("of an earlier run")
    path.write_text('{"id":"a","text":"x"}\n')
    source = detect(path).model_copy(update={"on_bad": "skip"})
    reader = Reader(source, skipped=skipped)
    assert skipped.exists()  # nothing happens before reading
    assert ids(reader) == ["a"]
    assert not skipped.exists()
    path.write_text("broken\n")
    again = Reader(source, skipped=skipped)
    assert ids(again) == ids(again) == []
    assert (again.bad, len(skipped.read_text().splitlines())) == (1, 1)


def test_stop_writes_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("broken\n")
    with pytest.raises(BadRow):
        list(Reader(detect(tmp_path / "a.jsonl"), skipped=tmp_path / "bad.jsonl"))
    assert not (tmp_path / "bad.jsonl").exists()


def test_messages_name_the_path_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text("broken\n")
    Path("wiki").mkdir()
    Path("wiki/corpus.jsonl").write_text("broken\n")
    for given, shown in [("./a.jsonl", "./a.jsonl"), ("./wiki/", "./wiki/corpus.jsonl")]:
        with pytest.raises(BadRow) as caught:
            list(Reader(detect(given)))
        assert str(caught.value).startswith(f"{shown}:1: ")
