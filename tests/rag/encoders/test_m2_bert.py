"""M2-BERT against a literal transcription of its formulas, and its weights key by key."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from rag.encoders import load_encoder
from rag.errors import BackendFailed, InvalidInput, NotFound

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from safetensors.torch import save_file  # noqa: E402
from transformers import AutoModel, BertTokenizerFast  # noqa: E402

import rag.encoders.m2_bert as m2  # noqa: E402
from rag.encoders.m2_bert.convolution import features, fft_size, times  # noqa: E402
from rag.encoders.m2_bert.loss import orthogonal_projection_loss  # noqa: E402
from tests.rag.encoders.literal_m2_bert import (  # noqa: E402
    Sizes,
    encode,
    published_shapes,
    published_state,
)

SMALL = Sizes()
CONFIGS = [
    SMALL,
    Sizes(hidden_size=12, intermediate_size=24, monarch_mlp_nblocks=2, hyena_emb_dim=3),
    Sizes(num_hidden_layers=1, max_position_embeddings=11, hyena_emb_dim=7),
]
FREQUENCIES = "bert.encoder.layer.0.attention.filter_fn.implicit_filter"


def config(sizes: Sizes = SMALL, **settings: Any) -> Any:
    return m2.M2BertConfig(**asdict(sizes), **{"pooler": True, **settings})


def model(sizes: Sizes = SMALL, seed: int = 0, **settings: Any) -> Any:
    return m2.from_published(published_state(sizes, seed), config(sizes, **settings))


def tokens(length: int, seed: int = 0) -> Any:
    return torch.randint(1, 40, (length,), generator=torch.Generator().manual_seed(seed))


def padded(texts: list[Any], length: int, side: str = "right", pad: int = 0) -> tuple[Any, Any]:
    ids = torch.full((len(texts), length), pad)
    mask = torch.zeros(len(texts), length, dtype=torch.int64)
    for row, text in enumerate(texts):
        part = slice(0, len(text)) if side == "right" else slice(length - len(text), None)
        ids[row, part], mask[row, part] = text, 1
    return ids, mask


def write(folder: Path, state: dict[str, Any], sizes: Sizes = SMALL, **more: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(sizes) | more))
    save_file({key: value.clone() for key, value in state.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("sizes", CONFIGS)
def test_it_computes_what_the_formulas_say_and_their_gradients(sizes: Sizes) -> None:
    state = published_state(sizes)
    ours = model(sizes).double()
    exact: dict[str, Any] = {}
    shared: dict[int, Any] = {}  # the aliases of freq stay one tensor, and get one gradient
    for name, value in state.items():
        if not name.endswith("position_ids"):
            wanted = not name.endswith((".t", "deltas"))
            double = shared.setdefault(id(value), value.double().requires_grad_(wanted))
            exact[name] = double
    ids = tokens(sizes.max_position_embeddings - 2)
    hidden, pooled = encode(exact, ids, sizes.num_hidden_layers)
    found = ours(ids[None])
    torch.testing.assert_close(found.last_hidden_state[0], hidden, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.pooler_output[0], pooled, rtol=1e-9, atol=1e-9)
    weights = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1)).double()
    (pooled @ weights + (hidden**2 * hidden.detach().cos()).sum()).backward()
    h, p = found.last_hidden_state[0], found.pooler_output[0]
    (p @ weights + (h**2 * h.detach().cos()).sum()).backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    compared = set()
    for name, value in exact.items():
        short = name.removeprefix("bert.")
        if short.endswith("freq"):
            short = short.split(".implicit_filter")[0] + ".freq"
        if value.requires_grad:
            torch.testing.assert_close(gradients[short], value.grad, rtol=1e-8, atol=1e-8)
            compared.add(short)
    assert compared == gradients.keys()


def test_float32_is_near_the_formulas() -> None:
    hidden, pooled = encode(published_state(SMALL), tokens(16), 2)
    with torch.no_grad():
        found = model()(tokens(16)[None])
    torch.testing.assert_close(found.last_hidden_state[0], hidden, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.pooler_output[0], pooled, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_text_has_the_same_vector_in_every_batch(side: str) -> None:
    ours, texts = model(), [tokens(n, n) for n in (3, 16, 1, 9)]
    with torch.no_grad():
        alone = torch.cat([ours(text[None]).pooler_output for text in texts])
        for pad in (0, 7):
            ids, mask = padded(texts, 16, side, pad)
            together = ours(ids, attention_mask=mask).pooler_output
            torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
        # the formulas without any padding, too
    for text, vector in zip(texts, alone, strict=True):
        expected = encode(published_state(SMALL), text, 2)[1]
        torch.testing.assert_close(vector, expected, rtol=0, atol=1e-5)


def test_exact_reference_mixes_padding_up_to_the_full_length_in() -> None:
    ours, texts = model(exact_reference=True), [tokens(n, n) for n in (3, 16, 9)]
    with torch.no_grad():
        ids, mask = padded(texts, 16, pad=5)  # whatever stands there, 0 is read
        together = ours(ids, attention_mask=mask).pooler_output
        alone = torch.cat([ours(text[None]).pooler_output for text in texts])
        plain = model()(texts[0][None]).pooler_output[0]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    for text, vector in zip(texts, alone, strict=True):
        full = torch.cat([text, torch.zeros(16 - len(text), dtype=torch.int64)])
        expected = encode(published_state(SMALL), full, 2)[1]
        torch.testing.assert_close(vector, expected, rtol=0, atol=1e-5)
    assert (plain - alone[0]).abs().max() > 0.01  # so the switch matters
    assert ours(texts[0][None]).last_hidden_state.shape == (1, 3, 24)
    ids, mask = padded(texts, 16, "left")
    with pytest.raises(InvalidInput, match="padding_side"):
        ours(ids, attention_mask=mask)


def test_kernels_are_kept_only_while_nothing_changes() -> None:
    ours, ids = model(), tokens(9)[None]
    convolution = ours.encoder.layer[0].attention.filter_fn
    with torch.no_grad():
        first = ours(ids).pooler_output
        kept = convolution._kept[1]
        assert torch.equal(ours(ids).pooler_output, first)
        assert convolution._kept[1] is kept
        ours(tokens(16)[None])
        assert convolution._kept[1] is not kept
        assert torch.equal(ours(ids).pooler_output, first)
        convolution.freq += 0.5
        changed = ours(ids).pooler_output
        assert not torch.allclose(changed, first)
        ours.load_state_dict(model().state_dict())
        assert torch.equal(ours(ids).pooler_output, first)
    assert torch.allclose(ours(ids).pooler_output, first)
    assert convolution._kept is None  # a gradient was wanted
    with torch.inference_mode():
        assert torch.equal(ours(ids).pooler_output, first)
    with torch.no_grad():
        assert torch.equal(model(cache_kernels=False)(ids).pooler_output, first)
        ours.double()
        assert torch.allclose(ours(ids).pooler_output.float(), first, atol=1e-5)
    assert not any("kept" in name for name in ours.state_dict())


def test_fft_sizes_are_few_and_large_enough() -> None:
    sizes = [fft_size(length) for length in range(1, 4097)]
    assert all(2 * n <= size <= max(4, 2.5 * n) for n, size in enumerate(sizes, 1))
    assert len(set(sizes)) < 48
    assert [fft_size(n) for n in (2048, 8192, 32768)] == [4096, 16384, 65536]


@pytest.mark.parametrize(
    ("length", "millions", "megabytes"),
    [(2048, 81.9, 328.0), (8192, 87.4, 350.5), (32768, 109.2, 440.3)],
)
def test_the_published_names_and_shapes_load_with_none_left_over(
    length: int, millions: float, megabytes: float
) -> None:
    sizes = Sizes(30528, 768, 12, 3072, length, 5, 128, 4)
    shapes = published_shapes(sizes)
    assert len(shapes) == 716
    # memory that is never touched costs nothing
    state: dict[str, Any] = {name: torch.empty(shape) for name, shape in shapes.items()}
    for name in state:
        if name.endswith("freq"):
            state[name] = torch.full((1, 128), 10.0)
    ours = m2.from_published(state, m2.M2BertConfig(max_position_embeddings=length, pooler=True))
    parameters = sum(x.numel() for x in ours.parameters())
    assert parameters / 1e6 == pytest.approx(millions, abs=0.05)
    distinct = sum(4 * x.numel() for x in ours.state_dict().values())
    assert distinct / 1e6 == pytest.approx(megabytes, abs=0.5)
    assert ours.embeddings.word_embeddings.weight.data_ptr() == (
        state["bert.embeddings.word_embeddings.weight"].data_ptr()
    )


def test_prefixes_and_what_is_no_weight_of_the_encoder_are_left_out() -> None:
    state = published_state(SMALL)
    state["bert.encoder.flashfft.f_16_fft"] = torch.zeros(3)
    state["bert.encoder.layer.1.attention.filter_fn2.flashfft.twiddle"] = torch.zeros(3)
    state["classifier.weight"] = torch.zeros(10, 24)
    state["dropout.x"] = torch.zeros(1)
    wrapped = {f"module.model.{name}": value for name, value in state.items()}
    for number in (3, 5):  # a file may keep one name of a shared tensor
        del wrapped[f"module.model.{FREQUENCIES}.{number}.freq"]
    ids = tokens(7)[None]
    found = m2.from_published(wrapped, config())(ids).pooler_output
    torch.testing.assert_close(found, model()(ids).pooler_output)


def test_wrong_keys_are_named() -> None:
    state = published_state(SMALL)
    del state["bert.encoder.layer.1.mlp.wo.bias"]
    state["bert.encoder.layer.2.mlp.wo.bias"] = torch.zeros(24)
    state["bert.pooler.dense.weight"] = torch.zeros(24, 23)
    with pytest.raises(InvalidInput) as caught:
        m2.from_published(state, config(), name="a.bin")
    message = str(caught.value)
    assert message.startswith("a.bin: ")
    assert "1 missing: encoder.layer.1.mlp.wo.bias" in message
    assert "1 left over: encoder.layer.2.mlp.wo.bias" in message
    assert "1 of another shape: pooler.dense.weight (24, 23), expected (24, 24)" in message


def test_a_file_of_another_length_is_known_by_its_z() -> None:
    with pytest.raises(InvalidInput, match=r"pos_emb\.z \(1, 16, 5\), expected \(1, 64, 5\)"):
        m2.from_published(published_state(SMALL), config(Sizes(max_position_embeddings=64)))


def test_frequencies_that_are_not_shared_are_refused() -> None:
    state = published_state(SMALL)
    state[f"{FREQUENCIES}_rev.3.freq"] = state[f"{FREQUENCIES}_rev.3.freq"] + 1
    with pytest.raises(InvalidInput, match=r"_rev\.3\.freq' stands for .*filter_fn\.freq"):
        m2.from_published(state, config())


def test_a_file_without_pooler_loads_when_told_so() -> None:
    state = {k: v for k, v in published_state(SMALL).items() if "pooler" not in k}
    state["cls.predictions.bias"] = torch.zeros(40)
    with pytest.raises(InvalidInput, match="pooler=False"):
        m2.from_published(state, config())
    assert m2.from_published(state, config(pooler=False))(tokens(4)[None]).pooler_output is None


def test_published_folders_of_both_formats_load(tmp_path: Path) -> None:
    state, ids = published_state(SMALL), tokens(5)[None]
    folder = write(
        tmp_path / "a", state, model_type="bert", long_conv_l_max=16, auto_map={"AutoModel": "x.y"}
    )
    expected = model()(ids).pooler_output
    torch.testing.assert_close(m2.load_published(folder)(ids)[1], expected)
    (folder / "model.safetensors").unlink()
    with pytest.raises(NotFound, match=r"pytorch_model\.bin"):
        m2.load_published(folder)
    for saved in (state, {"state": {"model": state}}):
        torch.save(saved, folder / "pytorch_model.bin")
        torch.testing.assert_close(m2.load_published(folder)(ids)[1], expected)
    half = {key: x.bfloat16() if x.is_floating_point() else x for key, x in state.items()}
    torch.save(half, folder / "pytorch_model.bin")
    assert m2.load_published(folder, exact_reference=True).dtype == torch.float32


class Evil:
    def __reduce__(self) -> Any:
        return print, ("run",)


@pytest.mark.parametrize("held", [{"a": Evil()}, [1, 2], {"a": 1}])
def test_a_file_that_holds_more_than_tensors_is_refused(
    tmp_path: Path, held: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(asdict(SMALL)))
    torch.save(held, tmp_path / "pytorch_model.bin")
    with pytest.raises(BackendFailed, match=r"pytorch_model\.bin"):
        m2.load_published(tmp_path)
    assert "run" not in capsys.readouterr().out


def test_damaged_and_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"config\.json"):
        m2.load_published(tmp_path)
    folder = write(tmp_path / "a", published_state(SMALL))
    (folder / "model.safetensors").write_bytes(b"\x08" * 40)
    with pytest.raises(BackendFailed, match=r"model\.safetensors"):
        m2.load_published(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(BackendFailed, match="JSON"):
        m2.load_published(folder)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("use_monarch_mlp", False),
        ("bidirectional", False),
        ("pool_all", True),
        ("long_conv_l_max", 128),
        ("monarch_mlp_nblocks", 5),
        ("hyena_emb_dim", 4),
    ],
)
def test_other_architectures_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=setting):
        m2.M2BertConfig(**asdict(SMALL) | {setting: value})


def test_too_long_a_text_is_refused() -> None:
    with pytest.raises(InvalidInput, match="17 tokens.* at most 16"):
        model()(tokens(17)[None])
    with pytest.raises(InvalidInput, match="not both"):
        model()()


@pytest.mark.parametrize("length", [40, 64])
def test_a_longer_model_starts_from_a_shorter_one(length: int) -> None:
    short = model()
    grown = m2.longer(short, length)
    assert grown.config.max_position_embeddings == length
    table = grown.embeddings.position_embeddings.weight
    rows = short.embeddings.position_embeddings.weight
    assert all(torch.equal(table[i], rows[i % 16]) for i in range(length))
    before, after = short.state_dict(), grown.state_dict()
    assert before.keys() == after.keys()
    for name, value in after.items():
        if name.endswith("pos_emb.z"):
            assert torch.equal(value, features(length, 5))
            assert value[0].abs().sum(1).min() > 0  # no part of it is left empty
        elif name.endswith("pos_emb.t"):
            assert torch.equal(value, times(length))
        elif "position_embeddings" not in name:
            assert torch.equal(value, before[name])
    assert torch.isfinite(grown(tokens(length)[None]).pooler_output).all()
    with pytest.raises(InvalidInput, match="not be longer"):
        m2.longer(short, 8)


def test_a_new_model_begins_as_the_formulas_say() -> None:
    new = m2.M2Bert(config())
    filters = new.encoder.layer[1].attention.filter_fn2
    torch.testing.assert_close(filters.pos_emb.z[0, 4, 0].item(), 4 / 15)
    angle = torch.tensor([1e-4, 1.0]) * (2 * torch.pi * 4 / 16)
    torch.testing.assert_close(filters.pos_emb.z[0, 4, 1:3], torch.cos(angle))
    torch.testing.assert_close(filters.pos_emb.z[0, 4, 3:5], -torch.sin(angle))
    edges = torch.log(torch.tensor(0.01)) / torch.tensor([1.5, 0.3])
    torch.testing.assert_close(filters.modulation.deltas[0, 0, [0, -1]], edges)
    assert (filters.freq == 10).all()
    assert new.encoder.layer[0].mlp.gated_layers.weight.std().item() == pytest.approx(0.02, 0.2)
    assert not new.embeddings.word_embeddings.weight[0].any()


def test_the_loss_is_that_of_sentence_transformers_and_overfits_a_batch() -> None:
    torch.manual_seed(0)
    q, d, y = torch.randn(6, 8), torch.randn(6, 8), torch.tensor([1, 0, 0, 1, 0, 1])
    literal = 0.0
    for i in range(6):
        literal += (q[i] @ d[i] / (q[i].norm() * d[i].norm()) - y[i]).item() ** 2 / 6
    assert orthogonal_projection_loss(q, d, y).item() == pytest.approx(literal, abs=1e-6)
    losses = pytest.importorskip("sentence_transformers.losses")

    theirs = losses.CosineSimilarityLoss(torch.nn.Identity())
    assert orthogonal_projection_loss(q, d, y).item() == pytest.approx(
        theirs.compute_loss_from_embeddings([q, d], y.float()).item(), abs=1e-6
    )
    ours = m2.M2Bert(config(hidden_dropout_prob=0.0))
    queries, documents = (
        padded([tokens(n, n + seed) for n in (4, 9, 6, 12)], 12) for seed in (0, 50)
    )
    labels = torch.tensor([1, 0, 1, 0])
    optimizer = torch.optim.Adam(ours.parameters(), 3e-3)
    for _ in range(150):
        vectors = [
            ours(ids, attention_mask=mask).pooler_output for ids, mask in (queries, documents)
        ]
        loss = orthogonal_projection_loss(vectors[0], vectors[1], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 1e-3:
            break
    assert loss.item() < 1e-3


def tokenizer(folder: Path) -> Any:
    folder.mkdir(exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.txt").write_text("\n".join(words))
    return BertTokenizerFast(str(folder / "vocab.txt"))


def test_sentence_transformers_opens_a_saved_folder_without_remote_code(tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    published = write(tmp_path / "published", published_state(SMALL))
    cutter = tokenizer(published)
    cutter.save_pretrained(published)
    m2.convert(published, tmp_path / "saved")
    opened = sentence_transformers.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    texts = ["a b c", "d", "e f g h i j k l m n o p q r s t u v w x y z"]
    found = opened.encode(texts, convert_to_tensor=True)
    ours = model()
    for text, vector in zip(texts, found, strict=True):
        ids = cutter(text, truncation=True, max_length=16, return_tensors="pt").input_ids
        with torch.no_grad():
            expected = ours(ids).pooler_output[0]
        torch.testing.assert_close(vector, expected, rtol=0, atol=1e-5)
    assert opened.max_seq_length == 16
    assert opened.similarity_fn_name == "cosine"
    ours = load_encoder(str(tmp_path / "saved"), device="cpu")
    torch.testing.assert_close(torch.from_numpy(ours.encode(texts)), found, rtol=0, atol=1e-5)
    assert found.shape == (3, 24)
    with pytest.raises(InvalidInput, match="pooler"):
        m2.save(m2.M2Bert(config(pooler=False)), cutter, tmp_path / "b")


def test_exact_reference_is_kept_in_a_saved_folder(tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    m2.save(model(exact_reference=True), tokenizer(tmp_path / "t"), tmp_path / "saved")
    opened = sentence_transformers.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    ids = torch.tensor([2, 5, 6, 7, 3] + 11 * [0])
    expected = encode(published_state(SMALL), ids, 2)[1]
    for texts in (["a b c"], ["a b c", "d e f g h i j k"]):
        found = opened.encode(texts, convert_to_tensor=True)[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_transformers_loads_a_saved_model_and_nothing_half(tmp_path: Path) -> None:
    ours, ids = model(), tokens(6)[None]
    ours.save_pretrained(tmp_path / "saved")
    loaded = AutoModel.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(loaded(ids)[1], ours(ids)[1], rtol=0, atol=1e-5)
    half = AutoModel.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half.encoder.layer[0].attention.filter_fn.freq.dtype == torch.float32
    near = torch.nn.functional.cosine_similarity(half(ids)[1].float(), ours(ids)[1])
    assert near.item() > 0.98
    published = write(tmp_path / "p", published_state(SMALL), model_type="m2_bert")
    with pytest.raises(InvalidInput, match=r"filter_fn\.freq.*convert"):
        AutoModel.from_pretrained(published)
