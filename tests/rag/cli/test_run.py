"""``rag run`` and ``rag draw`` at the terminal."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from rag import Collection

Rag = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cats(tmp_path: Path) -> Path:
    rows = [{"id": "a", "title": "Cats", "text": "Cats purr."}, {"id": "b", "text": "Dogs bark."}]
    Collection.build(rows, tmp_path / "cats")
    return tmp_path / "cats"


def test_run_answers_a_file_and_then_has_nothing_to_do(
    rag: Rag, cats: Path, tmp_path: Path
) -> None:
    source, out = tmp_path / "queries.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"_id": "x", "text": "Do cats purr?"}\n{"text": "dogs"}\n')
    command = ("run", source, out, "-c", cats, "-p", "bm25-extract")
    code, said, err = rag(*command)
    assert (code, err) == (0, "")
    assert said == f"{out}: 2 rows, manifest 1\n"
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["id"], row["answer"]) for row in rows] == [
        ("x", "Cats purr."),
        ("1", "Dogs bark."),
    ]
    assert rows[0]["documents"][0].keys() == {"id", "title", "score"}
    code, said, _ = rag(*command)
    assert code == 0
    assert "nothing to do" in said
    facts = json.loads(rag(*command, "--json", "--texts")[1])
    assert facts == {
        "out": str(out),
        "rows": 2,
        "failed": 0,
        "failures": [],
        "parts": 1,
        "made": 1,
        "manifest": 1,
        "unchanged": False,
    }
    assert json.loads(out.read_text().splitlines()[0])["documents"][0]["text"] == "Cats purr."


def test_run_counts_rows_that_fail_and_stops_where_the_pipeline_says(
    rag: Rag, cats: Path, tmp_path: Path
) -> None:
    source, out = tmp_path / "q.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"question": "cats"}\n')
    unreachable = {"openai": {"url": "http://127.0.0.1:9", "model": "m", "timeout": 1}}
    for on_error in ("keep", "stop"):
        (tmp_path / f"{on_error}.yaml").write_text(
            json.dumps(
                {
                    "kind": "pipeline",
                    "on_error": on_error,
                    "stages": ["bm25", {"generate": {"backend": unreachable}}],
                }
            )
        )
    code, _, err = rag("run", source, out, "-c", cats, "-p", tmp_path / "keep.yaml")
    assert code == 0
    assert f'1 row of 1 failed; "error" in {out} says why' in err
    assert json.loads(out.read_text())["error"]["stage"] == "generate"
    before = out.read_bytes()
    code, _, err = rag("run", source, out, "-c", cats, "-p", tmp_path / "stop.yaml")
    assert code == 2
    assert "stage 'generate': question '0'" in err
    assert out.read_bytes() == before


def test_run_names_the_line_of_a_bad_question(rag: Rag, cats: Path, tmp_path: Path) -> None:
    source = tmp_path / "q.jsonl"
    source.write_text('{"question": "cats"}\n{"q": "dogs"}\n')
    code, _, err = rag("run", source, tmp_path / "out.jsonl", "-c", cats)
    assert code == 2
    assert f"{source}:2: field 'question': no key 'question' or 'text'" in err
    code, _, err = rag("run", source, source, "-c", cats)
    assert code == 2
    assert "is the file of the questions" in err


def test_draw_prints_or_writes(rag: Rag, tmp_path: Path) -> None:
    code, said, _ = rag("draw", "bm25-qa", "--mermaid")
    assert code == 0
    assert said.startswith("flowchart TD\n")
    assert 'generate<br/>backend: {llama_cpp: {model: smollm2}}<br/>passages: 1"]' in said
    code, said, _ = rag("draw", "bm25-qa")
    assert ET.fromstring(said).tag.endswith("svg")
    code, nothing, _ = rag("draw", "bm25-qa", "--out", tmp_path / "a.svg")
    assert (code, nothing) == (0, "")
    assert (tmp_path / "a.svg").read_text() == said
    code, _, err = rag("draw", "bm25-qa", "--out", tmp_path / "absent" / "a.svg")
    assert code == 2
    assert "make it first" in err
    assert rag("draw", "no-such")[0] == 2


def test_predictions_of_kilt_name_each_page_once(rag: Rag, tmp_path: Path) -> None:
    rows = [
        {"id": "1", "title": "Cats", "text": "Cats purr. " * 60 + "Then cats sleep. " * 60},
        {"id": "2", "title": "Dogs", "text": "Dogs bark at cats."},
    ]
    split = {"by": "words", "size": 40}
    pages = tmp_path / "pages.jsonl"
    pages.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = tmp_path / "index.yaml"
    file.write_text(
        f"kind: index\nsource: {{type: jsonl, path: {pages}}}\nsplit: {json.dumps(split)}\n"
        "indexes: {lexical: {type: lexical}}\n"
    )
    assert rag("index", file, "--out", tmp_path / "w")[0] == 0
    source, out = tmp_path / "kilt.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"id": "q1", "input": "cats", "output": [{"answer": "purr"}]}\n')
    command = ("run", source, out, "-c", tmp_path / "w", "-p", "bm25-extract", "--kilt")
    assert rag(*command)[0] == 0
    (line,) = map(json.loads, out.read_text().splitlines())
    (said,) = line["output"]
    assert (line["id"], line["input"], line["error"]) == ("q1", "cats", None)
    assert said["answer"]
    assert sorted(said["provenance"], key=lambda page: page["title"]) == [
        {"wikipedia_id": "1", "title": "Cats"},
        {"wikipedia_id": "2", "title": "Dogs"},
    ]
    code, _, err = rag(*command, "--texts")
    assert code == 2 and "KILT" in err
