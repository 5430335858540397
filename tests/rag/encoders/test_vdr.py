"""VDR against a literal transcription, its checkpoints, views and losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

import torch

from rag.encoders import load_encoder
from rag.encoders.vdr import VDR, Bags, VDRConfig, VDREncoder, VDRLoss, towers, vdr_loss
from rag.encoders.vdr.checkpoint import from_bert
from rag.encoders.vdr.views import bags, kept
from rag.errors import InvalidInput, NotFound

WORDS = ["cat", "dog", "saw", "house", "tree", "year", "red", "blue", "ran", "sat", "mat", "sun"]
SHIFT = 5
SIZES = {
    "vocab_size": SHIFT + len(WORDS),
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 80,
    "max_position_embeddings": 40,
}


def vdr(seed: int = 0, **settings: Any) -> Any:
    torch.manual_seed(seed)
    own = {"shift_vocab_num": SHIFT, "topk": 6, "max_len": 16, "initializer_range": 0.3}
    return VDR(VDRConfig(**{**SIZES, **own, **settings})).eval()


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    numbers = {word: number for number, word in enumerate([*special, *WORDS])}
    made = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip


def published(folder: Path, *, pickled: bool = False, shared: bool = False) -> dict[str, Any]:
    """A folder as the published ones are, with random weights; its state dict."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    names = ["encoder_q"] if shared else ["encoder_q", "encoder_p"]
    state = {
        f"{name}.{key}": tensor.clone()
        for seed, name in enumerate(names)
        for key, tensor in vdr(seed).state_dict().items()
    }
    if pickled:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, folder / "model.safetensors")
    block = {"type": "vdr", "model_id": "bert-base-uncased", "norm": False, "pooling": "max"}
    own = {**block, "shift_vocab_num": SHIFT, "topk": 6, "max_len": 16}
    config = {"encoder_q": own, "encoder_p": own, "shared_encoder": shared}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer().save_pretrained(folder)
    return state


def literal_vector(model: Any, ids: list[int]) -> Any:
    """The published forward of one text, term by term, in the columns of the whole vocabulary."""
    bert = model.bert_model
    hidden = bert(input_ids=torch.tensor([ids])).last_hidden_state[0]
    embeddings = bert.embeddings.word_embeddings.weight
    out = [torch.zeros((), dtype=hidden.dtype)] * SHIFT
    states = []
    for h in hidden:
        mean, var = h.mean(), ((h - h.mean()) ** 2).mean()
        states.append((h - mean) / torch.sqrt(var + 1e-5) * model.ln.weight + model.ln.bias)
    for term in range(SHIFT, len(embeddings)):
        values = []
        for h in states:
            x = (h * embeddings[term]).sum()
            values.append((torch.exp(x) - 1 if x <= 0 else x) + 1)
        out.append(torch.stack(values).max())
    return torch.stack(out)


def literal_loss(q: Any, p: Any, q_ids: Any, p_ids: Any, k: int, semi: bool) -> Any:
    """The published loss with loops; ``q_ids`` are sets of tokens that count."""

    def view(x: Any, own: set[int], which: str) -> Any:
        if which == "dense":
            return x
        if which == "bag":
            return torch.tensor([float(i in own) for i in range(len(x))])
        top = set(sorted(range(len(x)), key=lambda i: -float(x[i].detach()))[:k])
        return torch.stack([x[i] if i in top | own else x[i] * 0 for i in range(len(x))])

    def one(first: str, second: str) -> Any:
        left = [view(x, own, first) for x, own in zip(q, q_ids, strict=True)]
        right = [view(x, own, second) for x, own in zip(p, p_ids, strict=True)]
        scores = [[(a * b).sum() for b in right] for a in left]
        n = len(left)
        forth = (
            sum(torch.log(sum(torch.exp(s) for s in row)) - row[i] for i, row in enumerate(scores))
            / n
        )
        back = 0.0
        for i in range(n):
            column = [scores[j][i] for j in range(n)]
            back = back + torch.log(sum(torch.exp(s) for s in column)) - scores[i][i]
        return forth + back / n

    terms = [one("top", "dense"), one("bag", "dense")]
    if semi:
        terms += [one("dense", "top"), one("dense", "bag")]
    return sum(terms) / len(terms)


TEXTS = [[2, 6, 7, 9, 3], [2, 10, 3], [2, 12, 6, 6, 15, 16, 8, 3], [2, 5, 14, 3]]


def padded(texts: list[list[int]], length: int) -> tuple[Any, Any]:
    ids = torch.zeros(len(texts), length, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = 1
    return ids, mask


@pytest.mark.parametrize("length", [8, 19])
def test_the_forward_pass_and_its_gradients_equal_the_literal_one(length: int) -> None:
    model = vdr().double()
    found = model(*padded(TEXTS, length)).pooler_output
    wanted = torch.stack([literal_vector(model, text) for text in TEXTS])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert (found[:, :SHIFT] == 0).all() and (found[:, SHIFT:] > 0).all()
    weights = torch.randn_like(found)
    ours = torch.autograd.grad((found * weights).sum(), list(model.parameters()), allow_unused=True)
    theirs = torch.autograd.grad(
        (wanted * weights).sum(), list(model.parameters()), allow_unused=True
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("semi", [False, True])
def test_the_losses_and_their_gradients_equal_the_literal_ones(semi: bool) -> None:
    torch.manual_seed(3)
    q = (torch.rand(3, 12) * 0.7).requires_grad_()
    p = (torch.rand(5, 12) * 0.7).requires_grad_()  # two hard negatives
    q_ids = [{5, 7}, {6}, {9, 10, 11}]
    p_ids = [{5, 8, 9}, {6, 7}, {10}, {11, 5}, {8}]

    def binary(sets: list[set[int]]) -> Any:
        return torch.tensor([[i in own for i in range(12)] for own in sets])

    found = vdr_loss(q, p, binary(q_ids), binary(p_ids), topk=4, semi=semi)
    wanted = literal_loss(q, p, q_ids, p_ids, 4, semi)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    ours, theirs = (torch.autograd.grad(loss, [q, p]) for loss in (found, wanted))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_views() -> None:
    vectors = torch.tensor([[0.0, 0.0, 5.0, 1.0, 4.0, 2.0]])
    own = bags(torch.tensor([[1, 3, 3, 0]]), torch.tensor([[1, 1, 1, 0]]), 6, 2)
    assert own.tolist() == [[False, False, False, True, False, False]]
    assert kept(vectors, own, 2).tolist() == [[0, 0, 5, 1, 4, 0]]
    assert kept(vectors, own, 0).tolist() == [[0, 0, 0, 1, 0, 0]]  # own tokens only
    assert kept(vectors, own, -1).tolist() == vectors.tolist()


@pytest.mark.parametrize("semi", [False, True])
def test_a_tiny_batch_can_be_learnt_by_heart(semi: bool) -> None:
    model = vdr(1).train()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    queries, passages = padded([[2, 6, 3], [2, 8, 3], [2, 11, 3]], 4), padded(TEXTS, 8)
    own = [bags(*queries, 17, SHIFT), bags(*passages, 17, SHIFT)]
    steps = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(150):
        vectors = [model(*one).pooler_output for one in (queries, passages)]
        loss = vdr_loss(*vectors, *own, topk=6, semi=semi)
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 0.5 and losses[-1] < 0.01


@pytest.mark.parametrize("pickled", [False, True])
def test_a_published_checkpoint_loads_key_by_key(tmp_path: Path, pickled: bool) -> None:
    state = published(tmp_path / "m", pickled=pickled)
    encoder = load_encoder(str(tmp_path / "m"))
    assert isinstance(encoder, VDREncoder)
    for name, model in encoder.towers.items():
        for key, tensor in model.state_dict().items():
            torch.testing.assert_close(tensor, state.pop(f"{name}.{key}"), rtol=0, atol=0)
    assert not state
    assert (encoder.kind, encoder.similarity, encoder.dimensions) == ("vocabulary", "dot", 17)
    names = {"ln.weight", "ln.bias", "bert_model.embeddings.word_embeddings.weight"}
    assert names < set(encoder.towers["encoder_q"].state_dict())
    assert not any("pooler" in key for key in encoder.towers["encoder_q"].state_dict())


def test_the_names_of_bert_base_are_the_published_ones() -> None:
    with torch.device("meta"):
        state = VDR(VDRConfig()).state_dict()
    assert sum(t.numel() for k, t in state.items()) * 2 == 217_786_368  # 871 MB, as listed
    assert state["bert_model.embeddings.word_embeddings.weight"].shape == (30522, 768)
    assert "bert_model.encoder.layer.11.output.LayerNorm.bias" in state


def test_one_tower_may_serve_both(tmp_path: Path) -> None:
    published(tmp_path / "m", shared=True)
    encoder = VDREncoder.load(tmp_path / "m")
    assert encoder.towers["encoder_q"] is encoder.towers["encoder_p"]
    encoder.save(tmp_path / "saved")
    assert VDREncoder.load(tmp_path / "saved").hash == encoder.hash


def test_a_wrong_checkpoint_says_which_keys_differ(tmp_path: Path) -> None:
    state = published(tmp_path / "m")
    settings = {name: {"shift_vocab_num": 5, "topk": 6, "max_len": 9} for name in
                ("encoder_q", "encoder_p")}  # fmt: skip
    less = {key: tensor for key, tensor in state.items() if key != "encoder_p.ln.bias"}
    with pytest.raises(InvalidInput, match=r"encoder_p.*1 missing: ln\.bias"):
        towers(less, settings)
    with pytest.raises(InvalidInput, match=r"encoder_q.*1 not expected: bert_model\.pooler"):
        towers({**state, "encoder_q.bert_model.pooler.dense.bias": torch.zeros(64)}, settings)
    with pytest.raises(InvalidInput, match=r"another shape: ln\.weight \(3,\) for \(64,\)"):
        towers({**state, "encoder_q.ln.weight": torch.zeros(3)}, settings)
    with pytest.raises(InvalidInput, match="word_embeddings"):
        towers({"encoder_q.ln.weight": torch.zeros(3)}, settings)
    (tmp_path / "m" / "model.safetensors").unlink()
    with pytest.raises(NotFound, match="no weights"):
        VDREncoder.load(tmp_path / "m")
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"no pickle")
    with pytest.raises(InvalidInput, match="tensors alone"):
        VDREncoder.load(tmp_path / "m")


def test_vectors_do_not_depend_on_the_batch_and_keep_the_top_terms(tmp_path: Path) -> None:
    published(tmp_path / "m")
    encoder = VDREncoder.load(tmp_path / "m")
    texts = ["cat saw dog", "tree", "", "red blue sun mat sat ran year house " * 4, "sun"]
    for kind in ("query", "document"):
        found = encoder.encode(texts, kind)
        assert found.dtype == np.float32 and found.shape == (5, 17)
        assert (np.diff(found.indptr) == 6).all() and found.indices.min() >= SHIFT
        for number, text in enumerate(texts):
            alone = encoder.encode([text], kind)
            np.testing.assert_allclose(
                found[[number]].toarray(), alone.toarray(), rtol=1e-5, atol=1e-6
            )
    assert encoder.encode([]).shape == (0, 17)
    assert not np.allclose(encoder.encode(["cat"]).data, encoder.encode(["cat"], "document").data)
    with pytest.raises(InvalidInput, match="surrogate"):
        encoder.encode(["\ud800"])


def test_explain_names_the_terms_and_adds_up(tmp_path: Path) -> None:
    published(tmp_path / "m")
    encoder = VDREncoder.load(tmp_path / "m")
    terms = encoder.explain("cat saw", "dog saw tree")
    product = encoder.encode(["cat saw"]) @ encoder.encode(["dog saw tree"], "document").T
    assert sum(term.score for term in terms) == pytest.approx(float(product.toarray()[0, 0]))
    assert [term.score for term in terms] == sorted((t.score for t in terms), reverse=True)
    assert all(term.term in WORDS for term in terms)
    query = encoder.encode(["cat saw"]).toarray()[0]
    for term in terms:
        assert term.question == pytest.approx(query[SHIFT + WORDS.index(term.term)])


def test_bags_need_no_weights(tmp_path: Path) -> None:
    published(tmp_path / "m")
    encoder = VDREncoder.load(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    found = Bags.load(tmp_path / "m")
    assert found.hash == encoder.bag_hash
    texts = ["cat saw cat unknown", "", "mat"]
    rows = found.encode(texts).toarray()
    names = [{WORDS[i - SHIFT] for i in np.flatnonzero(row)} for row in rows]
    assert names == [{"cat", "saw"}, set(), {"mat"}]
    assert set(rows.ravel().tolist()) == {0.0, 1.0}


def test_settings_that_sentence_transformers_saved_are_honoured(tmp_path: Path) -> None:
    from sentence_transformers import SparseEncoder

    published(tmp_path / "m")
    tower = VDREncoder.load(tmp_path / "m").sentence_transformer("encoder_p")
    tower.prompts = {"query": "sun ", "document": ""}
    tower.max_active_dims = 4
    tower.save_pretrained(str(tmp_path / "st"))
    theirs = SparseEncoder(str(tmp_path / "st"), device="cpu")
    assert theirs.similarity_fn_name == "dot"
    encoder: Any = load_encoder(str(tmp_path / "st"), device="cpu")
    texts = ["cat saw", "", "red " * 40]
    for kind, encode in (("query", theirs.encode_query), ("document", theirs.encode_document)):
        found = encoder.encode(texts, kind)
        assert (np.diff(found.indptr) == 4).all()
        wanted = encode(texts, convert_to_sparse_tensor=False).cpu().numpy()
        np.testing.assert_allclose(found.toarray(), wanted, rtol=1e-5, atol=1e-5)
    assert encoder.explain("cat saw", "cat sun")
    (tmp_path / "st" / "config_sentence_transformers.json").write_text("[]")
    with pytest.raises(InvalidInput, match="holds no settings"):
        load_encoder(str(tmp_path / "st"), device="cpu")


@pytest.mark.parametrize("device", [["cpu", "cpu"], "openvino"])
def test_other_devices_give_the_same(device: Any, tmp_path: Path) -> None:
    if device == "openvino":
        pytest.importorskip("openvino")
    state = published(tmp_path / "m")
    texts = ["cat saw dog", "tree", "", "red blue sun mat sat ran year house"] * 3
    one: Any = load_encoder(str(tmp_path / "m"), device="cpu")
    other: Any = load_encoder(str(tmp_path / "m"), device=device)
    other._tokens = 16
    for kind in ("query", "document"):
        left, right = (encoder.encode(texts, kind).toarray() for encoder in (one, other))
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)
    assert one.hash == other.hash
    other.save(tmp_path / "again")
    assert VDREncoder.load(tmp_path / "again").hash == one.hash and state


def test_a_trainer_of_sentence_transformers_takes_a_step(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("accelerate")
    from sentence_transformers import SparseEncoderTrainer, SparseEncoderTrainingArguments

    published(tmp_path / "m")
    model = VDREncoder.load(tmp_path / "m").sentence_transformer("encoder_p")
    before = model[0].model.ln.weight.detach().clone()
    rows = {"anchor": ["cat", "sun"], "positive": ["dog saw", "sun mat"]}
    arguments = SparseEncoderTrainingArguments(
        str(tmp_path / "out"), max_steps=1, learning_rate=0.1, report_to="none", use_cpu=True,
        per_device_train_batch_size=2, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    SparseEncoderTrainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict(rows),
        loss=VDRLoss(model, topk=6, semi=True, shift_vocab_num=SHIFT),
    ).train()
    assert not torch.equal(before, model[0].model.ln.weight)


class Rows(torch.nn.Module):  # type: ignore[misc]
    """A model whose vectors are the weights of tokens, summed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weights = torch.nn.Parameter(torch.rand(17, 17))

    def forward(self, column: dict[str, Any]) -> dict[str, Any]:
        return {"sentence_embedding": self.weights[column["input_ids"]].sum(1)}


def columns() -> list[dict[str, Any]]:
    torch.manual_seed(1)
    made = [torch.randint(SHIFT, 17, (4, 3)) for _ in range(3)]
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in made]


def gathered(rank: int, place: str, gradients: Any) -> None:
    """One of two processes: the gradient of its half of the rows."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{place}", rank=rank, world_size=2
    )
    model = Rows()
    half = [{name: x[rank * 2 : rank * 2 + 2] for name, x in one.items()} for one in columns()]
    loss = VDRLoss(model, topk=6, semi=True, shift_vocab_num=SHIFT, gather_across_devices=True)
    value = loss(half)
    value.backward()
    gradients.put((value.item(), model.weights.grad.tolist()))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_a_loss_over_two_processes_is_that_of_all_rows(tmp_path: Path) -> None:
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    several = [
        context.Process(target=gathered, args=(rank, str(tmp_path / "place"), queue))
        for rank in range(2)
    ]
    for process in several:
        process.start()
    found = [queue.get() for _ in several]
    for process in several:
        process.join()
        assert process.exitcode == 0
    model = Rows()
    value = VDRLoss(model, topk=6, semi=True, shift_vocab_num=SHIFT)(columns())
    value.backward()
    mean = torch.tensor([gradient for _, gradient in found]).mean(0)  # as torch's DDP takes it
    torch.testing.assert_close(mean, model.weights.grad)
    assert [loss for loss, _ in found] == pytest.approx([value.item()] * 2)


def test_a_tower_starts_from_a_bert(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    bert = BertModel(BertConfig(**SIZES), add_pooling_layer=False).eval()
    bert.save_pretrained(tmp_path / "bert")
    model = from_bert(tmp_path / "bert", shift_vocab_num=SHIFT, topk=6, max_len=16)
    ids, mask = padded(TEXTS, 8)
    wanted = bert(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(model(ids, mask).last_hidden_state, wanted)


def test_sentence_transformers_loads_a_saved_tower_and_trains_it(tmp_path: Path) -> None:
    from sentence_transformers import SparseEncoder

    published(tmp_path / "m")
    encoder = VDREncoder.load(tmp_path / "m")
    model = encoder.sentence_transformer("encoder_p")
    model.save_pretrained(str(tmp_path / "st"))
    again = SparseEncoder(str(tmp_path / "st"), device="cpu")  # without trust_remote_code
    texts = ["cat saw dog", "tree"]
    found = again.encode_document(texts, convert_to_sparse_tensor=False)
    wanted = encoder.encode(texts, "document").toarray()
    np.testing.assert_allclose(np.asarray(found.cpu()), wanted, rtol=1e-5, atol=1e-5)
    ours = load_encoder(str(tmp_path / "st"))
    np.testing.assert_allclose(ours.encode(texts, "document").toarray(), wanted, rtol=1e-5)
    loss = VDRLoss(again, topk=6, semi=True, shift_vocab_num=SHIFT)
    columns = [again.preprocess(column) for column in (["cat", "sun"], ["dog saw", "sun mat"])]
    value = loss(columns)
    value.backward()
    assert value > 0 and again[0].model.ln.weight.grad.abs().sum() > 0
