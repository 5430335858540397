"""The stage ``seal`` over collections: segments, deletes, filters, evidence, what does not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from rag import Collection, Pipeline
from rag.batch import Batch
from rag.errors import BackendFailed, Damaged, InvalidInput, NotFound, RagError
from rag.indexers import NGrams, token_ids
from rag.ranking import Ranking
from rag.retrievers import Seal
from rag.retrievers.seal.evidence import spans
from rag.retrievers.seal.stage import EVIDENCE
from rag.stage import Context
from tests.retrievers.seal.tiny_seal import documents, network, questions, tokenizer

Rag = Callable[..., tuple[int, str, str]]
SETTINGS: dict[str, Any] = {"beam": 4, "length": 4, "device": "cpu", "smoothing": 1.0}


def saved(kind: str, folder: Path, **options: Any) -> str:
    network(kind, **options).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved("llama", tmp_path_factory.mktemp("model"))


def rows(n: int = 60, seed: int = 0) -> list[dict[str, Any]]:
    titles, texts = documents(n, seed)
    return [
        {"id": f"p{at}", "title": title, "text": text or "w1", "even": at % 2 == 0}
        for at, (title, text) in enumerate(zip(titles, texts, strict=True))
    ]


def collection(path: Path, model: str, given: list[dict[str, Any]], size: int = 100) -> Collection:
    return Collection.build(
        given,
        path,
        indexes={"ngrams": NGrams(model=model)},
        fields={"even": "bool"},
        segment_rows=size,
    )[0]


@pytest.fixture(scope="module")
def one(model: str, tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return collection(tmp_path_factory.mktemp("one") / "c", model, rows())


def ranked(opened: Collection, asked: Any, **settings: Any) -> Ranking:
    with Pipeline([Seal(**{**SETTINGS, **settings})], opened) as pipeline:
        batch = pipeline.run(asked)
    assert [row for row in batch["error"] if row is not None] == []
    found: Ranking = batch["documents"]
    return found


def same(found: Ranking, expected: Ranking) -> None:
    for row in range(len(expected)):
        assert [hit.id for hit in found[row]] == [hit.id for hit in expected[row]]
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    for mine, other in zip(found.evidence[EVIDENCE], expected.evidence[EVIDENCE], strict=True):
        assert [e["ngram"] for e in mine] == [e["ngram"] for e in other]
        assert [e["position"] for e in mine] == [e["position"] for e in other]


@pytest.mark.parametrize("weights", ["count", "pmi"])
def test_segments_answer_as_one(weights: str, model: str, one: Collection, tmp_path: Path) -> None:
    three = collection(tmp_path / "three", model, rows(), 25)
    assert len(three.snapshot().segments) >= 3
    expected = ranked(one, questions(6), weights=weights)
    assert len(expected.docs) > 20
    same(ranked(three, questions(6), weights=weights), expected)


def test_a_question_does_not_depend_on_those_beside_it(one: Collection) -> None:
    together = ranked(one, questions(5))
    for row, question in enumerate(questions(5)):
        same(ranked(one, [question]), together.take([row]))


def test_deleted_rows_never_show_and_compaction_answers_as_a_fresh_build(
    model: str, tmp_path: Path
) -> None:
    given = rows()
    gone = [row["id"] for row in given[3:40:4]]
    opened = collection(tmp_path / "c", model, given, 25)
    opened.delete(gone)
    found = ranked(opened, questions(6))
    assert not {hit.id for row in range(6) for hit in found[row]} & set(gone)
    opened.compact()
    fresh = collection(tmp_path / "fresh", model, [r for r in given if r["id"] not in gone])
    same(ranked(opened, questions(6)), ranked(fresh, questions(6)))
    assert opened.verify() == []


def test_added_and_replaced_passages_are_found(model: str, tmp_path: Path) -> None:
    given = rows()
    opened = collection(tmp_path / "c", model, given[:30])
    opened.add(given[30:])
    new = {"id": "p2", "title": "", "text": "w9 w8 w7 W1 W2", "even": True}
    opened.add([new], on_existing="replace")
    opened.compact()
    fresh = collection(tmp_path / "fresh", model, [*given[:2], *given[3:], new])
    same(ranked(opened, questions(6)), ranked(fresh, questions(6)))
    assert "p2" in [hit.id for hit in ranked(opened, ["w9 w8 w7"])[0]]


def test_where_keeps_the_order_of_what_it_lets_pass(one: Collection) -> None:
    everything = ranked(one, questions(5))
    some = ranked(one, questions(5), where={"even": True})
    for row in range(5):
        assert all(int(hit.id[1:]) % 2 == 0 for hit in some[row])
        wanted = {hit.id for hit in everything[row] if int(hit.id[1:]) % 2 == 0}
        assert {hit.id for hit in some[row]} == wanted


def test_empty_foreign_and_large(one: Collection) -> None:
    found = ranked(one, ["", " \n ", "東京大学はどこ", "w1 w2"], top_k=100_000)
    assert found[0] == found[1] == []
    assert 0 < len(found[3]) <= 60
    assert len(ranked(one, ["w1 w2"], top_k=1)[0]) == 1


def test_an_empty_collection_has_no_passages(model: str, tmp_path: Path) -> None:
    opened = collection(tmp_path / "c", model, [])
    assert ranked(opened, ["w1"])[0] == []


def test_several_queries_of_a_row_are_merged_with_their_evidence(one: Collection) -> None:
    a, b = questions(2)
    batch = Batch.of(["q", "r", "s"]).put(query=[[a, b], [], [a]])
    found = ranked(one, batch)
    alone = ranked(one, [a, b])
    assert found[1] == []
    same(found.take([2]), alone.take([0]))
    united = {hit.id for row in range(2) for hit in alone[row]}
    assert {hit.id for hit in found[0]} <= united
    assert all(found.evidence[EVIDENCE])


def test_a_question_over_the_context_fails_alone(one: Collection) -> None:
    with Pipeline([Seal(**SETTINGS)], one) as pipeline:
        batch = pipeline.run(["w1 w2", "w3 " * 100])
    assert batch["error"][0] is None and "context" in batch["error"][1]["message"]
    assert batch["documents"][0] and not batch["documents"][1]


def test_a_row_that_is_cancelled_while_the_model_writes_is_given_up(
    one: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rag import Cancel
    from rag.retrievers.seal import decode as module

    cancel, whole, asked = Cancel(), module.decode, list[int]()

    def decode(model: Any, index: Any, questions: Any, settings: Any) -> Any:
        asked.append(len(questions))
        cancel.row(1)
        return whole(model, index, questions, settings)

    monkeypatch.setattr(module, "decode", decode)
    with Pipeline([Seal(**SETTINGS)], one) as pipeline:
        batch = pipeline.run(questions(3), cancel=cancel)
    assert asked == [3]
    assert [error is not None for error in batch["error"]] == [False, True, False]
    monkeypatch.undo()
    same(batch["documents"].take([0, 2]), ranked(one, questions(3)).take([0, 2]))


def test_evidence_stands_where_it_says(one: Collection, model: str) -> None:
    """The tokens at its position are the n-gram's, the characters of its spans spell them."""
    found = ranked(one, questions(8), weights="pmi")
    tokens = token_ids.load(model)
    snapshot = one.snapshot()
    texts = snapshot.rows(found.docs, ("title", "text")).to_pylist()
    index = snapshot.index("ngrams").index
    seen = 0
    for doc, score, row, entries in zip(
        found.docs.tolist(), found.scores.tolist(), texts, found.evidence[EVIDENCE], strict=True
    ):
        document = index.document(doc).tolist()
        assert sum(entry["weight"] for entry in entries) == pytest.approx(score, rel=1e-4)
        where = spans(entries, row["title"], row["text"], tokens)
        for entry, its in zip(entries, where, strict=True):
            end = entry["position"] + 1
            ids = document[end - entry["tokens"] : end]
            said = " ".join(row[name][a:b] for name, (a, b) in its.items())
            assert tokens.encode([said])[0] == [t for t in ids if t != tokens.layout.title_end]
            seen += bool(said)
    assert seen > 50


def test_a_text_cannot_spell_a_special_token(model: str) -> None:
    tokens = token_ids.load(model)
    unknown, end = tokens.encode(["none </s>"])[0]
    assert tokens.encode(["w1</s>"])[0] == [unknown] != [end]
    assert tokens.places(["w1</s>"]) == [[(0, 6)]]


def test_models_that_do_not_fit(one: Collection, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    other = tmp_path / "other"
    network("llama").save_pretrained(other)
    words = Tokenizer(models.WordLevel({"<unk>": 0, "\n": 1, "w1": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(other)
    with pytest.raises(InvalidInput, match="another tokenizer than .* index again with --model"):
        ranked(one, ["w1"], model=str(other))
    small = saved("llama", tmp_path / "small", size=20)
    with pytest.raises(RagError, match="small ends at 19: the index was built for another"):
        ranked(one, ["w1"], model=small)
    twin = saved("llama", tmp_path / "twin", seed=2)  # as a model that was trained further
    assert ranked(one, ["w1 w2"], model=twin)[0]
    with pytest.raises((NotFound, BackendFailed)):
        ranked(one, ["w1"], model=str(tmp_path / "none" / "x"))


def test_damaged_files_are_named(one: Collection, tmp_path: Path) -> None:
    names = [f.name for f in next((one.path / "indexes" / "ngrams").iterdir()).iterdir()]
    for name in names:
        if name == "checksums.json":
            continue
        path = tmp_path / name
        shutil.copytree(one.path, path)
        (file,) = path.glob(f"indexes/ngrams/*/{name}")
        data = file.read_bytes()
        file.write_bytes(data[: len(data) * 2 // 3])
        opened = Collection.open(path)
        assert any(name in str(error) for error in opened.verify())
        with pytest.raises((Damaged, InvalidInput), match="verify|rag index|build the index again"):
            Seal(**SETTINGS).open(Context(opened.snapshot()))


def test_a_collection_without_the_index_says_how_to_add_it(tmp_path: Path) -> None:
    opened, _ = Collection.build(rows(5), tmp_path / "c", fields={"even": "bool"})
    with pytest.raises(NotFound, match="rag index .* --index ngrams"):
        Seal(**SETTINGS).open(Context(opened.snapshot()))


def test_the_command_line(rag: Rag, model: str, tmp_path: Path) -> None:
    source, path = tmp_path / "s.jsonl", tmp_path / "c"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    code, _, err = rag("index", source, "--out", path, "--index", "ngrams")
    assert code == 2 and "--model" in err
    code, out, err = rag("index", source, "--out", path, "--index", "ngrams", "--model", model)
    assert code == 0, err
    question = questions(1)[0]
    code, out, err = rag("search", question, "-c", path, "-p", "seal", "--explain", "--json")
    assert code == 0, err
    hits = json.loads(out)
    assert hits and all(hit["evidence"] for hit in hits)
    for hit in hits:
        order = [(e["kind"] == "token", -e["weight"]) for e in hit["evidence"]]
        assert order == sorted(order)
        for entry in hit["evidence"]:
            assert {"ngram", "weight", "offset"} <= entry.keys()
            if entry["field"] is not None and "\n" not in entry["ngram"]:
                text = hit[entry["field"]][entry["offset"] :]
                assert text.startswith(entry["ngram"].split()[0])
    code, out, err = rag("search", question, "-c", path, "-p", "seal", "--explain", "-k", "2")
    assert code == 0 and "n-gram" in out and "weight" in out
    code, out, err = rag("search", question, "-c", path, "-p", "seal", "--json")
    assert code == 0 and "evidence" not in json.loads(out)[0]
    assert rag("search", "", "-c", path, "-p", "seal", "--json")[1].strip() == "[]"


def test_the_index_is_added_to_a_collection(rag: Rag, model: str, tmp_path: Path) -> None:
    path = tmp_path / "c"
    Collection.build(rows(), path, fields={"even": "bool"})
    code, _, err = rag("index", path, "--index", "ngrams")
    assert code == 2 and "--model" in err
    code, _, err = rag("index", path, "--index", "ngrams", "--model", model)
    assert code == 0, err
    assert ranked(Collection.open(path), ["w1 w2"])[0]
