"""Hard negatives: no positive among them, the same bytes however the job ran, clear errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rag import Collection, Pipeline
from rag.errors import InvalidInput, NotFound
from rag.pipelines.run_rows import PART_ROWS
from rag.retrievers import BM25
from rag.sources import Split
from rag.training.mine import mine
from tests.conftest import Rag

ROOT = Path(__file__).parents[3]
COLOURS = ["red", "green", "blue", "grey"]


def write(folder: Path, documents: list[Any], questions: dict[str, str], qrels: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    rows = [{"_id": name, "text": text} for name, text in questions.items()]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = ["query-id\tcorpus-id\tscore", *qrels]
    (folder / "qrels_train.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def cats(tmp_path: Path) -> Path:
    """A cat of every colour in each of 30 towns; a question asks for one of them."""
    text = "The {} cat of town {} sleeps in the afternoon and hunts at night."
    documents = [
        {"_id": f"{colour}-{town}", "title": "Cats", "text": text.format(colour, town)}
        for town in range(30)
        for colour in COLOURS
    ]
    asked = {f"q{town}-{c}": f"cat {c} town {town}" for town in range(30) for c in COLOURS}
    qrels = [f"q{town}-{c}\t{c}-{town}\t1" for town in range(30) for c in COLOURS]
    folder = write(tmp_path / "data", documents, asked, qrels)
    Collection.build(str(folder), tmp_path / "cats")
    return folder


def pipeline(folder: Path, top_k: int = 20) -> Pipeline:
    return Pipeline([BM25(top_k=top_k)], Collection.open(folder))


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_no_positive_is_a_negative_and_each_is_found_by_the_pipeline(
    cats: Path, tmp_path: Path
) -> None:
    done = mine(cats, tmp_path / "n.jsonl", pipeline(tmp_path / "cats"), depth=12)
    rows = read(tmp_path / "n.jsonl")
    assert (done.rows, done.failed, len(rows)) == (120, 0, 120)
    assert list(rows[0]) == ["id", "question", "positives", "negatives", "error"]
    with pipeline(tmp_path / "cats") as searched:
        for row in rows[:5]:
            found = [hit.id for hit in searched.run([row["question"]])["documents"][0]][:12]
            assert row["negatives"] == [name for name in found if name not in row["positives"]]
    for row in rows:
        town, colour = row["id"].removeprefix("q").split("-")
        assert row["positives"] == [f"{colour}-{town}"]
        assert row["negatives"] and not set(row["negatives"]) & set(row["positives"])


def test_repetitions_of_a_positive_answers_and_the_question_itself_are_left_out(
    tmp_path: Path,
) -> None:
    body = "the tower of iron stands by the river since the year in which the fair was held"
    documents = [
        {"_id": "good", "text": f"{body} there"},
        {"_id": "again", "text": f"{body} there"},
        {"_id": "near", "text": f"{body} There!"},
        {"_id": "gold", "text": "the tower was built by Eiffel, of iron"},
        {"_id": "q", "text": "the tower of iron"},
        {"_id": "bad", "text": "the tower of london is of stone, and its ravens stay"},
        {"_id": "zero", "text": "a tower of iron cards"},
    ]
    folder = write(
        tmp_path / "d",
        documents,
        {"q": "who built the tower of iron"},
        ["q\tgood\t1", "q\tzero\t0"],
    )
    answer = {"id": "q", "question": "who built the tower of iron", "answers": ["eiffel", "no"]}
    (folder / "qa.jsonl").write_text(json.dumps(answer) + "\n")
    Collection.build(documents, tmp_path / "c")
    mine(folder, tmp_path / "n.jsonl", pipeline(tmp_path / "c"))
    [row] = read(tmp_path / "n.jsonl")
    assert row["positives"] == ["good"]
    assert sorted(row["negatives"]) == ["bad", "zero"]


def test_no_part_of_a_split_document_that_answers_is_a_negative(tmp_path: Path) -> None:
    documents = [
        {"_id": f"d{n}", "title": f"Town {n}", "text": f"Cats of {n}. " + f"word{n} cat. " * 60}
        for n in range(4)
    ]
    folder = write(tmp_path / "d", documents, {"q": "cat word2"}, ["q\td2\t1"])
    Collection.build(str(folder), tmp_path / "c", split=Split(by="words", size=20))
    mine(folder, tmp_path / "n.jsonl", pipeline(tmp_path / "c", 100))
    [row] = read(tmp_path / "n.jsonl")
    assert len(row["positives"]) == 1
    assert row["positives"][0].startswith("d2#")
    assert row["negatives"] and not [name for name in row["negatives"] if name.startswith("d2")]


def test_processes_give_the_same_bytes_and_a_second_run_does_nothing(
    cats: Path, tmp_path: Path
) -> None:
    one = mine(cats, tmp_path / "one.jsonl", pipeline(tmp_path / "cats"))
    two = mine(cats, tmp_path / "two.jsonl", pipeline(tmp_path / "cats"), workers=2)
    assert one.parts == two.made == -(-120 // PART_ROWS)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    assert mine(cats, tmp_path / "one.jsonl", pipeline(tmp_path / "cats")).unchanged
    # Other judgements are other negatives: they are mined again.
    with (cats / "qrels_train.tsv").open("a") as file:
        file.write("q0-red\tred-1\t1\n")
    again = mine(cats, tmp_path / "one.jsonl", pipeline(tmp_path / "cats"))
    assert not again.unchanged
    assert set(read(tmp_path / "one.jsonl")[0]["positives"]) == {"red-0", "red-1"}


KILLED = """
import os, signal
from rag.cli import main
from rag.pipelines import run_parts
publish = run_parts.publish
def once(*given):
    publish(*given)
    os.kill(os.getpid(), signal.SIGKILL)
run_parts.publish = once
main()
"""


def test_a_killed_job_goes_on(cats: Path, tmp_path: Path, rag: Rag) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "n.jsonl"
    command = ["mine", str(cats), "-c", str(tmp_path / "cats"), "--depth", "9", "--out"]
    assert rag(*command, whole)[0] == 0
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, *command, str(out)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    assert not out.exists()
    code, said, _ = rag(*command, out, "--json")
    assert code == 0
    assert json.loads(said)["made"] == 1
    assert out.read_bytes() == whole.read_bytes()


def test_bad_data_is_refused(
    cats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "n.jsonl"
    searched = pipeline(tmp_path / "cats")
    with pytest.raises(NotFound, match="no split 'dev'"):
        mine(cats, out, searched, split="dev")
    with (cats / "qrels_train.tsv").open("a") as file:
        file.write("q1-red\tgone\t1\n")
    qrels = (cats / "qrels_train.tsv").read_text().replace("red-2\t", "gone\t")
    (cats / "qrels_train.tsv").write_text(qrels)
    done = mine(cats, out, searched)
    assert done.failed == 1
    row = next(row for row in read(out) if row["error"])
    assert row["id"] == "q2-red"
    assert "none of its 1 relevant documents is in the collection" in row["error"]["message"]
    assert row["positives"] == row["negatives"] == []
    (cats / "qrels_train.tsv").write_text("query-id\tcorpus-id\tscore\nq1-red\tgone\t1\n")
    with pytest.raises(InvalidInput, match="none of the judged documents is in the collection"):
        mine(cats, out, searched)


def test_scores_of_a_cross_encoder(cats: Path, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    from tests.rag.training.tiny_encoder import cross_encoder

    model = cross_encoder(tmp_path / "ce")
    mine(cats, tmp_path / "n.jsonl", pipeline(tmp_path / "cats"), depth=5, scores=str(model))
    from sentence_transformers import CrossEncoder

    row = read(tmp_path / "n.jsonl")[0]
    assert list(row) == [
        *("id", "question", "positives", "negatives", "positive_scores", "negative_scores", "error")
    ]
    assert sorted(row["negative_scores"], reverse=True) == row["negative_scores"]
    texts = {d["_id"]: f"{d['title']} {d['text']}" for d in read(cats / "corpus.jsonl")}
    names = row["positives"] + row["negatives"]
    wanted = CrossEncoder(str(model)).predict([(row["question"], texts[name]) for name in names])
    assert wanted.tolist() == pytest.approx(
        row["positive_scores"] + row["negative_scores"], abs=1e-5
    )
