"""The stage ``sparse`` on a small collection, with a small VDR of random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

import torch

from rag import Collection, Pipeline
from rag.batch import Batch
from rag.encoders.vdr import VDR, VDRConfig, VDREncoder
from rag.errors import InvalidInput, NotFound
from rag.indexers import Sparse as SparseKind
from rag.retrievers import Sparse
from rag.stage import Context, Run
from rag.testing import check_stage

WORDS = ["cats", "dogs", "birds", "fish", "purr", "bark", "sing", "swim", "and", "sleep"]
ROWS = [
    {"id": "cats", "title": "cats", "text": "cats purr and sleep"},
    {"id": "dogs", "title": "dogs", "text": "dogs bark"},
    {"id": "birds", "title": "birds", "text": "birds sing and sleep"},
    {"id": "fish", "title": "fish", "text": "fish swim"},
]


def model(folder: Path, seed: int = 0) -> str:
    """A folder with one random tower and a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    made = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", sep_token="[SEP]"
    )
    torch.manual_seed(seed)
    tower = VDR(
        VDRConfig(
            vocab_size=len(words), hidden_size=64, num_hidden_layers=1, num_attention_heads=1,
            intermediate_size=32, max_position_embeddings=40, shift_vocab_num=4, topk=6,
            max_len=16, initializer_range=0.3,
        )
    )  # fmt: skip
    VDREncoder("random", {"encoder_q": tower, "encoder_p": tower}, tokenizer, "cpu").save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return model(tmp_path_factory.mktemp("sparse") / "model")


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory, encoder: str) -> Collection:
    indexes: dict[str, Any] = {
        "sparse": SparseKind(encoder=encoder),
        "bag": SparseKind(encoder=encoder, vectors="bag"),
    }
    place = tmp_path_factory.mktemp("sparse") / "c"
    made, _ = Collection.build(ROWS, place, segment_rows=2, indexes=indexes)
    made.delete(["fish"])
    return made


def batch(queries: list[Any]) -> Batch:
    made = Batch.of([f"question {n}" for n in range(len(queries))])
    return made.put(query=queries)


def found(collection: Collection, stage: Sparse, queries: list[Any]) -> list[list[str]]:
    after = check_stage(stage, batch(queries), context=Context(collection.snapshot()))
    return [[hit.id for hit in row] for row in after[stage.into]]


def wanted(encoder: str, question: str, *, bag: bool) -> dict[str, float]:
    """The product of the question's vector with that of each passage."""
    opened = VDREncoder.load(encoder)
    texts = [f"{row['title']} [SEP] {row['text']}" for row in ROWS[:3]]
    passages = opened.bags.encode(texts) if bag else opened.encode(texts, "document")
    products = (opened.encode([question]) @ passages.T).toarray()[0]
    return {row["id"]: float(p) for row, p in zip(ROWS, products, strict=False) if p > 0}


@pytest.mark.parametrize("index", ["sparse", "bag"])
def test_scores_are_the_products_of_vectors(
    collection: Collection, encoder: str, index: str
) -> None:
    stage = Sparse(index=index)
    context = Context(collection.snapshot())
    question = "birds bark"
    after = check_stage(stage, batch([[question]]), context=context)
    scores = {hit.id: hit.score for hit in after["documents"][0]}
    expected = wanted(encoder, question, bag=index == "bag")
    assert scores == pytest.approx(expected, rel=1e-4)
    assert list(scores) == sorted(scores, key=lambda id: -scores[id])


def test_several_queries_a_row_and_rows_without(collection: Collection) -> None:
    queries = [["cats", "dogs bark"], [], ["sing"], None, ["swim"]]
    ids = found(collection, Sparse(index="sparse"), queries)
    assert [len(row) > 0 for row in ids] == [True, False, True, False, True]
    assert "fish" not in {id for row in ids for id in row}


def test_the_evidence_of_a_passage_is_the_terms_that_carried_it(collection: Collection) -> None:
    stage = Sparse(index="sparse", explain=True)
    queries = [["birds bark"], [], ["cats", "sing"]]
    ranking = check_stage(stage, batch(queries), context=Context(collection.snapshot()))[
        "documents"
    ]
    evidence = iter(ranking.evidence["terms"])
    for asked, hits in zip(queries, ranking, strict=True):
        for hit in hits:
            terms = next(evidence)
            assert [e["query"] for e in terms] == sorted(
                (e["query"] for e in terms), key=asked.index
            )
            for e in terms:
                assert e["score"] == pytest.approx(e["query_weight"] * e["passage_weight"])
                assert e["term"] in ("[UNK]", *WORDS)
            if len(asked) == 1:
                assert sum(e["score"] for e in terms) == pytest.approx(hit.score, rel=1e-5)
    plain = Sparse(index="sparse")
    without = check_stage(plain, batch(queries), context=Context(collection.snapshot()))[
        "documents"
    ]
    assert without.evidence == {}
    np.testing.assert_array_equal(without.docs, ranking.docs)


def test_rerank_reads_late_what_a_bag_has_found(collection: Collection, encoder: str) -> None:
    from rag.retrievers import Rerank

    question = "birds bark"
    context = Context(collection.snapshot())
    stages = [Sparse(index="bag", device="cpu"), Rerank(encoder=encoder, device="cpu")]
    steps = [stage.open(context) for stage in stages]
    made = Batch.of([question]).put(query=[[question]])
    found = steps[0](made, Run())
    after = steps[1](found, Run())
    scores = {hit.id: hit.score for hit in after["documents"][0]}
    ids = {hit.id for hit in found["documents"][0]}
    assert scores == pytest.approx(
        {id: s for id, s in wanted(encoder, question, bag=False).items() if id in ids}, rel=1e-4
    )
    assert list(scores) == sorted(scores, key=lambda id: -scores[id])
    with Pipeline(stages, collection=collection) as pipeline:
        again = pipeline.run([question])["documents"][0]
    assert {hit.id: hit.score for hit in again} == pytest.approx(scores)


def test_stages_share_one_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rag.encoders import load as loading
    from rag.retrievers import Rerank

    encoder = model(tmp_path / "own")  # that no other test has open
    kinds: dict[str, Any] = {
        "sparse": SparseKind(encoder=encoder),
        "bag": SparseKind(encoder=encoder, vectors="bag"),
    }
    collection, _ = Collection.build(ROWS, tmp_path / "c", indexes=kinds)
    loads, load = list[str](), loading.load_encoder

    def counted(name: str, device: str) -> Any:
        loads.append(name)
        return load(name, device)

    monkeypatch.setattr(loading, "load_encoder", counted)
    context = Context(collection.snapshot())
    for stage in (Sparse(index="bag"), Sparse(index="sparse"), Rerank(encoder=encoder)):
        stage.open(context)
    assert loads == [encoder]
    context.close()


def test_another_encoder_is_refused(collection: Collection, tmp_path: Path) -> None:
    other = model(tmp_path / "other", seed=1)
    with pytest.raises(InvalidInput, match="give back the encoder"):
        Sparse(index="sparse", encoder=other).open(Context(collection.snapshot()))
    Sparse(index="bag", encoder=other).open(Context(collection.snapshot()))  # the tokenizer is one
    with pytest.raises(InvalidInput, match="several sparse indexes"):
        Sparse().open(Context(collection.snapshot()))


def test_a_collection_without_such_an_index_says_how_to_add_it(tmp_path: Path) -> None:
    plain, _ = Collection.build(ROWS, tmp_path / "c")
    with pytest.raises(NotFound, match="--index sparse"):
        Sparse().open(Context(plain.snapshot()))


def test_from_the_command_line(rag: Any, encoder: str, tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    out = tmp_path / "c"
    code, _, err = rag("index", source, "--out", out)
    assert code == 0, err
    code, _, err = rag("index", out, "--index", "sparse")
    assert code == 2 and "--encoder" in err
    code, _, err = rag("index", out, "--index", "sparse", "--encoder", encoder)
    assert code == 0, err
    code, text, err = rag("search", "birds sing", "-c", out, "-p", "sparse", "--json")
    assert code == 0, err
    pipeline = Pipeline.load("sparse", collection=Collection.open(out))
    ranking = pipeline.run(["birds sing"])["documents"][0]
    assert next(hit.id for hit in ranking) in text
    assert np.isfinite([hit.score for hit in ranking]).all()
    code, text, err = rag("search", "birds sing", "-c", out, "-p", "sparse", "--json", "--explain")
    assert code == 0, err
    for hit in json.loads(text):
        assert sum(e["score"] for e in hit["evidence"]) == pytest.approx(hit["score"], rel=1e-5)
        assert {"term", "query_weight", "passage_weight"} < hit["evidence"][0].keys()
    code, text, err = rag("search", "birds sing", "-c", out, "-p", "sparse", "--explain")
    assert code == 0 and "in passage" in text, err
