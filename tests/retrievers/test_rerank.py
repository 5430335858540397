"""The stage ``rerank`` against ``CrossEncoder.predict`` of sentence-transformers."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from rag.batch import Batch
from rag.errors import BackendFailed, InvalidInput, MissingColumn, NotFound
from rag.ranking import Ranking
from rag.retrievers.rerank import Rerank
from rag.run import Cancel, Run
from rag.stage import Columns, Context
from rag.testing import MemorySnapshot, check_stage

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
sentence_transformers = pytest.importorskip("sentence_transformers")

WORDS = "the tower is of iron and steel by paris river bridge who built what when 1889"
TEXTS = [
    "The tower is of iron. " * 40,  # longer than the model reads
    "A bridge by the river is built of steel, and iron.",
    "Paris.",
    "The river is by Paris",
    "",
]
SNAPSHOT = MemorySnapshot(
    [{"id": f"p{n}", "title": "The tower" * (n == 1), "text": t} for n, t in enumerate(TEXTS)]
)
QUESTIONS = ["Who built the tower?", "What is by the river?", "When?", "Why?"]
BATCH = Batch.of(QUESTIONS).put(
    documents=Ranking.of(
        [[(0, 3), (1, 2), (2, 1)], [(3, 1), (4, 0.5), (1, 0.2), (0, 0.1)], [], None], SNAPSHOT
    )
)


def save(folder: Path, labels: int = 1, cls: str = "BertForSequenceClassification") -> Path:
    """A BERT of random weights with a word-level tokenizer."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: n for n, word in enumerate([*special, *WORDS.split(), ".", ",", "?"])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.normalizer = tokenizers.normalizers.Lowercase()
    words.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    words.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = transformers.BertTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[UNK]",
    )  # fmt: skip
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64, initializer_range=1.0, num_labels=labels,
    )  # fmt: skip
    torch.manual_seed(0)
    getattr(transformers, cls)(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save(tmp_path_factory.mktemp("reranker")))


def predicted(model: str, ranking: Ranking = BATCH["documents"]) -> list[dict[str, float]]:
    """What the package gives each passage of each row, by id, one pair at a time."""
    peer = sentence_transformers.CrossEncoder(model, device="cpu")
    return [
        {
            hit.id: float(
                peer.predict([[question, f"{hit.title} {hit.text}" if hit.title else hit.text]])[0]
            )
            for hit in ranking[row]
        }
        for row, question in enumerate(QUESTIONS)
    ]


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_scores_and_order_are_those_of_the_package(model: str, batch_size: int) -> None:
    stage = Rerank(model=model, device="cpu", batch_size=batch_size, into="best")
    best = check_stage(stage, BATCH)["best"]
    for row, expected in enumerate(predicted(model)):
        found = {hit.id: hit.score for hit in best[row]}
        assert found == pytest.approx(expected, abs=1e-6)
        scores = [hit.score for hit in best[row]]
        assert scores == sorted(scores, reverse=True)
    assert len({round(hit.score, 4) for row in range(2) for hit in best[row]}) > 4
    assert best.is_valid.tolist() == [True, True, True, False]


def test_top_k_keeps_the_best(model: str) -> None:
    few = check_stage(Rerank(model=model, top_k=2, device="cpu"), BATCH)["documents"]
    whole = check_stage(Rerank(model=model, device="cpu"), BATCH)["documents"]
    assert few == whole.top(2)
    assert few.counts.tolist() == [2, 2, 0, 0]


def test_what_was_cut_or_rewritten_is_read_so(model: str) -> None:
    ranking = BATCH["documents"].put(texts=[*["river"] * 3, *[None] * 4])
    after = check_stage(Rerank(model=model, device="cpu"), BATCH.put(documents=ranking))
    for row, expected in enumerate(predicted(model, ranking)):
        found = {hit.id: hit.score for hit in after["documents"][row]}
        assert found == pytest.approx(expected, abs=1e-6)
    assert list(after["documents"].texts[:3]) == ["river"] * 3


def test_a_model_is_shared_and_rows_that_nobody_waits_for_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rag.retrievers.cross_encoder import Scorer

    model = str(save(tmp_path))  # that no other test has open

    loads, read = list[str](), list[tuple[str, str]]()
    load, scores = Scorer.load, Scorer.scores

    def loading(name: str, folder: Path, **settings: Any) -> Scorer:
        loads.append(name)
        return load(name, folder, **settings)

    def reading(self: Scorer, pairs: list[tuple[str, str]]) -> Any:
        read.extend(pairs)
        return scores(self, pairs)

    monkeypatch.setattr(Scorer, "load", loading)
    monkeypatch.setattr(Scorer, "scores", reading)
    context = Context()
    steps = [Rerank(model=model, top_k=k, device="cpu").open(context) for k in (1, 2)]
    assert loads == [model]
    cancel = Cancel()
    cancel.row(0)
    steps[0](BATCH, Run(cancel=cancel, rows=range(4)))
    assert {question for question, _ in read} == {QUESTIONS[1]}
    with ThreadPoolExecutor(4) as pool:
        several = list(pool.map(lambda _: steps[1](BATCH, Run())["documents"], range(8)))
    assert all(ranking == several[0] for ranking in several)
    context.close()


def test_a_row_that_cannot_be_read_fails_alone(model: str) -> None:
    questions = ["Who built the tower?", "the \ud800 tower"]
    batch = Batch.of(questions).put(documents=Ranking.of([[(1, 1.0)], [(2, 1.0)]], SNAPSHOT))
    run = Run()
    context = Context()
    Rerank(model=model, device="cpu").open(context)(batch, run)
    context.close()
    assert list(run.failed) == [1]
    assert "unpaired surrogate" in str(run.failed[1])


def test_a_score_that_is_no_number_fails_its_row(tmp_path: Path) -> None:
    folder = save(tmp_path)
    weights = transformers.BertForSequenceClassification.from_pretrained(folder)
    weights.bert.embeddings.word_embeddings.weight.data[-1] = float("nan")  # of "?"
    weights.save_pretrained(folder)
    batch = Batch.of(["tower", "tower?"]).put(documents=Ranking.of([[(2, 1)], [(2, 1)]], SNAPSHOT))
    run = Run()
    context = Context()
    after = Rerank(model=str(folder), device="cpu").open(context)(batch, run)["documents"]
    context.close()
    assert list(run.failed) == [1]
    assert isinstance(run.failed[1], BackendFailed)
    assert np.isfinite(after.scores[0])


class Words:
    """An encoder: how often each word of a few stands in a text, doubled in documents."""

    def __init__(self, similarity: str, sparse: bool) -> None:
        self.similarity, self.sparse = similarity, sparse

    def encode(self, texts: list[str], kind: str) -> Any:
        from scipy.sparse import csr_array

        words = WORDS.split()
        counts = [[text.lower().split().count(word) for word in words] for text in texts]
        found = np.array(counts, np.float32) * (2 if kind == "document" else 1)
        return csr_array(found) if self.sparse else found


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("sparse", [False, True])
def test_an_encoder_orders_by_the_similarity_of_vectors(
    similarity: str, sparse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("scipy")
    encoder = Words(similarity, sparse)
    monkeypatch.setattr("rag.retrievers.rerank.opened", lambda context, name, device: encoder)
    context = Context()
    stage = Rerank(encoder=f"words-{similarity}-{sparse}", batch_size=2, into="best")
    best = check_stage(stage, BATCH, context=context)["best"]
    context.close()
    plain = Words(similarity, sparse=False)
    for row, question in enumerate(QUESTIONS):
        q = plain.encode([question], "query")[0]
        for hit in best[row]:
            d = plain.encode([f"{hit.title} {hit.text}"], "document")[0]
            norms = float(np.linalg.norm(q) * np.linalg.norm(d)) or 1.0
            expected = float(q @ d) / (norms if similarity == "cosine" else 1)
            assert hit.score == pytest.approx(expected, abs=1e-6)
        assert [hit.score for hit in best[row]] == sorted(
            (h.score for h in best[row]), reverse=True
        )


def test_what_is_no_cross_encoder_is_refused(tmp_path: Path, model: str) -> None:
    def opened(place: object) -> None:
        Rerank(model=str(place), device="cpu").open(Context())

    with pytest.raises(NotFound, match="no config.json"):
        opened(tmp_path)
    with pytest.raises(InvalidInput, match="is no cross-encoder: its config.json says BertModel"):
        opened(save(tmp_path / "encoder", cls="BertModel"))
    with pytest.raises(InvalidInput, match="gives 3 scores a pair"):
        opened(save(tmp_path / "three", labels=3))
    pickled = save(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(InvalidInput, match="pickled"):
        opened(pickled)
    coded = save(tmp_path / "coded")
    modules = [{"idx": 0, "name": "0", "path": "", "type": "mine.Module"}]
    (coded / "modules.json").write_text(json.dumps(modules))
    (coded / "config_sentence_transformers.json").write_text('{"model_type": "CrossEncoder"}')
    with pytest.raises(BackendFailed, match="cannot load the cross-encoder"):
        opened(coded)
    for settings in ({}, {"model": model, "encoder": "minilm"}):
        with pytest.raises(ValidationError, match="name either model .* or encoder"):
            Rerank(**settings)
    with pytest.raises(ValidationError, match="a cross-encoder runs on cpu"):
        Rerank(model=model, device="openvino")
    with pytest.raises(MissingColumn, match="put a retriever"):
        Rerank(model=model).columns(Columns())
