"""Nothing that is scored is trained on, and what cannot be used is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import BadRow, InvalidInput, NotFound
from rag.training.data import Document, Side, Split, check, read
from rag.training.recipe import Data, HoldOut
from tests.rag.training.conftest import write_data

BOTH = frozenset({"documents", "questions"})


def of(folder: Path, **hold_out: object) -> Split:
    return read(Data(path=str(folder)), HoldOut.model_validate(hold_out), BOTH)


def test_articles_stand_on_one_side(dataset: Path) -> None:
    split = of(dataset, by="article", share=0.5, seed=1)
    titles = [{d.title for d in side.documents.values()} for side in (split.train, split.held)]
    assert (len(titles[0]), len(titles[1])) == (3, 3) and not titles[0] & titles[1]
    assert len(split.train.questions) == len(split.held.questions) == 18
    assert all(split.held.positives(name) for name in split.held.questions)
    assert of(dataset, by="article", share=0.5, seed=1) == split
    assert of(dataset, by="article", share=0.5, seed=2) != split


def test_articles_are_held_back_by_title(dataset: Path) -> None:
    split = of(dataset, by="article", ids=["Article 2"])
    assert set(split.held.documents) == {"d2-0", "d2-1", "d2-2"}
    with pytest.raises(InvalidInput, match="no article 'article 9'"):
        of(dataset, by="article", ids=["Article 9"])


def test_questions_of_documents_on_both_sides_are_dropped(dataset: Path) -> None:
    with (dataset / "qrels.tsv").open("a") as file:
        file.write("q0-0-0\td5-0\t1\n")
    split = of(dataset, by="document", ids=["d5-0"])
    assert split.dropped == 1
    assert "q0-0-0" not in {**split.train.questions, **split.held.questions}


def test_the_same_text_is_never_on_both_sides(dataset: Path) -> None:
    rows = [json.loads(line) for line in (dataset / "corpus.jsonl").read_text().splitlines()]
    rows[0]["text"] = rows[-1]["text"].upper()  # of two articles, which therefore go together
    (dataset / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = of(dataset, by="article", ids=["Article 0"])
    assert {d.title for d in split.held.documents.values()} == {"Article 0", "Article 5"}


@pytest.mark.parametrize("by", ["document", "article", "question"])
@settings(max_examples=15, deadline=None)
@given(share=st.floats(0.2, 0.8), seed=st.integers(0, 99))
def test_no_split_leaks(tmp_path_factory: pytest.TempPathFactory, by: str, share: float,
                        seed: int) -> None:  # fmt: skip
    folder = tmp_path_factory.getbasetemp() / "leaks"
    if not folder.exists():
        write_data(folder)
    split = of(folder, by=by, share=share, seed=seed)
    assert not set(split.train.questions) & set(split.held.questions)
    if by != "question":
        assert not set(split.train.documents) & set(split.held.documents)


def test_what_is_on_both_sides_is_named() -> None:
    side = Side({"d": Document("", "one")}, {"q": "who?"}, {"q": {"d": 1}})
    other = Side({"d": Document("", "one")}, {"r": "Who? "}, {"r": {"d": 1}})
    with pytest.raises(InvalidInput, match="same question .*'q'"):
        check(Split(side, side, {}, {}), "question")
    with pytest.raises(InvalidInput, match="text of a question .*'r'"):
        check(Split(side, other, {}, {}), "question")
    with pytest.raises(InvalidInput, match="same document .*'d'"):
        check(Split(side, replace(other, questions={"r": "what?"}), {}, {}), "document")


def test_splits_of_a_dataset_are_compared(dataset: Path) -> None:
    lines = (dataset / "qrels.tsv").read_text().splitlines()
    (dataset / "qrels.tsv").unlink()
    for name, part in (("train", lines[1:31]), ("test", lines[31:])):
        (dataset / "qrels").mkdir(exist_ok=True)
        (dataset / "qrels" / f"{name}.tsv").write_text("\n".join(part) + "\n")
    data = Data(path=str(dataset), split="train")
    split = read(data, HoldOut(by="split", split="test"), BOTH)
    assert (len(split.train.questions), len(split.held.questions)) == (30, 6)
    with pytest.raises(InvalidInput, match="on the training side and held back"):
        read(data, HoldOut(by="split", split="train"), BOTH)
    queries = (dataset / "queries.jsonl").read_text().replace("What says d0-0 of 0?", "WHAT  is?")
    (dataset / "queries.jsonl").write_text(
        queries.replace("What long long long long long says d5-2 of 0?", "what is?")
    )
    split = read(data, HoldOut(by="split", split="test"), BOTH)
    assert (len(split.train.questions), split.dropped) == (29, 1)
    assert "q0-0-0" not in split.train.questions and "q5-2-0" in split.held.questions


def test_a_sample_is_scored(dataset: Path) -> None:
    split = of(dataset, by="article", share=0.5, sample=5)
    assert len(split.held.questions) == 5 and len(split.train.questions) == 18


def test_empty_sides_and_missing_files_are_named(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="the held-back side holds no documents"):
        of(dataset, by="article", share=0.01)
    with pytest.raises(InvalidInput, match="the training side holds no documents"):
        of(dataset, by="article", share=0.99)
    (dataset / "qrels.tsv").write_text("q0-0-0\tother\t1\n")
    with pytest.raises(InvalidInput, match="judgements and documents must have one set of ids"):
        of(dataset, by="article", share=0.5)
    (dataset / "qrels.tsv").unlink()
    with pytest.raises(NotFound, match="qrels"):
        of(dataset, by="article", share=0.5)
    with pytest.raises(NotFound, match="no such file or folder"):
        of(tmp_path / "absent", by="article", share=0.5)


def test_a_missing_column_is_named_with_its_line(dataset: Path) -> None:
    (dataset / "corpus.jsonl").write_text('{"_id": "a", "text": "t"}\n{"_id": "b", "txt": ""}\n')
    with pytest.raises(BadRow, match=r"corpus.jsonl:2: field 'text'"):
        of(dataset, by="article", share=0.5)


def test_documents_of_a_collection(dataset: Path, tmp_path: Path) -> None:
    from rag.collection import Collection

    Collection.build(dataset, tmp_path / "c", indexes={})
    data = Data(path=str(tmp_path / "c"), questions=str(dataset))
    one = read(data, HoldOut(by="article", share=0.5), BOTH)
    assert one == of(dataset, by="article", share=0.5)
