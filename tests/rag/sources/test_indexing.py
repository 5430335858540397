"""Each type of source, indexed from the command line and searched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag import Collection

Rag = Callable[..., tuple[int, str, str]]

FILES = {
    "msmarco": ("c.tsv", "7\tMarie Curie found radium.\n8\tother\n", "7"),
    "seal": ("c.tsv", "7, 1\tRadium\tMarie Curie found radium.\n8\tx\tother\n", "7, 1"),
    "dpr": ("c.tsv", 'id\ttext\ttitle\n7\t"Curie ""found"" radium."\tx\n8\ty\tz\n', "7"),
    "kilt": (
        "c.json",
        '{"wikipedia_id": "7", "wikipedia_title": "x", "text": ["Radium\\n", "glows."]}\n',
        "7",
    ),
    "flashrag": ("c.jsonl", '{"id": "7", "contents": "Curie\\nfound radium"}\n', "7"),
    "folder": ("docs/radium.md", "# Radium\n\nglows\n", "radium.md"),
}


@pytest.mark.parametrize("kind", list(FILES))
def test_an_index_file_names_the_type(rag: Rag, tmp_path: Path, kind: str) -> None:
    name, data, wanted = FILES[kind]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(data)
    path = "docs" if kind == "folder" else name
    source = f"source: {{type: {kind}, path: {path}}}"
    (tmp_path / "i.yaml").write_text(f"kind: index\n{source}\nindexes: {{a: {{type: lexical}}}}")
    assert rag("validate", tmp_path / "i.yaml")[0] == 0
    assert rag("index", tmp_path / "i.yaml", "--out", tmp_path / "c")[0] == 0
    hits = Collection.open(tmp_path / "c").search("radium")
    assert [hit.id for hit in hits] == [wanted]
    code, out, _ = rag("index", tmp_path / "i.yaml", "--out", tmp_path / "c")
    assert (code, "nothing to do" in out) == (0, True)


def test_parquet_and_a_folder_need_no_settings(rag: Rag, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [7], "text": ["radium"]}), tmp_path / "c.parquet")
    assert rag("index", tmp_path / "c.parquet", "--out", tmp_path / "c")[0] == 0
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.html").write_text("<p>Radium &amp; polonium")
    assert rag("add", tmp_path / "c", tmp_path / "docs")[0] == 0
    hits = Collection.open(tmp_path / "c").search("radium")
    assert sorted(hit.id for hit in hits) == ["7", "a.html"]


def test_an_index_among_its_own_documents_is_not_read(
    rag: Rag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("radium")
    monkeypatch.chdir(tmp_path)
    assert rag("index", ".", "--out", "index")[0] == 0
    code, out, _ = rag("index", ".", "--out", "index")
    assert (code, "nothing to do" in out) == (0, True)
    (tmp_path / "b.txt").write_text("polonium")
    assert rag("index", ".", "--out", "index")[0] == 0
    assert [hit.id for hit in Collection.open("index").search("polonium")] == ["b.txt"]


def test_bad_files_are_skipped_by_name_when_asked(rag: Rag, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("radium")
    (tmp_path / "in" / "b.txt").write_bytes(b"\xff\xff")
    code, _, err = rag("index", tmp_path / "in", "--out", tmp_path / "c")
    assert (code, "in/b.txt:1: field 'text': not UTF-8" in err) == (2, True)
    assert rag("index", tmp_path / "in", "--out", tmp_path / "c", "--on-bad", "skip")[0] == 0
    (log,) = (tmp_path / "c" / "log").glob("skipped-*.jsonl")
    assert json.loads(log.read_text())["file"] == f"{tmp_path}/in/b.txt"


@pytest.mark.parametrize("name", ["a.parquet", "in"])
def test_what_is_no_such_source_is_said_without_a_traceback(
    rag: Rag, tmp_path: Path, name: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "a.parquet").write_text("no")
    code, _, err = rag("index", tmp_path / name, "--out", tmp_path / "c")
    assert code in (1, 2)
    assert name in err
