"""Training M2-BERT: pairs, masked tokens, needles; resumed to the same weights, and it learns."""

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
from torch import nn
from torch.nn import functional

from rag.encoders import load_encoder
from rag.encoders.m2_bert import M2Bert, M2BertConfig, orthogonal_projection_loss, save
from rag.encoders.m2_bert.masked import MaskedLM
from rag.encoders.m2_bert.training import open_encoder, rate_of_kernels
from rag.errors import BackendFailed, InvalidFile, InvalidInput
from rag.training import needles
from rag.training.data import Document, Side, Split
from rag.training.m2_bert_mlm import M2BertMLM, rows_of
from rag.training.run import train
from tests.rag.encoders import tiny_bert
from tests.rag.training.tiny_encoder import data_folder, goes_on, model_folder, recipe, weights


def untrained(folder: Path, length: int = 24, **settings: Any) -> Path:
    torch.manual_seed(0)
    config = M2BertConfig(
        vocab_size=len(tiny_bert.tokenizer()),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        max_position_embeddings=length,
        hyena_filter_order=8,
        initializer_range=0.2,
        hyena_w=1.0,
        pooler=True,
        **settings,
    )
    save(M2Bert(config), tiny_bert.tokenizer(), folder)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("m2")
    data_folder(folder / "data")
    untrained(folder / "model")
    return folder


def made(place: Path, folder: Path, name: str, settings: Any, **changes: Any) -> Any:
    model = changes.pop("model", place / "model")
    objective: Any = {name: settings}
    return recipe(folder, objective, place / "data", model, **changes)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("orthogonal_projection", {"negatives": 3, "kernel_rate": 1e-3, "cut": [6]}),
        ("m2_bert", {"length": 32}),
    ],
)
def test_a_training_that_goes_on_gives_the_weights_of_one_in_one_go(
    place: Path, tmp_path: Path, name: str, settings: Any
) -> None:
    held = {"by": "document", "share": 0.25}
    goes_on(made(place, tmp_path, name, settings, hold_out=held), tmp_path)


def task(place: Path, tmp_path: Path, **settings: Any) -> Any:
    given = made(place, tmp_path, "orthogonal_projection", settings)
    from rag.training.data import read

    split = read(given.data, given.hold_out, given.objective.needs)
    return given.objective.open(given.model, split, 0)


def test_a_pair_comes_with_drawn_ones_and_the_loss_is_that_of_sentence_transformers(
    place: Path, tmp_path: Path
) -> None:
    opened = task(place, tmp_path, negatives=3)
    side = opened._split.train
    assert len(opened.rows) == 4 * len(side.questions)
    batch = opened.collate(opened.rows[:4], np.random.default_rng(0))
    assert batch["labels"].tolist() == [1, 0, 0, 0]
    drawn = {opened._other(opened.rows[0].name, np.random.default_rng(n)) for n in range(200)}
    assert drawn == set(side.documents) - set(side.positives(opened.rows[0].name))
    asked, read = (
        opened.model(dict(batch[side]))["sentence_embedding"] for side in ("questions", "documents")
    )
    expected = orthogonal_projection_loss(asked, read, batch["labels"])
    torch.testing.assert_close(opened.loss(opened.model, batch), expected)


def test_in_batch_pairs_all_with_all_and_weighs_those_that_belong_together(
    place: Path, tmp_path: Path
) -> None:
    opened = task(place, tmp_path, in_batch=True, positive_weight=3)
    rows = opened.rows[:3]  # two questions of one document, and one of another
    batch = opened.collate(rows, np.random.default_rng(0))
    assert batch["labels"].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    asked, read = (
        opened.model(dict(batch[side]))["sentence_embedding"] for side in ("questions", "documents")
    )
    total = weight = 0.0
    for row in range(3):
        for column in range(3):
            label = batch["labels"][row, column].item()
            cos = functional.cosine_similarity(asked[row], read[column], dim=0).item()
            total += (2 * label + 1) * (cos - label) ** 2
            weight += 2 * label + 1
    assert opened.loss(opened.model, batch).item() == pytest.approx(total / weight, abs=1e-6)
    with pytest.raises(InvalidFile, match="positive_weight counts with in_batch"):
        made(place, tmp_path, "orthogonal_projection", {"positive_weight": 2})


def test_short_documents_come_first_where_asked(place: Path, tmp_path: Path) -> None:
    opened = task(place, tmp_path, in_batch=True, short_first=True)
    order = opened.order(np.random.default_rng(0))
    sizes = [len(opened._split.train.documents[opened.rows[at].document].text) for at in order]
    assert sizes == sorted(sizes)
    assert sorted(order) == list(range(len(opened.rows)))
    assert order != opened.order(np.random.default_rng(1))  # those of one length are shuffled


def test_kernels_have_the_published_rates(place: Path) -> None:
    model = open_encoder(str(place / "model"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    rate_of_kernels(model, optimizer, 1e-3, weight_decay=0.1)
    of = {id(x): name for name, x in model.named_parameters()}
    rates = {of[id(x)]: g["lr"] for g in optimizer.param_groups for x in g["params"]}
    assert rates.keys() == set(of.values())
    for name, rate in rates.items():
        tagged = ".implicit_filter." in name or name.endswith(".freq")
        expected = 1e-3 if tagged else 1e-5 if name.endswith("pos_emb.z") else 5e-4
        assert rate == expected, name
    with pytest.raises(InvalidInput, match="holds no M2-BERT"):
        plain = nn.Linear(2, 2)
        rate_of_kernels(plain, torch.optim.AdamW(plain.parameters()), 1e-3)


def test_a_longer_model_is_trained_saved_and_opened(place: Path, tmp_path: Path) -> None:
    pairs = {"negatives": 1, "length": 40}
    done = train(made(place, tmp_path, "orthogonal_projection", pairs), tmp_path / "out")
    text = "the cat " * 17
    long, short = load_encoder(str(done.out)), load_encoder(str(place / "model"))
    assert open_encoder(str(done.out)).max_seq_length == 40
    ends = [encoder.encode([text, text + "dog"]) for encoder in (long, short)]
    assert np.abs(ends[0][0] - ends[0][1]).max() > 1e-4  # its end is read
    np.testing.assert_array_equal(ends[1][0], ends[1][1])
    bert = model_folder(tmp_path / "bert")
    with pytest.raises(InvalidInput, match="only an M2-BERT can be made longer"):
        train(
            made(place, tmp_path, "orthogonal_projection", pairs, model=bert), tmp_path / "second"
        )


def test_long_rows_hold_all_text_in_its_order() -> None:
    words = tiny_bert.WORDS[:5]
    documents = {
        f"d{n}": Document("", " ".join(words[: n % 3 + 1] * (n + 1))) for n in range(5)
    } | {"empty": Document("", "")}
    tokenizer = tiny_bert.tokenizer()
    short, long = rows_of(documents, tokenizer, 8)
    assert [name for name, _ in short] == [f"d{n}" for n in range(5)]
    assert all(len(ids) <= 8 and ids[0] == tokenizer.cls_token_id for _, ids in short)
    assert all(len(ids) == 8 and ids[0] == tokenizer.cls_token_id for _, ids in long)
    joined = [token for _, ids in long for token in ids[1:]]
    read = [tokenizer(d.text, add_special_tokens=False).input_ids for d in documents.values()]
    every = [token for ids in read if ids for token in [*ids, tokenizer.sep_token_id]]
    assert joined == every[: len(joined)]
    assert len(every) - len(joined) < 7


def test_an_epoch_has_long_rows_by_their_share(place: Path) -> None:
    documents = {f"d{n}": Document("", "cat dog the of " * 5) for n in range(20)}
    side = Side(documents, {}, {})
    model = MaskedLM(open_encoder(str(place / "model")), "x")
    from rag.training.m2_bert_mlm import MLMTask

    for share in (0.0, 0.2, 0.7, 1.0):
        opened = MLMTask(M2BertMLM(long_share=share), model, Split(side, side, documents, {}), 0)
        order = opened.order(np.random.default_rng(0))
        long = sum(opened.rows[at][0].endswith("+") for at in order)
        assert long / len(order) == pytest.approx(share, abs=0.02)
        assert share == 0 or long == len(opened._long)


def test_masked_tokens_are_learned_and_the_head_is_kept(place: Path, tmp_path: Path) -> None:
    steps = {"steps": 60, "batch": 8, "learning_rate": 5e-3}
    settings = {"kernel_rate": None}
    held = {"by": "document", "share": 0.25}
    given = made(place, tmp_path, "m2_bert", settings, train=steps, hold_out=held)
    first = train(given, tmp_path / "first")
    row = {(r["measure"], r["row"]): r["mean"] for r in first.report["scores"]}
    for measure in ("short mlm loss", "long mlm loss"):
        assert row[measure, "after"] < row[measure, "before"] - 0.2
    assert load_encoder(str(first.out)).encode(["the cat"]).shape == (1, 16)
    head = MaskedLM(open_encoder(str(first.out)), str(first.out)).head
    saved = weights(first.out)
    assert torch.equal(head.dense.weight, saved["mlm_head/dense.weight"])
    (first.out / "mlm_head" / "head.safetensors").write_bytes(b"x")
    with pytest.raises(BackendFailed, match=r"head\.safetensors"):
        MaskedLM(open_encoder(str(first.out)), str(first.out))


def test_gradient_checkpointing_gives_the_same_gradients(place: Path) -> None:
    found = []
    for checkpoint in (False, True):
        model = open_encoder(str(place / "model")).train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        if checkpoint:
            model.gradient_checkpointing_enable()
        ids = torch.arange(5, 17)[None]
        model({"input_ids": ids, "attention_mask": torch.ones_like(ids)})[
            "sentence_embedding"
        ].sum().backward()
        found.append([x.grad.clone() for x in model.parameters() if x.grad is not None])
    assert len(found[0]) == len(found[1]) > 20
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_needles_cannot_be_told_apart_by_what_stands_before_them(tmp_path: Path) -> None:
    needles.write(tmp_path / "a", {16: 20, 64: 40}, 0)
    corpus = {}
    for line in (tmp_path / "a" / "corpus.jsonl").read_text().splitlines():
        row = json.loads(line)
        corpus[row["_id"]] = row["text"].split()
    queries = {}
    for line in (tmp_path / "a" / "queries.jsonl").read_text().splitlines():
        row = json.loads(line)
        queries[row["_id"]] = row["text"].split()
    sides: dict[str, set[frozenset[str]]] = {}
    for split, count in (("test", needles.ASKED), ("train", 60)):
        lines = (tmp_path / "a" / "qrels" / f"{split}.tsv").read_text().splitlines()[1:]
        assert len(lines) == count
        sides[split] = set()
        for line in lines:
            query, document, _ = line.split("\t")
            words, key = corpus[document], queries[query]
            at = words.index(key[0])
            assert words[at : at + len(key)] == key
            assert sum(word in needles.KEYS for word in words) == len(key)
            sides[split].add(frozenset(key))
            if split == "test":
                assert len(words) == 62
                assert at + 1 >= 16  # [CLS] stands before the words
    assert len(sides["test"]) == needles.ASKED
    assert not sides["test"] & sides["train"]
    needles.write_model(tmp_path / "model", length=20)
    vectors = load_encoder(str(tmp_path / "model")).encode(["k01 k02", "f00 f01 k01 k02"])
    assert vectors.shape == (2, 32)
