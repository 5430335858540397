"""The index kind and the stage ``dupmae``, on a small DupMAE model of random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from rag import Collection, Pipeline  # noqa: E402
from rag.batch import Batch  # noqa: E402
from rag.encoders import load_encoder  # noqa: E402
from rag.encoders.dupmae import ForwardStore, Unified, UnifiedModule  # noqa: E402
from rag.errors import BackendFailed, Damaged, InvalidInput, NotFound  # noqa: E402
from rag.indexers import Dense, DupMAE, Sparse  # noqa: E402
from rag.retrievers import DupMAE as Stage  # noqa: E402
from rag.stage import Context  # noqa: E402
from rag.testing import check_stage  # noqa: E402
from tests.rag.encoders import tiny_bert  # noqa: E402

D, KEPT, V = 6, 5, len(tiny_bert.PIECES)


def rows(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(2)
    texts = [" ".join(rng.choice(tiny_bert.WORDS, rng.integers(1, 9))) for _ in range(count)]
    return [
        {"id": f"p{n}", "title": "iron" if n % 3 else "", "text": text, "year": n % 7}
        for n, text in enumerate(texts)
    ]


QUESTIONS = ["the tower of iron", "paris", "unlikely builder is"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as sentence-transformers saves it, with a prompt."""
    from sentence_transformers import SentenceTransformer

    module = UnifiedModule(
        Unified(tiny_bert.bert().eval(), D), tiny_bert.tokenizer(), kept=KEPT, max_seq_length=20
    )
    out = tmp_path_factory.mktemp("dupmae") / "model"
    prompts = {"query": "steel "}
    SentenceTransformer(modules=[module], prompts=prompts, similarity_fn_name="dot").save(str(out))
    return out


def formula(folder: Path, question: str, passage: str) -> float:
    """Section 3.4 of the paper, written out for one text at a time."""
    unified, tokenizer = Unified.load(folder), tiny_bert.tokenizer()

    def parts(text: str) -> tuple[Any, Any]:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            hidden = unified.encoder.bert(ids).last_hidden_state[0]
            logits = unified.encoder.cls(hidden[None])[0]
        return unified.reduce.weight.detach() @ hidden[0], logits[1:].max(0).values.tolist()

    (query, mu_q), (document, mu_d) = parts("steel " + question), parts(passage)
    kept = sorted(range(V), key=lambda v: (-mu_d[v], v))[:KEPT]
    score = float(query @ document) + sum(mu_q[v] * mu_d[v] for v in kept)
    return float(score)


def text_of(row: dict[str, Any]) -> str:
    return f"{row['title']} {row['text']}" if row["title"] else str(row["text"])


def test_a_saved_model_is_an_encoder_of_two_parts(folder: Path, tmp_path: Path) -> None:
    encoder = load_encoder(str(folder), device="cpu")
    assert (encoder.kind, encoder.similarity, encoder.parts) == ("unified", "dot", (D, KEPT))
    assert encoder.dimensions == D + V
    passages = [text_of(row) for row in rows(9)]
    questions, documents = encoder.encode(QUESTIONS), encoder.encode(passages, kind="document")
    assert documents.format == "csr" and documents.dtype == np.float32
    assert (np.diff(documents.indptr) <= D + KEPT).all()
    scores = (questions @ documents.T).toarray()
    for q, question in enumerate(QUESTIONS):
        for n, passage in enumerate(passages):
            assert scores[q, n] == pytest.approx(formula(folder, question, passage), abs=1e-3)
    plain = tmp_path / "plain"  # as Unified saves it, beside a tokenizer
    Unified.load(folder).save(plain)
    tiny_bert.tokenizer().save_pretrained(plain)
    assert load_encoder(str(plain), device="cpu").parts == (D, V)
    assert encoder.encode([]).shape == (0, D + V)


def test_code_that_a_model_brings_is_not_run(folder: Path, tmp_path: Path) -> None:
    import json
    import shutil

    other = tmp_path / "other"
    shutil.copytree(folder, other)
    modules = [{"idx": 0, "name": "0", "path": "", "type": "mine.Module"}]
    (other / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InvalidInput, match="names other modules"):
        load_encoder(str(other), device="cpu")
    (other / "modules.json").write_text("[")
    with pytest.raises(BackendFailed, match="cannot load the encoder"):
        load_encoder(str(other), device="cpu")


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> list[Collection]:
    """The same passages in one segment and in seven."""
    kinds: dict[str, Any] = {"dupmae": DupMAE(encoder=str(folder))}
    made = []
    for size in (700, 10):
        place = tmp_path_factory.mktemp("collection") / "c"
        found, _ = Collection.build(
            rows(70), place, indexes=kinds, segment_rows=size, fields={"year": "int"}
        )
        made.append(found)
    return made


def answers(made: Collection, **settings: Any) -> list[list[tuple[str, float]]]:
    with Pipeline([Stage(top_k=8, device="cpu", **settings)], collection=made) as pipeline:
        found = pipeline.run(QUESTIONS)["documents"]
    return [[(hit.id, hit.score) for hit in row] for row in found]


def test_one_search_finds_the_best_scores_of_the_paper(
    collections: list[Collection], folder: Path
) -> None:
    every = [
        {row["id"]: formula(folder, question, text_of(row)) for row in rows(70)}
        for question in QUESTIONS
    ]
    for where in (None, {"year": {"in": [2, 5]}}):
        found = answers(collections[0], where=where)
        kept = {row["id"] for row in rows(70) if where is None or row["year"] in (2, 5)}
        for scores, hits in zip(every, found, strict=True):
            best = sorted((score for name, score in scores.items() if name in kept), reverse=True)
            best = best[:8]
            assert {name for name, _ in hits} <= kept
            assert [score for _, score in hits] == pytest.approx(best, abs=1e-3)
            for name, score in hits:
                assert score == pytest.approx(scores[name], abs=1e-3)
        assert answers(collections[1], where=where) == found


def test_deletes_and_compaction_encode_nothing(
    collections: list[Collection], tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: dict[str, Any] = {"dupmae": DupMAE(encoder=str(folder))}
    made, _ = Collection.build(rows(70), tmp_path / "c", indexes=kinds, segment_rows=10)
    gone = {name for row in answers(made) for name, _ in row[:2]}
    before = answers(made)
    made.delete(sorted(gone))
    left = answers(made)
    assert not gone & {name for row in left for name, _ in row}

    def encode(*_: Any) -> None:
        raise AssertionError("it encodes")

    with monkeypatch.context() as patch:
        patch.setattr(DupMAE, "build", encode)
        made.compact()
    assert answers(made) == left != before


def test_the_stage_keeps_the_contract(collections: list[Collection]) -> None:
    batch = Batch.of(["a", "b", "c"]).put(query=[QUESTIONS, [], ["paris"]])
    context = Context(collections[1].snapshot())
    after = check_stage(Stage(device="cpu", into="found"), batch, context=context)
    assert [len(row) for row in after["found"]] == [70, 0, 70]


def test_what_is_refused(collections: list[Collection], folder: Path, tmp_path: Path) -> None:
    name = str(folder)
    with pytest.raises(InvalidInput, match="use --index dupmae"):
        Dense(encoder=name).pinned()
    with pytest.raises(InvalidInput, match="gives unified vectors"):
        Sparse(encoder=name).pinned()
    tiny_bert.bert("BertModel").save_pretrained(tmp_path / "bert")
    tiny_bert.tokenizer().save_pretrained(tmp_path / "bert")
    with pytest.raises(InvalidInput, match="gives dense vectors.*use the type dense"):
        DupMAE(encoder=str(tmp_path / "bert")).pinned()
    with pytest.raises(InvalidInput, match="give back the encoder that built it"):
        DupMAE(encoder=name, hash="0" * 64).pinned()
    plain, _ = Collection.build(rows(3), tmp_path / "c", fields={"year": "int"})
    with pytest.raises(NotFound, match="--index dupmae"):
        Stage().open(Context(plain.snapshot()))
    index = collections[1].snapshot().index("dupmae")
    good = np.zeros((1, D + V), np.float32)
    for queries, k, keep, said in (
        (good, 0, None, "k is 0"),
        (good[:, 1:], 3, None, "use the encoder that built it"),
        (good + np.nan, 3, None, "no finite number"),
        (good, 3, np.ones(3, np.bool_), "keep has shape"),
    ):
        with pytest.raises(InvalidInput, match=said):
            index.search(queries, k, keep=keep)
    offsets, found, _ = index.search(good[:0], 3)
    assert offsets.tolist() == [0] and len(found) == 0


def test_damage_is_named(folder: Path, tmp_path: Path) -> None:
    import pyarrow as pa

    kind = DupMAE(encoder=str(folder)).pinned()
    out, empty, head = tmp_path / "v", tmp_path / "e", tmp_path / "i"
    for place in (out, empty, head):
        place.mkdir()
    table = pa.table({"title": ["", "iron"], "text": ["paris", "steel"]})
    kind.build(table, out)
    kind.gather([out], [np.zeros(2, np.bool_)], empty)
    kind.index(empty, None, head)
    assert kind.open([head], [empty], None).rows == 0
    kind.index(out, None, head)
    whole = kind.open([head], [out], None)
    ask = np.ones((1, D + V), np.float32)
    assert len(whole.search(ask, 5)[1]) == 2
    with pytest.raises(Damaged, match="index.json counts 2 rows"):
        kind.open([head], [empty], None)
    ids = np.load(out / "ids.npy")
    np.save(out / "ids.npy", ids + V)
    with pytest.raises(Damaged, match="a token outside the vocabulary"):
        kind.open([head], [out], None).search(ask, 5)
    np.save(out / "ids.npy", ids[:, 1:])
    with pytest.raises(Damaged, match="is damaged"):
        kind.open([head], [out], None)
    (out / "ids.npy").write_bytes(b"nothing")
    with pytest.raises(Damaged, match=r"ids\.npy"):
        kind.open([head], [out], None)


def test_stores_are_joined_as_they_would_be_saved(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stores = [
        ForwardStore.of(rng.normal(size=(n, 3)), rng.normal(size=(n, 9)), k=2) for n in (4, 1, 5)
    ]
    for name in ("joined", "saved"):
        (tmp_path / name).mkdir()
    mask = np.array([True, False, True, False])
    assert ForwardStore.join(stores, [mask, None, None], tmp_path / "joined") == 8
    kept = ForwardStore(*(x[mask] for x in (stores[0].dense, stores[0].ids, stores[0].values)))
    ForwardStore.concat([kept, *stores[1:]]).save(tmp_path / "saved")
    for file in sorted((tmp_path / "saved").iterdir()):
        assert file.read_bytes() == (tmp_path / "joined" / file.name).read_bytes()
