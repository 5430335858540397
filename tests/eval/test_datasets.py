from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from rag.errors import BadRow, InvalidInput, NotFound
from rag.eval import load

ROOT = Path(__file__).resolve().parents[2]
QUERIES = [{"_id": "q1", "text": "one?"}, {"_id": "q2", "text": "two?"}, {"_id": "q3", "text": "3"}]
HEADER = "query-id\tcorpus-id\tscore\n"


Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Write a dataset: file name to text, or to rows that become lines of JSON."""

    def write(files: Mapping[str, str | list[dict[str, Any]]]) -> Path:
        for name, content in files.items():
            if not isinstance(content, str):
                content = "".join(json.dumps(row) + "\n" for row in content)
            file = tmp_path / "toy" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, "utf-8")
        return tmp_path / "toy"

    return write


def test_xquad_as_shipped() -> None:
    dataset = load(ROOT / "examples" / "xquad-en")
    assert dataset.name == "xquad-en"
    assert len(dataset.questions) == len(dataset.qrels) == len(dataset.answers) == 1190
    name = "56beb4343aeaaa14008c925b"
    assert dataset.questions[name] == "How many points did the Panthers defense surrender?"
    assert dataset.qrels[name] == {"p000": 1}
    assert dataset.answers[name] == ("308",)


def test_only_judged_questions_are_kept(folder: Folder) -> None:
    path = folder({"queries.jsonl": QUERIES, "qrels.tsv": HEADER + "q1\td1\t2\nq1\td2\t0\n"})
    dataset = load(path)
    assert dataset.questions == {"q1": "one?"}
    assert dataset.qrels == {"q1": {"d1": 2, "d2": 0}}
    assert dataset.answers == {}


def test_splits_test_goes_before_dev_before_the_only_one(folder: Folder) -> None:
    path = folder({"queries.jsonl": QUERIES, "qrels/train.tsv": HEADER + "q3\td1\t1\n"})
    assert load(path).split == "train"
    folder({"qrels/dev.tsv": HEADER + "q2\td1\t1\n"})
    assert load(path).split == "dev"
    folder({"qrels/test.tsv": HEADER + "q1\td1\t1\n"})
    assert load(path).split == "test"
    assert list(load(path, split="train").qrels) == ["q3"]


def test_several_splits_without_a_default_have_to_be_named(folder: Folder) -> None:
    qrels = {f"qrels/{split}.tsv": HEADER + "q1\td1\t1\n" for split in ("train", "extra")}
    with pytest.raises(InvalidInput, match="name one of extra, train"):
        load(folder({"queries.jsonl": QUERIES, **qrels}))


def test_flat_qrels_are_the_split_test_beside_train(folder: Folder) -> None:
    files = {"qrels.tsv": HEADER + "q1\td1\t1\n", "qrels_train.tsv": HEADER + "q2\td1\t1\n"}
    path = folder({"queries.jsonl": QUERIES, **files})
    assert (load(path).split, list(load(path).qrels)) == ("test", ["q1"])
    assert list(load(path, split="train").qrels) == ["q2"]
    with pytest.raises(NotFound, match="no split 'trian'; did you mean 'train'"):
        load(path, split="trian")


def test_compressed_files_give_the_same(folder: Folder) -> None:
    path = folder({"queries.jsonl": QUERIES, "qrels/test.tsv": HEADER + "q1\td1\t1\n"})
    plain = load(path)
    for file in (path / "queries.jsonl", path / "qrels" / "test.tsv"):
        Path(f"{file}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert load(path) == plain


@pytest.mark.parametrize(
    "qrels",
    ["q1 0 d1 1\nq1 Q0 d2 -1\n", "q1\t0\td1\t1\nq1\t0\td2\t-1\n", "q1\td1\t1\r\n\r\nq1\td2\t-1"],
)
def test_trec_columns_and_headerless_files(folder: Folder, qrels: str) -> None:
    path = folder({"queries.jsonl": QUERIES, "qrels.tsv": qrels})
    assert load(path).qrels == {"q1": {"d1": 1, "d2": -1}}


def test_gold_answers_alone_are_a_dataset(folder: Folder) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "a", "question": "who?", "answers": ["x", "y"]},
        {"id": "b", "question": "none?", "answers": []},
        {"id": 3, "question": "one text?", "answer": "z"},
    ]
    dataset = load(folder({"qa.jsonl": rows}))
    assert dataset.questions == {"a": "who?", "3": "one text?"}
    assert dataset.answers == {"a": ("x", "y"), "3": ("z",)}
    assert (dataset.qrels, dataset.split) == ({}, None)


def test_gold_answers_may_name_splits(folder: Folder) -> None:
    rows = [{"id": s, "question": s, "answers": [s], "split": s} for s in ("train", "test")]
    path = folder({"qa.jsonl": rows})
    assert list(load(path).questions) == ["test"]
    assert list(load(path, split="train").questions) == ["train"]


def test_answers_of_unjudged_questions_count_unless_there_are_splits(folder: Folder) -> None:
    rows = [{"id": q["_id"], "question": q["text"], "answers": ["x"]} for q in QUERIES]
    qrels = HEADER + "q1\td1\t1\n"
    path = folder({"queries.jsonl": QUERIES, "qa.jsonl": rows, "qrels.tsv": qrels})
    assert list(load(path).answers) == ["q1", "q2", "q3"]
    folder({"qrels_train.tsv": HEADER + "q2\td1\t1\n"})
    assert list(load(path).answers) == ["q1"]


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ("q1\td1\n", r"qrels\.tsv:2: field 'row': 2 columns, not 3 or 4"),
        ("q1\td1\tyes\n", r"qrels\.tsv:2: field 'grade': 'yes' is no integer"),
        ("q1\td1\t1\nq1\td1\t2\n", r"qrels\.tsv:3: field 'grade': 'd1' is graded 1 and 2"),
        ("q1\t\t1\n", r"qrels\.tsv:2: field 'corpus-id': empty"),
        ("q1\td1\t1\nq9\td1\t1\n", r"qrels\.tsv:3: field 'query-id': 'q9' is in neither"),
    ],
)
def test_bad_judgements(folder: Folder, qrels: str, message: str) -> None:
    with pytest.raises(BadRow, match=message):
        load(folder({"queries.jsonl": QUERIES, "qrels.tsv": HEADER + qrels}))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "field 'row': no JSON"),
        ('{"text": "x"}', "field '_id': no key '_id' or 'id'; the row has 'text'"),
        ('{"_id": "q9"}', "field 'text': no key 'text' or 'question'"),
        ('{"_id": "q9", "text": 3}', "field 'text': the number 3; write it as a string"),
        ('{"_id": "q9", "text": " "}', "field 'text': empty"),
        ('{"_id": "q1", "text": "x"}', "field 'id': 'q1' stands twice"),
    ],
)
def test_bad_questions(folder: Folder, line: str, message: str) -> None:
    path = folder({"queries.jsonl": QUERIES, "qrels.tsv": HEADER + "q1\td1\t1\n"})
    with (path / "queries.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(BadRow, match=rf"queries\.jsonl:4: {message}"):
        load(path)


@pytest.mark.parametrize("answers", [3, [3], {"text": ["x"]}, None])
def test_bad_answers(folder: Folder, answers: Any) -> None:
    rows = [{"id": "a", "question": "q", "answers": answers}]
    with pytest.raises(BadRow, match=r"qa\.jsonl:1: field 'answers': .* is no list of strings"):
        load(folder({"qa.jsonl": rows}))


def test_missing_files_are_listed(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"looked for queries\.jsonl.*qrels.*qa\.jsonl.*README"):
        load(folder({"README": "x"}))
    with pytest.raises(NotFound, match="does not exist"):
        load(tmp_path / "nowhere")


def test_no_question_at_all(folder: Folder) -> None:
    with pytest.raises(InvalidInput, match="no question has a judgement or a gold answer"):
        load(folder({"queries.jsonl": QUERIES, "qrels.tsv": HEADER}))
