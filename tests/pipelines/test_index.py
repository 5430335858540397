"""Index files."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag.errors import InvalidFile
from rag.indexers import Lexical
from rag.pipelines.load import load_index, problems
from rag.sources import Source, Split

GOOD = """
kind: index
source: {type: jsonl, path: wiki.jsonl.zst, fields: {id: _id, year: published}}
fields: {year: int, source: str}
split: {by: words, size: 100, overlap: 20}
indexes:
  lexical: {type: lexical, stemmer: english}
  plain: {type: lexical}
pipeline: bm25-extract
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "i.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_becomes_settings(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    assert problems(path) == []
    made = load_index(path)
    where = str(tmp_path / "wiki.jsonl.zst")
    assert made.source == Source(
        type="jsonl", path=where, fields={"id": "_id", "year": "published"}
    )
    assert made.fields == {"year": "int", "source": "str"}
    assert made.split == Split(by="words", size=100, overlap=20)
    assert made.indexes == {"lexical": Lexical(stemmer="english"), "plain": Lexical()}
    assert made.pipeline == "bm25-extract"


def test_the_type_of_a_source_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.tsv").write_text("id\ttext\n")
    written(tmp_path, "kind: index\nsource: rows.tsv\nindexes: {a: {type: lexical}}")
    assert load_index(tmp_path / "i.yaml").source == Source(type="tsv", path=f"{tmp_path}/rows.tsv")
    monkeypatch.chdir(tmp_path)
    made = load_index("i.yaml")
    assert (made.source.path, made.split, made.fields, made.pipeline) == (
        "rows.tsv",
        None,
        {},
        None,
    )


def test_an_absolute_path_stays(tmp_path: Path) -> None:
    text = "kind: index\nsource: {type: beir, path: /data/nq}\nindexes: {a: {type: lexical}}"
    assert load_index(written(tmp_path, text)).source.path == "/data/nq"


def test_all_mistakes_are_reported(tmp_path: Path) -> None:
    text = """\
kind: index
sauce: 1
source: {type: jsn, pth: x, fields: {ttle: t, id: 4}}
fields: {year: integer, title: str}
split: {by: words, size: 5, overlap: 5}
indexes:
  lexical: {type: lexicl}
  ../up: {type: lexical}
  other: {type: lexical, stemer: porter, stopwords: german}
  third: {stemmer: porter}
  fourth: lexical
  fifth: {type: lexical, stemmer: klingon}
pipeline: 5
"""
    path = written(tmp_path, text)
    found = [str(problem).removeprefix(f"{path}:") for problem in problems(path)]
    starts = [
        "2:1: sauce: unknown key; did you mean 'source'?",
        "3:1: source.path: the key is missing",
        "3:16: source.type: found the text 'jsn', expected 'beir', 'csv', 'dpr', 'flashrag', 'fold",
        "3:21: source.pth: unknown key; did you mean 'path'? (allowed: fields, on_bad, path, type)",
        "3:38: source.fields.ttle: no such column; did you mean 'title'? (there are: id, title, te",
        "3:51: source.fields.id: found 4, expected a text",
        "4:16: fields.year: found the text 'integer', expected 'str', 'int', 'float' or 'bool'; di",
        "4:25: fields.title: every passage has 'title' already; choose another name",
        "5:1: split: overlap is 5 and size is 5; make overlap less than size",
        "7:19: indexes.lexical.type: unknown index type 'lexicl'; did you mean 'lexical'?",
        "8:3: indexes.../up: '../up' names a folder: letters, digits, dots, - and _",
        "9:26: indexes.other.stemer: unknown key; did you mean 'stemmer'?",
        "9:53: indexes.other.stopwords: found the text 'german', expected 'english' or 'none'",
        "10:3: indexes.third.type: the key is missing, expected {type: ...} with one of: dense, ",
        "11:3: indexes.fourth.type: found the text 'lexical', expected {type: ...} with one of",
        "12:35: indexes.fifth.stemmer: no stemmer is called 'klingon'; there are",
        "13:11: pipeline: found 5, expected a text",
    ]
    assert [line[: len(start)] for line, start in zip(found, starts, strict=True)] == starts
    with pytest.raises(InvalidFile) as caught:
        load_index(path)
    assert len(caught.value.problems) == len(starts)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        (
            "source: [a]\nindexes: {a: {type: lexical}}",
            "2:9: source: found a list, expected a path",
        ),
        ("source: no.jsonl\nindexes: {a: {type: lexical}}", "2:9: source: "),
        ("indexes: {a: {type: lexical}}", "1:1: source: the key is missing: Where documents come"),
        ("source: {type: csv, path: a}", "1:1: indexes: the key is missing: Name of an index"),
        ("source: {type: csv, path: a}\nindexes: {}", "3:10: indexes: found an empty mapping, "),
        ("source: {type: csv, path: a}\nindexes: {a: {type: 5}}", "3:21: indexes.a.type: found 5"),
        (
            "source: {type: csv, path: a}\nindexes: {a: {type: lexical}}\npipeline: bm52",
            "4:11: pipeline: no pipeline 'bm52' is shipped; did you mean 'bm25'?",
        ),
    ],
)
def test_single_mistakes(tmp_path: Path, text: str, start: str) -> None:
    path = written(tmp_path, f"kind: index\n{text}")
    found = [str(problem).removeprefix(f"{path}:") for problem in problems(path)]
    assert [line[: len(start)] for line in found] == [start]


def test_a_pipeline_file_is_no_index_file(tmp_path: Path) -> None:
    path = written(tmp_path, "kind: pipeline\nstages: [bm25]")
    with pytest.raises(InvalidFile, match="kind: the file is of kind pipeline, and kind index"):
        load_index(path)
