"""Training VDR: resumed to the same weights, opened as it was scored, and it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("sentence_transformers")

import numpy as np
import torch

from rag.encoders import load_encoder
from rag.encoders.vdr import VDREncoder
from rag.errors import InvalidFile, InvalidInput
from rag.training.data import Document, Side, Split
from rag.training.run import train
from rag.training.vdr import VDR
from tests.rag.training.tiny_encoder import (
    data_folder,
    goes_on,
    model_folder,
    negatives_file,
    recipe,
    weights,
)

SMALL = {"shift": 5, "topk": 12, "question_length": 12, "passage_length": 20}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vdr")
    data_folder(folder / "data")
    model_folder(folder / "bert")
    negatives_file(folder / "negatives.jsonl", folder / "data")
    return folder


def made(place: Path, folder: Path, model: Path | None = None, **settings: Any) -> Any:
    changes = settings.pop("changes", {})
    objective: Any = {"vdr": SMALL | settings}
    return recipe(folder, objective, place / "data", model or place / "bert", **changes)


def test_a_training_that_goes_on_gives_the_weights_of_one_in_one_go(
    place: Path, tmp_path: Path
) -> None:
    mined: dict[str, Any] = {"negatives": str(place / "negatives.jsonl"), "hard": 2}
    goes_on(made(place, tmp_path, semi=True, **mined), tmp_path)


def test_two_towers_learn_apart_and_a_trained_model_learns_on(place: Path, tmp_path: Path) -> None:
    first = train(made(place, tmp_path), tmp_path / "first")
    encoder = load_encoder(str(first.out))
    assert isinstance(encoder, VDREncoder)
    asked, read = (encoder.towers[name] for name in ("encoder_q", "encoder_p"))
    assert (asked.config.max_len, read.config.max_len) == (12, 20)
    assert not torch.equal(asked.ln.weight, read.ln.weight)
    second = train(made(place, tmp_path, first.out), tmp_path / "second")
    before, after = weights(first.out), weights(second.out)
    assert before.keys() == after.keys()
    assert not torch.equal(before["encoder_q.ln.weight"], after["encoder_q.ln.weight"])
    # What is scored is what others open: the values of the second begin where the first ended.
    ends, begins = (
        {row["mean"] for row in done.report["scores"] if row["row"] == name}
        for done, name in ((first, "after"), (second, "before"))
    )
    assert ends == begins
    with pytest.raises(InvalidInput, match="has two towers, and the recipe says shared"):
        train(made(place, tmp_path, first.out, shared=True), tmp_path / "third")


def test_titles_ask_for_texts_and_the_loss_falls(place: Path, tmp_path: Path) -> None:
    from sentence_transformers import SparseEncoder

    more = {"steps": 40, "batch": 8, "learning_rate": 5e-3}
    given = made(place, tmp_path, pairs="titles", shared=True, changes={"train": more})
    done = train(given, tmp_path / "out")
    losses = [loss for _, loss in done.report["loss"]]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert "24 pairs of a title and a text, without judgements." in done.report["notes"]
    texts = ["the tower of iron", "paris"]
    wanted = SparseEncoder(str(done.out), device="cpu").encode(texts).to_dense().numpy()
    found = load_encoder(str(done.out))
    assert np.allclose(found.encode(texts, "document").toarray(), wanted, atol=1e-5)
    assert found.explain("the tower of iron", "a tower")  # type: ignore[attr-defined]


def test_rows_hold_nothing_that_is_held_back(place: Path) -> None:
    documents = {f"d{n}": Document(f"t{n}", f"x{n}") for n in range(3)}
    train_side = Side(
        {"d0": documents["d0"], "d1": documents["d1"]}, {"q0": "a"}, {"q0": {"d0": 1}}
    )
    held = Side({"d2": documents["d2"]}, {"q2": "b"}, {"q2": {"d2": 1}})
    split = Split(train_side, held, documents, {})
    titles = VDR(**SMALL, pairs="titles").open(str(place / "bert"), split, 0)
    assert [row.positive for row in titles.rows] == ["d0", "d1"]
    asked = VDR(**SMALL).open(str(place / "bert"), split, 0)
    assert [(row.name, row.positive) for row in asked.rows] == [("q0", "d0")]
    none = Split(Side({"d": Document("", "text")}, {}, {}), held, documents, {})
    with pytest.raises(InvalidInput, match="no document has both a title and a text"):
        VDR(**SMALL, pairs="titles").open(str(place / "bert"), none, 0)


def test_a_recipe_that_cannot_be_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="titles have no hard negatives"):
        made(place, tmp_path, pairs="titles", negatives="negatives.jsonl")
    with pytest.raises(InvalidFile, match="hard"):
        made(place, tmp_path, hard=0)
