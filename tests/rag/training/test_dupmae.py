"""Pre-training and fine-tuning of DupMAE: resumed to the same weights, no leak, clear errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("sentence_transformers")

import numpy as np
import torch

from rag.encoders import load_encoder
from rag.encoders.dupmae import Unified
from rag.errors import BadRow, InvalidInput, NotFound
from rag.training import bi_encoder_rows
from rag.training.bi_encoder_model import contrastive, distilled
from rag.training.data import Document, Side, Split
from rag.training.dupmae import blocks
from rag.training.run import train
from tests.rag.encoders import tiny_bert
from tests.rag.training.tiny_encoder import (
    data_folder,
    goes_on,
    model_folder,
    negatives_file,
    recipe,
)

PRE = {"dupmae": {"max_length": 14}}
DOCUMENTS = {"by": "document", "share": 0.25}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dupmae")
    data_folder(folder / "data")
    model_folder(folder / "bert")
    negatives_file(folder / "negatives.jsonl", folder / "data")
    return folder


def bi_encoder(place: Path, **settings: Any) -> dict[str, Any]:
    given = {"passage_length": 24, "question_length": 12, "candidates": 12} | settings
    if "negatives" in given:
        given["negatives"] = str(place / given["negatives"])
    return {"bi_encoder": given}


OBJECTIVES: dict[str, Any] = {
    "dupmae": (PRE, {"hold_out": DOCUMENTS}),
    "distilled": ({"negatives": "negatives.jsonl", "hard": 2, "distill": True}, {}),
}


def made(place: Path, folder: Path, name: str) -> Any:
    settings, changes = OBJECTIVES[name]
    objective = settings if name == "dupmae" else bi_encoder(place, **settings)
    return recipe(folder, objective, place / "data", place / "bert", **changes)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_training_that_goes_on_gives_the_weights_of_one_in_one_go(
    place: Path, tmp_path: Path, name: str
) -> None:
    goes_on(made(place, tmp_path, name), tmp_path)


def test_pre_training_learns_the_held_back_side_and_leaves_a_bert(
    place: Path, tmp_path: Path
) -> None:
    more = {"steps": 30, "batch": 8, "learning_rate": 5e-3}
    given = recipe(tmp_path, PRE, place / "data", place / "bert", hold_out=DOCUMENTS, train=more)
    done = train(given, tmp_path / "out")
    means = {(row["row"], row["measure"]): row["mean"] for row in done.report["scores"]}
    assert means["after", "loss"] < means["before", "loss"] - 0.5
    for loss in ("mlm loss", "decoder loss", "bow loss"):
        assert means["after", loss] < means["before", loss]
    assert load_encoder(str(done.out)).kind == "vocabulary"
    # What was pre-trained is fine-tuned next.
    tuned = train(
        recipe(tmp_path, bi_encoder(place, pooling="unified"), place / "data", done.out),
        tmp_path / "tuned",
    )
    assert isinstance(Unified.load(tuned.out), Unified)
    assert load_encoder(str(tuned.out)).encode(["paris"]).shape == (1, 384 + 25)


def test_a_fine_tuned_encoder_is_opened_as_it_was_scored(place: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    objective = bi_encoder(place, pooling="mean", similarity="cosine", temperature=0.1)
    done = train(recipe(tmp_path, objective, place / "data", place / "bert"), tmp_path / "out")
    encoder = load_encoder(str(done.out))
    assert (encoder.similarity, encoder.dimensions) == ("cosine", 24)
    texts = ["the tower of iron", "paris"]
    wanted = SentenceTransformer(str(done.out), device="cpu").encode(texts)
    assert np.allclose(encoder.encode(texts), wanted, atol=1e-6)
    assert np.allclose(np.linalg.norm(wanted, axis=1), 1, atol=1e-5)


def test_blocks_are_whole_sentences_of_one_document_each_token_once() -> None:
    tokenizer = tiny_bert.tokenizer()
    text = "the tower is iron . the river is by paris . steel and iron . builder unlikely ."
    documents = {
        "a": Document("the bridge", text),
        "b": Document("", "paris"),
        "c": Document("", ""),
    }
    found = blocks(documents, tokenizer, 6)
    assert [name for name, _ in found] == ["a#0", "a#1", "a#2", "b#0"]
    read = [tokenizer.convert_ids_to_tokens(ids) for _, ids in found]
    assert read[:2] == [
        ["the", "bridge", "the", "tower", "is", "iron"],
        ["the", "river", "is", "by", "paris", "."],
    ]
    assert all(len(ids) <= 6 for _, ids in found)


def test_losses_are_those_of_the_formulas() -> None:
    draw = np.random.default_rng(0)
    asked, read = draw.normal(size=(3, 5)), draw.normal(size=(9, 5))
    teacher = draw.normal(size=(3, 3))
    total = cross = 0.0
    for row in range(3):
        scores = read @ asked[row] / 0.5
        total -= scores[row] - np.log(np.exp(scores).sum())
        own = scores[[row, 3 + 2 * row, 4 + 2 * row]]
        wanted = np.exp(teacher[row]) / np.exp(teacher[row]).sum()
        cross -= wanted @ (own - np.log(np.exp(own).sum()))
    one, other = torch.tensor(asked), torch.tensor(read)
    assert float(contrastive(one, other, 0.5)) == pytest.approx(total / 3)
    assert float(distilled(one, other, torch.tensor(teacher), 0.5)) == pytest.approx(cross / 3)


def test_rows_of_one_passage_stand_apart() -> None:
    keys = [f"p{n % 90}" for n in range(270)]
    order = bi_encoder_rows.spread(keys, np.random.default_rng(0))
    assert sorted(order) == list(range(270))
    last: dict[str, int] = {}
    for place, row in enumerate(order):
        assert place - last.get(keys[row], -100) >= bi_encoder_rows.APART
        last[keys[row]] = place
    assert sorted(bi_encoder_rows.spread(["a"] * 200, np.random.default_rng(0))) == list(range(200))


def side(documents: list[str], questions: list[str]) -> Side:
    texts = {name: Document("", name) for name in documents}
    return Side(texts, {q: q for q in questions}, {q: {f"d{q[1:]}": 1} for q in questions})


SPLIT = Split(
    side(["d0", "d1", "d2"], ["q0", "q1"]),
    side(["d3"], ["q3"]),
    {f"d{n}": Document("", f"d{n}") for n in range(4)},
    {},
)


def rows_of(tmp_path: Path, *lines: dict[str, Any], scored: bool = False) -> Any:
    file = tmp_path / "negatives.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return bi_encoder_rows.question_rows(SPLIT, file, scored=scored)


def line(name: str, **changes: Any) -> dict[str, Any]:
    given = {"id": name, "question": name, "positives": [f"d{name[1:]}"], "negatives": ["d2"]}
    return {k: v for k, v in (given | {"error": None} | changes).items() if v != "none"}


def test_nothing_of_the_held_back_side_is_learned_from(tmp_path: Path) -> None:
    negatives = ["d3", "d2", "d1"]
    rows, said = rows_of(tmp_path, line("q0", negatives=negatives), line("q3"), line("q1"))
    assert [row.name for row in rows] == ["q0", "q1"]
    assert rows[0].negatives == ("d2", "d1")
    assert "d3" not in {name for row in rows for name in (row.positive, *row.negatives)}
    assert said[0].startswith("2 pairs")


def test_bad_negatives_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no such file of negatives; make it: rag mine"):
        bi_encoder_rows.question_rows(SPLIT, tmp_path / "absent.jsonl")
    refused: list[tuple[Any, str, dict[str, Any]]] = [
        (BadRow, r"jsonl:1: field 'negatives': no key 'negatives'", {"negatives": "none"}),
        (BadRow, r"'positives': \"d0\" is no list of ids", {"positives": "d0"}),
        (InvalidInput, "holds no negatives for any of the 2 questions", {"negatives": []}),
        (InvalidInput, "the passage 'gone' is not among the 4 documents", {"negatives": ["gone"]}),
        (InvalidInput, "the negative 'd0' is judged relevant", {"negatives": ["d0"]}),
        (InvalidInput, "holds no negatives for any", {"id": "q9"}),
    ]
    for error, message, changes in refused:
        with pytest.raises(error, match=message):
            rows_of(tmp_path, line("q0", **changes))
    with pytest.raises(BadRow, match=r"no key 'positive_scores'; distillation.*--scores"):
        rows_of(tmp_path, line("q0"), scored=True)
    scores = {"positive_scores": [1.0], "negative_scores": [0.5, 0.25]}
    with pytest.raises(BadRow, match="no list of 1 numbers, one for each passage"):
        rows_of(tmp_path, line("q0", **scores), scored=True)
    rows, said = rows_of(tmp_path, line("q0"), line("q1", negatives=[]))
    assert len(rows) == 1
    assert "1 questions without any are left out" in said[0]
