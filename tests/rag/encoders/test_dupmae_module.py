"""DupMAE as a module of sentence-transformers: its dot product is the exact score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
sentence_transformers = pytest.importorskip("sentence_transformers")

from rag.encoders.dupmae import ForwardStore, Unified  # noqa: E402
from rag.encoders.dupmae.module import UnifiedModule  # noqa: E402
from tests.rag.encoders import tiny_bert  # noqa: E402

TEXTS = ["the tower is of iron", "paris", "the buildings of steel, unlikely", "builder and bridge"]


def model(unified: Unified, kept: int) -> Any:
    module = UnifiedModule(unified, tiny_bert.tokenizer(), kept=kept, max_seq_length=30)
    return sentence_transformers.SentenceTransformer(
        modules=[module], device="cpu", similarity_fn_name="dot"
    )


@pytest.mark.parametrize("kept", [3, 100])
def test_the_dot_product_is_the_score_of_the_store(kept: int, tmp_path: Path) -> None:
    unified = Unified(tiny_bert.bert().eval(), dimensions=6)
    whole = model(unified, kept)
    size = len(tiny_bert.PIECES)
    assert whole.get_embedding_dimension() == 6 + size
    questions, documents = whole.encode_query(TEXTS[:2]), whole.encode_document(TEXTS)
    assert ((documents[:, 6:] != 0).sum(1) <= kept).all()
    mu = whole.encode(TEXTS)[:, 6:]  # neither question nor document: whole
    store = ForwardStore.of(documents[:, :6], mu, k=kept)
    scores = store.scores(questions[:, :6], questions[:, 6:])
    assert np.allclose(scores, questions @ documents.T, atol=1e-4)
    whole.save(str(tmp_path / "saved"))
    with pytest.raises(ValueError, match="trust_remote_code"):
        sentence_transformers.SentenceTransformer(str(tmp_path / "saved"))
    again = sentence_transformers.SentenceTransformer(
        str(tmp_path / "saved"), trust_remote_code=True, device="cpu"
    )
    assert np.array_equal(again.encode_document(TEXTS), documents)
    assert again.similarity_fn_name == "dot"
    assert isinstance(Unified.load(tmp_path / "saved"), Unified)


def test_a_trainer_takes_a_step_and_settings_are_saved(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("accelerate")
    from rag.encoders import load_encoder

    unified = Unified(tiny_bert.bert(), dimensions=6)
    whole = model(unified, 4)
    whole.prompts = {"query": "paris ", "document": ""}
    before = unified.reduce.weight.detach().clone()
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    arguments = sentence_transformers.SentenceTransformerTrainingArguments(
        str(tmp_path / "out"), max_steps=1, learning_rate=0.1, report_to="none", use_cpu=True,
        per_device_train_batch_size=2, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    sentence_transformers.SentenceTransformerTrainer(
        model=whole,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict({"anchor": TEXTS[:2], "positive": TEXTS[2:]}),
        loss=losses.MultipleNegativesRankingLoss(
            whole, similarity_fct=sentence_transformers.util.dot_score, scale=1.0
        ),
    ).train()
    assert not torch.equal(before, unified.reduce.weight)
    whole.eval()
    whole.save(str(tmp_path / "saved"))
    ours = load_encoder(str(tmp_path / "saved"), device="cpu")
    assert ours.similarity == "dot"
    for kind, encode in (("query", whole.encode_query), ("document", whole.encode_document)):
        asked: Any = kind
        found = ours.encode(TEXTS, kind=asked).toarray()
        assert np.allclose(found, encode(TEXTS), atol=1e-4)
    long = ours.encode(["the " * 28, "the " * 90])
    assert np.allclose(long[[0]].toarray(), long[[1]].toarray(), atol=1e-4)


def test_a_loss_of_sentence_transformers_reaches_all_weights() -> None:
    unified = Unified(tiny_bert.bert(), dimensions=6)
    whole = model(unified, 5)
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    loss = losses.MultipleNegativesRankingLoss(
        whole, similarity_fct=sentence_transformers.util.dot_score, scale=1.0
    )
    columns = [whole.preprocess(TEXTS[:2]), whole.preprocess(TEXTS[2:])]
    loss(columns, None).backward()
    lacking = [name for name, weight in unified.named_parameters() if weight.grad is None]
    assert lacking == []
