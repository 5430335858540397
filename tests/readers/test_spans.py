"""Span decoding against brute force, and with a real (random) model where torch is installed."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.batch import Batch
from rag.errors import InvalidInput, NotFound
from rag.ranking import Ranking
from rag.readers import Extract
from rag.readers.passages import Passage, passages
from rag.readers.spans import Window, best_span
from rag.stage import Context, Run
from rag.testing import MemorySnapshot

logit = st.integers(-6, 6).map(float)


@st.composite
def windows(draw: st.DrawFn) -> list[Window]:
    made = []
    for passage in range(draw(st.integers(1, 3))):
        for _ in range(draw(st.integers(1, 2))):  # two windows may share tokens
            first, t = draw(st.integers(0, 3)), draw(st.integers(0, 5))
            spans = np.array([[4 * n, 4 * n + 3] for n in range(first, first + t)]).reshape(-1, 2)
            starts, ends = (np.array(draw(st.lists(logit, min_size=t, max_size=t))) for _ in "se")
            made.append(Window(passage, spans, starts, ends, draw(logit)))
    return made


def brute(found: list[Window], longest: int, null: bool) -> tuple[int, int, int, float] | None:
    scores: dict[tuple[int, int, int], float] = {}
    for w in found:
        for i, j in itertools.product(range(len(w.spans)), repeat=2):
            if i <= j < i + longest:
                key = (w.passage, int(w.spans[i, 0]), int(w.spans[j, 1]))
                scores[key] = max(scores.get(key, -math.inf), w.starts[i] + w.ends[j])
    none = min(w.null for w in found) if null else -math.inf
    if not scores or none > max(scores.values()):
        return None
    best = min(scores, key=lambda key: (-scores[key], key))
    total = math.fsum(map(math.exp, [*scores.values(), none]))
    return *best, math.exp(scores[best]) / total


@settings(deadline=None)
@given(windows(), st.integers(1, 6), st.booleans())
def test_the_best_span_equals_brute_force(found: list[Window], longest: int, null: bool) -> None:
    expected, made = brute(found, longest, null), best_span(found, longest=longest, null=null)
    if expected is None:
        assert made is None
    else:
        assert made is not None
        assert made[:3] == expected[:3]
        assert made[3] == pytest.approx(expected[3])


WORDS = "the tower is of iron and steel by paris river bridge who built what when 1889"
TEXTS = [
    "The  tower is of iron. " * 6 + "Steel by the river.",
    "A bridge by the river is built of steel, and iron.",
    "Paris.",
]
WIKI = MemorySnapshot([{"id": f"p{n}", "text": text} for n, text in enumerate(TEXTS)])
BATCH = Batch.of(["Who built the tower?", "What is by the river?", "When?"]).put(
    documents=Ranking.of([[(0, 3), (1, 2), (2, 1)], [(1, 1), (0, 0.5)], []], WIKI)
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of random weights with a word-level tokenizer, in a folder."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
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
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64, initializer_range=1.0,
    )  # fmt: skip
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("reader")
    transformers.BertForQuestionAnswering(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformers.BertModel(config).save_pretrained(folder / "headless")
    tokenizer.save_pretrained(folder / "headless")
    return folder


def by_hand(model: Path, question: str, given_: list[Passage], stage: Extract) -> Any:
    """The same windows made token by token, the model run on each alone, spans by brute force."""
    import torch
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForQuestionAnswering.from_pretrained(model).eval()
    made = []
    for at, passage in enumerate(given_):
        asked = tokenizer(question, add_special_tokens=False)["input_ids"]
        text = passage.stored[passage.start : passage.end]
        whole = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, places = whole["input_ids"], np.array(whole["offset_mapping"]) + passage.start
        room = stage.max_length - len(asked) - 3
        for first in range(0, max(len(ids) - stage.stride, 1), room - stage.stride):
            part = slice(first, first + room)
            row = [2, *asked, 3, *ids[part], 3]
            types = [0] * (len(asked) + 2) + [1] * (len(row) - len(asked) - 2)
            with torch.inference_mode():
                out = network(torch.tensor([row]), token_type_ids=torch.tensor([types]))
            s, e = out.start_logits[0].double().numpy(), out.end_logits[0].double().numpy()
            inside = slice(len(asked) + 2, len(row) - 1)
            made.append(Window(at, places[part], s[inside], e[inside], float(s[0] + e[0])))
    assert len(made) > len(given_) or not stage.stride
    return brute(made, stage.longest_answer, stage.unanswerable)


@pytest.mark.slow
@pytest.mark.parametrize("unanswerable", [False, True])
@pytest.mark.parametrize("longest", [1, 4])
def test_a_model_finds_what_brute_force_finds(
    model: Path, longest: int, unanswerable: bool
) -> None:
    stage = Extract(
        model=str(model), max_length=20, stride=5, longest_answer=longest,
        unanswerable=unanswerable, batch_size=3, device="cpu",
    )  # fmt: skip
    run = Run()
    after = stage.open(context := Context())(BATCH, run)
    context.close()
    assert run.failed == {}
    for row, given_ in enumerate(passages(BATCH["documents"], 5)):
        assert after["route"][row] == f"extract: {model}"
        expected = by_hand(model, BATCH["question"][row], given_, stage) if given_ else None
        if expected is None:
            assert (after["answer"][row], after["confidence"][row]) == (None, 0.0)
            continue
        at, start, end, confidence = expected
        (citation,) = after["citations"][row]
        assert (citation.id, citation.start, citation.end) == (given_[at].id, start, end)
        assert after["answer"][row] == given_[at].stored[start:end] == citation.text
        assert after["confidence"][row] == pytest.approx(confidence, rel=1e-4)


@pytest.mark.slow
def test_cut_passages_keep_exact_offsets(model: Path) -> None:
    ranking = Ranking.of([[(1, 1.0)]], WIKI).put(spans=[[9, 30]])
    batch = Batch.of(["Who?"]).put(documents=ranking)
    stage = Extract(model=str(model), max_length=32, stride=4, device="cpu")
    (citation,) = stage.open(Context())(batch, Run())["citations"][0]
    assert citation.text == TEXTS[1][citation.start : citation.end]
    assert 9 <= citation.start < citation.end <= 30


@pytest.mark.slow
def test_what_is_wrong_is_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="cannot be loaded"):
        Extract(model=str(tmp_path / "absent")).open(Context())
    with pytest.raises(InvalidInput, match="max_length is 384, but .* reads 64 tokens at most"):
        Extract(model=str(model)).open(Context())
    with pytest.raises(InvalidInput, match="was not trained to find answers"):
        Extract(model=str(model / "headless")).open(Context())
    run = Run()
    batch = BATCH.take([0, 1])
    long = Batch(batch.ids, {"question": ("is " * 60, "who"), "documents": batch["documents"]})
    Extract(model=str(model), max_length=32, stride=4).open(Context())(long, run)
    assert list(run.failed) == [0]
    assert "the question takes 63 of 32 tokens" in str(run.failed[0])
