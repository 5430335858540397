"""Sources that nobody would call well-formed, through ``rag index``: an error that helps, or work.

Each case is a file made of bytes. The message must name the file and what the pattern says: the
place, what was found, and what to do. Nothing must be committed.
"""

from __future__ import annotations

import bz2
import gzip
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from rag.collection import manifest

Rag = Callable[..., tuple[int, str, str]]

GOOD = b'{"id":"good","text":"fine"}\n'
HEAD = b"id,text\ngood,fine\n"
TABS = b"id\ttext\ngood\tfine\n"


def deep(opening: bytes, closing: bytes, depth: int) -> bytes:
    return opening * depth + closing * depth


JSON_LINES: dict[str, tuple[bytes, str]] = {
    # bytes of the second line, what the message says after "FILE:2: field "
    "nothing but a brace": (b"{", "'row': no JSON.*one JSON object"),
    "an array": (b'[{"id":"a"}]', "'row': a JSON list.*jq -c"),
    "a string": (b'"text"', "'row': a JSON string; write one JSON object"),
    "a number": (b"12", "'row': a JSON number"),
    "a boolean": (b"true", "'row': a JSON boolean"),
    "two objects": (b'{"id":"a","text":"t"}{"id":"b","text":"t"}', "'row': no JSON: Extra data"),
    "single quotes": (b"{'id':'a','text':'t'}", "'row': no JSON.*character 2"),
    "a trailing comma": (b'{"id":"a","text":"t",}', "'row': no JSON"),
    "no quotation marks": (b"{id:1,text:2}", "'row': no JSON"),
    "python's None": (b'{"id":"a","text":None}', "'row': no JSON"),
    "an open string": (b'{"id":"a","text":"t', "'row': no JSON: Unterminated string"),
    "a raw tab in a string": (b'{"id":"a","text":"t\tu"}', "'row': no JSON: Invalid control"),
    "a raw NUL in a string": (b'{"id":"a","text":"t\x00u"}', "'row': no JSON: Invalid control"),
    "a NUL between rows": (b"\x00", "'row': no JSON"),
    "NUL bytes alone": (b"\x00" * 4096, "'row': no JSON"),
    "NaN": (b'{"id":"a","text":"t","v":NaN}', "'row': no usable JSON: NaN is not JSON; write null"),
    "Infinity": (b'{"id":"a","text":"t","v":-Infinity}', "'row': no usable JSON"),
    "a float too large": (b'{"id":"a","text":"t","v":1e999}', "'meta': .*JSON cannot hold"),
    "an integer of 5000 digits": (b'{"id":' + b"9" * 5000 + b',"text":"t"}', "'row': no usable"),
    "deep lists": (deep(b"[", b"]", 100_000), "'row': no usable JSON"),
    "deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "'row': no usable JSON"),
    "deep lists in meta": (
        b'{"id":"a","text":"t","m":' + deep(b"[", b"]", 50_000) + b"}",
        "'row': no usable JSON",
    ),
    "open lists": (b"[" * 1_000_000, "'row': no usable JSON"),
    "Latin-1": (b'{"id":"a","text":"caf\xe9"}', "'row': not UTF-8: byte 0xe9 at byte 22.*UTF-8"),
    "overlong UTF-8": (b'{"id":"a","text":"\xc0\xaf"}', "'row': not UTF-8: byte 0xc0"),
    "UTF-8 of a surrogate": (b'{"id":"a","text":"\xed\xa0\x80"}', "'row': not UTF-8: byte 0xed"),
    "beyond Unicode": (b'{"id":"a","text":"\xf5\x80\x80\x80"}', "'row': not UTF-8: byte 0xf5"),
    "a cut character": (b'{"id":"a","text":"\xe2\x82"}', "'row': not UTF-8"),
    "half a surrogate pair": (b'{"id":"a","text":"\\ud800"}', "'text': half of a surrogate pair"),
    "the other half": (b'{"id":"a","text":"\\udc00x"}', "'text': half of a surrogate pair"),
    "halves the wrong way": (b'{"id":"a","text":"\\udc00\\ud800"}', "'text': half of a surrogate"),
    "half a pair as id": (b'{"id":"\\ud83d","text":"t"}', "'id': half of a surrogate pair"),
    "half a pair in a key": (b'{"id":"a","text":"t","\\ud800":1}', "'meta': .*ud800"),
    "half a pair in meta": (b'{"id":"a","text":"t","m":["\\udfff"]}', "'meta': .*udfff"),
    "half a pair as title": (b'{"id":"a","title":"\\udbff","text":"t"}', "'title': half of a"),
    "no id": (b'{"text":"t"}', "'id': no key '_id' or 'id' or 'docid'; .*has 'text'"),
    "no text": (b'{"id":"a","txt":"t"}', "'text': no key 'text' or 'contents'.*'id, txt'"),
    "an empty object": (b"{}", "'id': no key"),
    "an empty id": (b'{"id":"","text":"t"}', "'id': 'id' is empty"),
    "an id of spaces": (b'{"id":"  ","text":"t"}', "'id': 'id' is empty"),
    "an id of nothing visible": (b'{"id":"\\u2003\\u00a0","text":"t"}', "'id': 'id' is empty"),
    "a float as id": (b'{"id":1.0,"text":"t"}', "'id': 'id' is the number 1.0"),
    "a boolean as id": (b'{"id":false,"text":"t"}', "'id': 'id' is false"),
    "null as id": (b'{"id":null,"text":"t"}', "'id': 'id' is null"),
    "a list as id": (b'{"id":["a"],"text":"t"}', "'id': 'id' is a list"),
    "an object as id": (b'{"id":{"$oid":"a"},"text":"t"}', "'id': 'id' is an object"),
    "an id twice": (b'{"id":"good","text":"t"}', "'id': 'good' is the id of line 1 too; give"),
    "null as text": (b'{"id":"a","text":null}', "'text': 'text' is null"),
    "a number as text": (b'{"id":"a","text":7}', "'text': 'text' is the number 7"),
    "a list as text": (b'{"id":"a","text":["t"]}', "'text': 'text' is a list"),
    "an empty text": (b'{"id":"a","text":""}', "'text': 'text' is empty"),
    "a text of spaces": (b'{"id":"a","text":" \\n\\t\\u3000"}', "'text': .*only whitespace"),
    "a list as title": (b'{"id":"a","text":"t","title":[]}', "'title': 'title' is a list"),
    "an object as title": (b'{"id":"a","text":"t","title":{}}', "'title': 'title' is an object"),
    "CSV by mistake": (b"id,text", "'row': no JSON.*one JSON object"),
    "HTML by mistake": (b"<!DOCTYPE html><p>404", "'row': no JSON"),
    "an XML bomb": (b'<!ENTITY lol "&lol;&lol;">', "'row': no JSON"),
    "YAML by mistake": (b"- id: a", "'row': no JSON"),
    "a pickle": (b"\x80\x04cos\nsystem\n.", "'row': not UTF-8"),
    "a git conflict": (b"<<<<<<< HEAD", "'row': no JSON"),
}

CSV_LINES: dict[str, tuple[bytes, str]] = {
    "one cell": (b"a", "'row': 1 cells where the header has 2; give each row one cell"),
    "three cells": (b"a,b,c", "'row': 3 cells where the header has 2"),
    "an open quotation mark": (b'a,"text', "'row': broken CSV quoting.*close each quotation"),
    "text after a quotation": (b'a,"te"xt', "'row': broken CSV quoting"),
    "an empty id": (b",text", "'id': 'id' is empty"),
    "an empty text": (b"a,", "'text': 'text' is empty"),
    "commas": (b"," * 10_000, "'row': 10001 cells where the header has 2"),
    "Latin-1": (b"a,caf\xe9", "'row': not UTF-8: byte 0xe9 at byte 6 of the line; save the file"),
    "Latin-1 in quotes": (b'a,"caf\xe9\nx"', "'row': not UTF-8"),
    "an id twice": (b"good,again", "'id': 'good' is the id of line 2 too"),
    "tabs by mistake": (b"a\tb", "'row': 1 cells where"),
    "JSON by mistake": (b'{"id":"a"}', "'row': 1 cells where"),
    "binary": (bytes(range(128, 256)), "'row': not UTF-8"),
    "quotation marks": (b'"' * 9_999, "'row': broken CSV quoting"),
}

TSV_LINES: dict[str, tuple[bytes, str]] = {
    "one cell": (b"a", "'row': 1 cells where the header has 2"),
    "three cells": (b"a\tb\tc", "'row': 3 cells where the header has 2"),
    "tabs": (b"\t" * 10_000, "'row': 10001 cells where the header has 2"),
    "an empty id": (b"\ttext", "'id': 'id' is empty"),
    "an empty text": (b"a\t ", "'text': .*only whitespace"),
    "Latin-1": (b"a\tcaf\xe9", "'row': not UTF-8: byte 0xe9"),
    "an id twice": (b"good\tagain", "'id': 'good' is the id of line 2 too"),
    "commas by mistake": (b"a,b", "'row': 1 cells where"),
    "binary": (bytes(range(128, 256)), "'row': not UTF-8"),
}


WHOLE_FILES: dict[str, tuple[str, bytes, str]] = {
    # the file's name, its bytes, what the message says
    "jsonl in UTF-16": ("a.jsonl", GOOD.decode().encode("utf-16"), ":1: .*UTF-16; save.*iconv"),
    "csv in UTF-16": ("a.csv", HEAD.decode().encode("utf-16"), ":1: .*UTF-16"),
    "gzip without its suffix": ("a.jsonl", gzip.compress(GOOD), "gzip data.*rename it"),
    "bzip2 without its suffix": ("a.csv", bz2.compress(HEAD), "bz2 data.*rename it"),
    "zstd without its suffix": ("a.tsv", b"\x28\xb5\x2f\xfd\x00", "zstd data.*rename it"),
    "plain with .gz": ("a.jsonl.gz", GOOD, "gzip data ends early or is damaged in line 1"),
    "plain with .bz2": ("a.jsonl.bz2", GOOD, "bz2 data ends early or is damaged in line 1"),
    "plain with .zst": ("a.jsonl.zst", GOOD, "zstd data ends early or is damaged in line 1"),
    "gz cut short": ("a.jsonl.gz", gzip.compress(GOOD * 99)[:-12], "ends early or is damaged"),
    "bz2 cut short": ("a.jsonl.bz2", bz2.compress(GOOD * 99)[:-12], "ends early or is damaged"),
    "gz with a wrong sum": (
        "a.jsonl.gz",
        gzip.compress(b'{"id":"a","text":"t"}\n')[:-8] + bytes(8),
        "damaged.*fetch or compress the file again",
    ),
    "gz of nothing": ("a.jsonl.gz", b"", "0 bytes"),
    "an empty csv": ("a.csv", b"", ":1: field 'row': no header line; name the columns"),
    "an empty tsv": ("a.tsv", b"", ":1: field 'row': no header line"),
    "a csv of blank lines": ("a.csv", b"\n\r\n\n", ":1: field 'row': no header line"),
    "a header without an id": ("a.csv", b"nr,text\n1,t\n", ":1: field 'id': .*'nr, text'"),
    "a header without a text": ("a.csv", b"id,body\n1,t\n", ":1: field 'text': .*'id, body'"),
    "a header with a name twice": ("a.csv", b"id,text,text\n1,t,u\n", ":1: field 'text'.*2 times"),
    "a header in Latin-1": ("a.csv", b"id,text,caf\xe9\n", ":1: .*not UTF-8"),
    "a tsv header in Latin-1": ("a.tsv", b"id\ttext\tcaf\xe9\n", ":1: .*not UTF-8"),
    "a header with an open quote": ("a.csv", b'id,"text\n', ":1: .*broken CSV quoting"),
    "NUL bytes as csv": ("a.csv", bytes(4096), ":1: field "),
    "NUL bytes as tsv": ("a.tsv", bytes(4096), ":1: field "),
    "noise as jsonl": ("a.jsonl", bytes(range(255, 0, -1)) * 16, ":1: field 'row'"),
    "noise as csv": ("a.csv", bytes(range(255, 0, -1)) * 16, ":1: field 'row'"),
    "noise as tsv": ("a.tsv", bytes(range(255, 0, -1)) * 16, ":1: field 'row'"),
    "JSON over lines": ("a.json", b'[\n {"id":"a","text":"t"}\n]\n', ":1: .*jq -c"),
    "one JSON object over lines": ("a.json", b'{\n "id":"a"\n}\n', ":1: .*one JSON value over"),
    "an unknown suffix": ("a.docx.exe", GOOD, "type cannot be told from the name"),
}


def refused(rag: Rag, source: Path, pattern: str, out: Path) -> None:
    """``rag index`` says what ``pattern`` says of this file, and commits nothing."""
    code, printed, err = rag("index", source, "--out", out)
    assert code in (1, 2), (printed, err)
    assert re.search(re.escape(str(source)) + ".*" + pattern, err, re.DOTALL), err
    assert len(err) < 1500
    assert manifest.numbers(out) == []


@pytest.mark.parametrize("case", JSON_LINES)
def test_a_line_of_jsonl_is_refused_at_its_line(case: str, rag: Rag, tmp_path: Path) -> None:
    line, pattern = JSON_LINES[case]
    source = tmp_path / "a.jsonl"
    source.write_bytes(GOOD + line + b"\n" + GOOD.replace(b"good", b"last"))
    refused(rag, source, f":2: field {pattern}", tmp_path / "c")


@pytest.mark.parametrize("case", CSV_LINES)
def test_a_line_of_csv_is_refused_at_its_line(case: str, rag: Rag, tmp_path: Path) -> None:
    line, pattern = CSV_LINES[case]
    source = tmp_path / "a.csv"
    source.write_bytes(HEAD + line + b"\nlast,fine\n")
    refused(rag, source, f":3: field {pattern}", tmp_path / "c")


@pytest.mark.parametrize("case", TSV_LINES)
def test_a_line_of_tsv_is_refused_at_its_line(case: str, rag: Rag, tmp_path: Path) -> None:
    line, pattern = TSV_LINES[case]
    source = tmp_path / "a.tsv"
    source.write_bytes(TABS + line + b"\nlast\tfine\n")
    refused(rag, source, f":3: field {pattern}", tmp_path / "c")


@pytest.mark.parametrize("case", WHOLE_FILES)
def test_a_file_that_is_wrong_as_a_whole_is_refused(case: str, rag: Rag, tmp_path: Path) -> None:
    name, data, pattern = WHOLE_FILES[case]
    (tmp_path / name).write_bytes(data)
    refused(rag, tmp_path / name, pattern, tmp_path / "c")


@pytest.mark.parametrize("case", [*JSON_LINES][::4])
def test_a_line_that_is_skipped_stands_in_the_file_of_skipped_rows(
    case: str, rag: Rag, tmp_path: Path
) -> None:
    source = tmp_path / "a.jsonl"
    source.write_bytes(GOOD + JSON_LINES[case][0] + b"\n" + GOOD.replace(b"good", b"last"))
    code, out, err = rag("index", source, "--out", tmp_path / "c", "--on-bad", "skip", "--json")
    facts = json.loads(out)
    assert (code, facts["passages"], facts["bad_rows"]) == (0, 2, 1), err
    assert Path(facts["bad_file"]).read_text().count("\n") == 1


def test_a_beir_folder_names_the_file_in_it(rag: Rag, tmp_path: Path) -> None:
    folder = tmp_path / "beir"
    folder.mkdir()
    code, _, err = rag("index", folder, "--out", tmp_path / "c")
    assert code == 2
    assert str(folder) in err
    (folder / "corpus.jsonl").write_bytes(GOOD + b'{"_id":"a"}\n')
    code, _, err = rag("index", folder, "--out", tmp_path / "c")
    assert code == 2
    assert f"{folder / 'corpus.jsonl'}:2: field 'text': no key" in err
    (folder / "corpus.jsonl").unlink()
    (folder / "corpus.jsonl").mkdir()
    code, _, err = rag("index", folder, "--out", tmp_path / "c")
    assert code == 2
    assert str(folder) in err


def test_paths_that_cannot_be_read_are_named(rag: Rag, tmp_path: Path) -> None:
    loop = tmp_path / "loop.jsonl"
    loop.symlink_to(loop)
    dangling = tmp_path / "dangling.jsonl"
    dangling.symlink_to(tmp_path / "nowhere")
    folder = tmp_path / "folder.jsonl"
    folder.mkdir()
    long = tmp_path / ("x" * 300 + ".jsonl")
    for source in (loop, dangling, folder, long, tmp_path / "no\nsuch\x1b[31m.jsonl"):
        code, _, err = rag("index", source, "--out", tmp_path / "c")
        assert code in (1, 2)
        assert source.name in err or repr(source.name)[1:-1] in err
        assert manifest.numbers(tmp_path / "c") == []


def test_a_pipe_that_nobody_writes_to_does_not_hang_for_ever(rag: Rag, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    code, _, err = rag("index", pipe, "--out", tmp_path / "c")
    assert code == 2
    assert str(pipe) in err
