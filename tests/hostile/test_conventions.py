"""The formats of other tools, broken: through ``rag index``, an error that helps.

Each case is a file made of bytes, between good rows where it is one row. The message names the
file, the place, what was found, and what to do; nothing is committed.
"""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag.collection import manifest

Rag = Callable[..., tuple[int, str, str]]


def zstd(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data, asbytes=True))


def parquet(columns: dict[str, Any], **more: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **more)
    return sink.getvalue()


def changed(data: bytes, at: float, what: bytes) -> bytes:
    place = int(len(data) * at)
    return data[:place] + what + data[place + len(what) :]


KILT = '{"wikipedia_id":"%s","wikipedia_title":"T","text":%s}'
WIDE = {"id": [f"d{n}" for n in range(3000)], "text": [f"text {n}" for n in range(3000)]}
PARQUET = parquet(WIDE, compression="zstd", row_group_size=1000)
ZST = zstd(b"".join(b"%d\tx%d\n" % (n, n * n) for n in range(999)))
LINES = {
    # the type of the source: a good line, and a last one; the line of the bad one
    "msmarco": (b"0\tfine\n", b"9\tfine\n", 2),
    "seal": (b"0\tT\tfine\n", b"9\tT\tfine\n", 2),
    "dpr": (b'id\ttext\ttitle\n0\t"fine"\tT\n', b'9\t"fine"\tT\n', 3),
    "kilt": ((KILT % ("0", '["fine"]')).encode() + b"\n", (KILT % (9, '["x"]')).encode(), 2),
    "flashrag": (b'{"id":"0","contents":"T\\nfine"}\n', b'{"id":"9","contents":"T\\nx"}\n', 2),
}
ROWS: dict[str, tuple[str, bytes, str]] = {
    # the type, the second row, what follows "FILE:LINE: field "
    "msmarco: no tab": ("msmarco", b"1 text", "'row': 1 cells between tabs.*write id, text"),
    "msmarco: two tabs": ("msmarco", b"1\ta\tb", "'row': 3 cells between tabs"),
    "msmarco: nothing but tabs": ("msmarco", b"\t" * 9999, "'row': 10000 cells"),
    "msmarco: no id": ("msmarco", b"\ttext", "'id': 'id' is empty"),
    "msmarco: no text": ("msmarco", b"1\t", "'text': 'text' is empty"),
    "msmarco: spaces": ("msmarco", b"1\t \xe3\x80\x80", "'text': .*only whitespace"),
    "msmarco: twice": ("msmarco", b"0\tagain", "'id': '0' is the id of line 1 too"),
    "msmarco: Latin-1": ("msmarco", b"1\tcaf\xe9", "'row': not UTF-8: byte 0xe9"),
    "msmarco: NUL bytes": ("msmarco", bytes(999), "'row': 1 cells between tabs"),
    "msmarco: JSON": ("msmarco", b'{"id":"1","text":"x"}', "'row': 1 cells between tabs"),
    "seal: two cells": ("seal", b"1\tT", "'row': 2 cells between tabs.*write id, title, text"),
    "seal: no id": ("seal", b"\tT\tx", "'id': 'id' is empty"),
    "seal: no text": ("seal", b"1\tT\t", "'text': 'text' is empty"),
    "seal: twice": ("seal", b"0\tT\tagain", "'id': '0' is the id of line 1 too"),
    "seal: UTF-8 of a surrogate": ("seal", b"1\t\xed\xa0\x80\tx", "'row': not UTF-8: byte 0xed"),
    "seal: noise": ("seal", bytes(range(128, 256)), "'row': not UTF-8"),
    "seal: commas": ("seal", b"1,T,x", "'row': 1 cells between tabs"),
    "dpr: two cells": ("dpr", b"1\tx", "'row': 2 cells where the header has 3"),
    "dpr: four cells": ("dpr", b"1\tx\tT\tU", "'row': 4 cells where the header has 3"),
    "dpr: an open quote": ("dpr", b'1\t"x\tT', "'row': broken CSV quoting"),
    "dpr: text after a quote": ("dpr", b'1\t"x"y\tT', "'row': broken CSV quoting"),
    "dpr: quotes alone": ("dpr", b'"' * 9999, "'row': broken CSV quoting"),
    "dpr: no id": ("dpr", b"\tx\tT", "'id': 'id' is empty"),
    "dpr: no text": ("dpr", b"1\t\tT", "'text': 'text' is empty"),
    "dpr: twice": ("dpr", b"0\tx\tT", "'id': '0' is the id of line 2 too"),
    "dpr: Latin-1": ("dpr", b"1\tcaf\xe9\tT", "'row': not UTF-8: byte 0xe9"),
    "kilt: no list": ("kilt", (KILT % (1, "7")).encode(), "'text': 'text' is the number 7"),
    "kilt: no paragraphs": ("kilt", (KILT % (1, "[]")).encode(), "'text': 'text' is empty"),
    "kilt: a number": ("kilt", (KILT % (1, '["a",7]')).encode(), "'text': paragraph 2 is the"),
    "kilt: lists in it": ("kilt", (KILT % (1, '[["a"]]')).encode(), "'text': paragraph 1 is a"),
    "kilt: null": ("kilt", (KILT % (1, "null")).encode(), "'text': 'text' is null"),
    "kilt: blank": ("kilt", (KILT % (1, '[" ","\\n"]')).encode(), "'text': .*only whitespace"),
    "kilt: half a pair": ("kilt", (KILT % (1, '["\\ud800"]')).encode(), "'text': half of a"),
    "kilt: deep": ("kilt", (KILT % (1, "[" * 99_999)).encode(), "'row': no usable JSON"),
    "kilt: another key": ("kilt", b'{"page":"1","text":["x"]}', "'id': no key 'wikipedia_id'"),
    "kilt: twice": ("kilt", (KILT % (0, '["x"]')).encode(), "'id': '0' is the id of line 1 too"),
    "flashrag: one line": ("flashrag", b'{"id":"1","contents":"x"}', "'text': .*no line break"),
    "flashrag: a list": ("flashrag", b'{"id":"1","contents":["T"]}', "'text': 'contents' is a"),
    "flashrag: no text": ("flashrag", b'{"id":"1","contents":"T\\n"}', "'text': 'text' is empty"),
    "flashrag: text": ("flashrag", b'{"id":"1","text":"x"}', "'text': no 'contents'"),
    "flashrag: twice": ("flashrag", b'{"id":"0","contents":"T\\nx"}', "'id': '0' is the id of"),
    "flashrag: NUL": ("flashrag", bytes(99), "'row': no JSON"),
}
FILES: dict[str, tuple[str, str, bytes, str]] = {
    # the type, the file's name, its bytes, what follows the path
    "parquet: nothing": ("parquet", "a.parquet", b"", ": cannot be read as parquet"),
    "parquet: its mark alone": ("parquet", "a.parquet", b"PAR1", ": cannot be read as parquet"),
    "parquet: both marks": ("parquet", "a.parquet", b"PAR1" + bytes(4) + b"PAR1", ": cannot be"),
    "parquet: JSON": ("parquet", "a.parquet", b'{"id":"a","text":"t"}\n', ": cannot be read as"),
    "parquet: NUL bytes": ("parquet", "a.parquet", bytes(9999), ": cannot be read as parquet"),
    "parquet: noise": ("parquet", "a.parquet", bytes(range(256)) * 9, ": cannot be read as"),
    "parquet: half of it": ("parquet", "a.parquet", PARQUET[: len(PARQUET) // 2], ": cannot be"),
    "parquet: without its end": ("parquet", "a.parquet", PARQUET[:-1], ": cannot be read as"),
    "parquet: a footer of 4 GB": (
        "parquet",
        "a.parquet",
        PARQUET[:-8] + b"\xff\xff\xff\xff" + PARQUET[-4:],
        ": cannot be read as parquet",
    ),
    "parquet: noise in a page": (
        "parquet",
        "a.parquet",
        changed(PARQUET, 0.3, bytes(range(200))),
        ": cannot be read as parquet|:.*cannot be read",
    ),
    "parquet: noise in its footer": (
        "parquet",
        "a.parquet",
        changed(PARQUET, 0.99, bytes(range(40))),
        ": cannot be read as parquet",
    ),
    "parquet: no columns": ("parquet", "a.parquet", parquet({}), ":.*no '_id' or 'id' or 'docid'"),
    "parquet: no text": ("parquet", "a.parquet", parquet({"id": ["a"]}), ":.*'text'"),
    "parquet: bytes as text": (
        "parquet",
        "a.parquet",
        parquet({"id": ["a"], "text": [b"x"]}),
        ":.*the column 'text' has the type binary",
    ),
    "parquet: null": ("parquet", "a.parquet", parquet({"id": [None], "text": ["x"]}), ":1: field"),
    "parquet: lists": ("parquet", "a.parquet", parquet({"id": ["a"], "text": [["x"]]}), ":.*text"),
    "parquet: twice": (
        "parquet",
        "a.parquet",
        parquet({"id": ["a", "a"], "text": ["x", "y"]}),
        ":2: field 'id': 'a' is the id of row 1 too",
    ),
    "parquet: not UTF-8": (
        "parquet",
        "a.parquet",
        parquet({"id": ["a"], "text": pa.array([b"caf\xe9"]).view(pa.string())}),
        ":1: .*column 'text' cannot be read",
    ),
    "zst: cut short": ("jsonl", "a.jsonl.zst", ZST[:-5], ".*zstd data ends early or is"),
    "zst: its mark alone": ("jsonl", "a.jsonl.zst", b"\x28\xb5\x2f\xfd", ".*ends early or is"),
    "zst: noise": ("jsonl", "a.jsonl.zst", bytes(range(256)), ".*zstd data ends early or is"),
    "zst: gzip": ("jsonl", "a.jsonl.zst", gzip.compress(b"{}"), ".*zstd data ends early or is"),
    "zst: a changed byte": (
        "msmarco",
        "a.tsv.zst",
        changed(ZST, 0.5, b"\xff\x00\xff"),
        ".*(ends early or is damaged|field)",
    ),
    "zst: a bad row in it": ("seal", "a.tsv.zst", zstd(b"0\tT\tx\n1\tT\n"), ":2: field 'row': 2"),
    "zst: kilt": ("kilt", "a.jsonl.zst", zstd(b"{}\n"), ":1: field 'id': no key"),
    "dpr: no header": ("dpr", "a.tsv", b'0\t"x"\tT\n', ":1: field 'id': the header has no"),
    "dpr: nothing": ("dpr", "a.tsv", b"", ":1: field 'row': no header line"),
    "dpr: literal quotes": ("dpr", "a.tsv", b'id\ttext\ttitle\n0\t"x" y\tT\n', ":2: field 'row'"),
    "dpr: UTF-16": ("dpr", "a.tsv", "id\ttext\ttitle\n".encode("utf-16"), ":1: .*UTF-16"),
    "msmarco: UTF-16": ("msmarco", "a.tsv", "0\tx\n".encode("utf-16"), ":1: .*UTF-16"),
    "seal: gzip without its suffix": ("seal", "a.tsv", gzip.compress(b"0\tT\tx\n"), ".*gzip data"),
    "kilt: an array over lines": ("kilt", "a.json", b"[\n{}\n]\n", ":1: field 'row'.*jq -c"),
    "kilt: binary": ("kilt", "a.json", b"\x80\x04cos\nsystem\n.", ":1: field 'row': not UTF-8"),
    "folder: Latin-1": ("folder", "d/a.txt", b"one\nca\xe9", ":2: field 'text': not UTF-8"),
    "folder: NUL bytes": ("folder", "d/a.txt", b"x\n\0", ":2: field 'text': a NUL byte"),
    "folder: blank": ("folder", "d/a.md", b" \n\t", ":1: field 'text': .*only whitespace"),
    "folder: empty": ("folder", "d/a.md", b"", ":1: field 'text': 'text' is empty"),
    "folder: UTF-16": ("folder", "d/a.md", "x".encode("utf-16"), ":1: field 'row': .*UTF-16"),
    "folder: a cut archive": ("folder", "d/a.txt.gz", gzip.compress(b"x")[:-9], ".*ends early"),
    "folder: gzip as text": ("folder", "d/a.txt", gzip.compress(b"x"), ":1: .*holds gzip data"),
    "folder: scripts alone": ("folder", "d/a.html", b"<script>x", ":1: field 'text': 'text' is"),
    "folder: no such encoding": ("folder", "d/a.html", b"<meta charset=nosuch>x", ".*nosuch"),
    "folder: nothing of ours": ("folder", "d/a.exe", b"MZ", "d: the folder holds no file ending"),
    "folder: a file": ("folder", "a.txt", b"x", ": a file, but type 'folder' reads the files"),
    "jsonl: a folder of others": ("jsonl", "d/a.txt", b"x", "d: the folder holds no file ending"),
    "parquet: a folder of others": ("parquet", "d/a.txt", b"x", "d: the folder holds no file"),
    "msmarco: a folder": ("msmarco", "d/a.tsv", b"0\tx\n", "d: a folder, but type 'msmarco' reads"),
}  # fmt: skip


def refused(rag: Rag, kind: str, source: Path, at: Path, pattern: str) -> None:
    """``rag index`` by a YAML file of this type says what the pattern says, and commits nothing."""
    yaml, out = at / "index.yaml", at / "out"
    facts: dict[str, Any] = {"kind": "index", "indexes": {"lexical": {"type": "lexical"}}}
    facts["source"] = {"type": kind, "path": str(source)}
    yaml.write_text(json.dumps(facts))
    code, printed, err = rag("index", yaml, "--out", out)
    assert code in (1, 2), (printed, err)
    assert err.startswith("error: ")
    assert re.search(re.escape(str(at)) + "/" + pattern, err, re.DOTALL), err
    assert len(err) < 1500
    assert manifest.numbers(out) == []


@pytest.mark.parametrize("case", ROWS)
def test_a_row_of_a_convention_is_refused_at_its_line(case: str, rag: Rag, tmp_path: Path) -> None:
    kind, row, pattern = ROWS[case]
    first, last, line = LINES[kind]
    name = "a.jsonl" if kind in ("kilt", "flashrag") else "a.tsv"
    (tmp_path / name).write_bytes(first + row + b"\n" + last)
    refused(rag, kind, tmp_path / name, tmp_path, f"{re.escape(name)}:{line}: field {pattern}")


@pytest.mark.parametrize("case", FILES)
def test_a_file_of_a_convention_is_refused(case: str, rag: Rag, tmp_path: Path) -> None:
    kind, name, data, pattern = FILES[case]
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    source = file.parent if name.startswith("d/") else file
    place = "" if pattern.startswith("d:") else re.escape(name)
    refused(rag, kind, source, tmp_path, place + pattern)
