"""The stage ``seal`` beside others: models shared, evidence passed on, rows that are given up."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from rag import Collection, Pipeline
from rag.batch import Batch
from rag.batch_arrow import from_arrow, to_arrow
from rag.indexers import NGrams
from rag.retrievers import Fuse, Seal
from rag.retrievers.seal.decode import decode
from rag.retrievers.seal.model import SealModel
from rag.retrievers.seal.stage import EVIDENCE
from rag.run import Cancel, Run
from rag.stage import Context
from tests.retrievers.seal.tiny_seal import documents, network, questions, tokenizer

Rag = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def wiki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seal")
    network("llama").save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    titles, texts = documents(40)
    rows = [
        {"id": f"p{at}", "title": title, "text": text or "w1"}
        for at, (title, text) in enumerate(zip(titles, texts, strict=True))
    ]
    indexes = {"ngrams": NGrams(model=str(folder / "model"))}
    Collection.build(rows, folder / "wiki", indexes=indexes)
    return folder / "wiki"


def test_two_stages_share_a_model_and_fusing_keeps_their_evidence(
    wiki: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, load = [], SealModel.load

    def watched(name: str, **settings: Any) -> SealModel:
        loaded.append(name)
        return load(name, **settings)

    monkeypatch.setattr(SealModel, "load", watched)
    stages = [Seal(into="a"), Seal(into="b", weights="pmi"), Fuse(of=["a", "b"], top_k=4)]
    with Pipeline(stages, collection=Collection.open(wiki)) as pipeline:
        batch = pipeline.run(questions(2))
    assert len(loaded) == 1
    assert batch["documents"].counts.tolist() == [4, 4]
    assert all(batch["documents"].evidence[EVIDENCE])
    assert from_arrow(to_arrow(batch), batch["documents"].snapshot) == batch


def test_rows_that_nobody_waits_for_are_left_undone(
    wiki: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def watched(model: SealModel, index: Any, some: Any, settings: Any) -> Any:
        asked.extend(some)
        return decode(model, index, some, settings)

    monkeypatch.setattr("rag.retrievers.seal.decode.decode", watched)
    batch = Batch.of(["w1", "w2"]).put(query=[["w1"], ["w2"]])
    cancel = Cancel()
    cancel.row(0)
    with closing(Context(Collection.open(wiki).snapshot())) as context:
        step = Seal().open(context)
        late = step(batch, Run(deadline=time.monotonic() - 1))
        assert late["documents"].counts.tolist() == [0, 0]
        assert asked == []
        found = step(batch, Run(cancel=cancel, rows=range(2)))["documents"]
    assert found.counts[0] == 0 < found.counts[1]
    assert asked == ["w2"]


def test_a_query_that_is_no_text_fails_alone(wiki: Path) -> None:
    with Pipeline([Seal()], collection=Collection.open(wiki)) as pipeline:
        batch = pipeline.run(["w1 \ud800", "w1"])
    assert "unpaired surrogate" in batch["error"][0]["message"]
    assert batch["error"][1] is None and batch["documents"][1]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("{beam: 0}", "beam"),
        ("{weights: mpi}", "weights"),
        ("{alpha: .nan}", "alpha"),
        ("{model: /nowhere/at/all}", "no model"),
        ("{index: other}", "no index 'other'"),
        ("{where: {day: 3}}", "day"),
    ],
)
def test_wrong_settings_at_the_command_line(
    rag: Rag, wiki: Path, tmp_path: Path, settings: str, said: str
) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(f"kind: pipeline\nstages:\n  - seal: {settings}\n")
    code, _, err = rag("search", "w1", "-c", wiki, "-p", file)
    assert (code, said in err) == (2, True), err


@pytest.mark.parametrize("question", ["", " ", "東京大学はどこ", "w1 \udcff", "w3 " * 100])
def test_odd_questions_at_the_command_line(rag: Rag, wiki: Path, question: str) -> None:
    code, out, err = rag("search", question, "-c", wiki, "-p", "seal", "--explain", "-k", "2")
    if question.strip() == "":
        assert (code, out) == (0, "no passage was found\n")
    elif "\udcff" in question or len(question) > 100:
        assert code == 2, err
        assert "surrogate" in err or "shorten the question" in err
    else:
        assert code == 0, err
