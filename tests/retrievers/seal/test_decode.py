"""Decoding against the slow, literal search; batches, forcing, rescoring, odd questions."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag.errors import InvalidInput
from rag.indexers.fm_index import FMIndex, FMIndexes
from rag.retrievers.seal.keys import BODY, SPAN, TITLE, Keys

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from rag.retrievers.seal import beam as beams  # noqa: E402
from rag.retrievers.seal.decode import Decoding, decode  # noqa: E402
from rag.retrievers.seal.model import SealModel  # noqa: E402
from rag.retrievers.seal.packed import Packed  # noqa: E402
from rag.retrievers.seal.rows import Rows  # noqa: E402
from rag.retrievers.seal.spans import spans  # noqa: E402
from tests.retrievers.seal.literal import Literal  # noqa: E402
from tests.retrievers.seal.tiny_seal import (  # noqa: E402
    CONTEXT,
    KINDS,
    VOCABULARY,
    documents,
    network,
    questions,
    tiny,
    tokenizer,
)


def near(expected: Any) -> Any:
    """Equal but for the rounding of float32 in another order."""
    return pytest.approx(expected, abs=2e-4, rel=1e-5)


def tokens_of(model: SealModel, seed: int = 0) -> list[Any]:
    return model.layout.rows(model.encode, *documents(30, seed))


def indexed(rows: list[Any], folder: Path, parts: int = 1) -> FMIndexes:
    size = -(-len(rows) // parts)
    return FMIndexes(
        [
            FMIndex.build(rows[part * size : (part + 1) * size], folder / str(part))
            for part in range(parts)
        ]
    )


def scores(keys: Keys | InvalidInput) -> dict[tuple[int, ...], tuple[int, float]]:
    assert isinstance(keys, Keys)
    entries = zip(keys.ngrams(), keys.kinds.tolist(), keys.log_probs.tolist(), strict=True)
    found = {tuple(ngram): (kind, score) for ngram, kind, score in entries}
    assert len(found) == len(keys)
    return found


def same(one: Keys | InvalidInput, other: Keys | InvalidInput) -> bool:
    left, right = scores(one), scores(other)
    assert isinstance(one, Keys) and isinstance(other, Keys)
    for name in ("unigrams", "base_unigrams"):
        mine, its = getattr(one, name), getattr(other, name)
        assert (mine is None) == (its is None)
        assert mine is None or np.allclose(mine, its, atol=2e-4)
    assert (one.base is None) == (other.base is None)
    if one.base is not None and other.base is not None:
        bases = dict(zip(map(tuple, other.ngrams()), other.base, strict=True))
        assert [bases[tuple(each)] for each in one.ngrams()] == near(one.base)
    kinds = {ngram: kind for ngram, (kind, _) in left.items()}
    return kinds == {ngram: kind for ngram, (kind, _) in right.items()} and all(
        left[ngram][1] == near(right[ngram][1]) for ngram in left
    )


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_keys_are_those_of_the_literal_search(kind: str, parts: int, tmp_path: Path) -> None:
    model = tiny(kind)
    rows = tokens_of(model)
    slow = Literal(model._model, rows)
    asked = questions(3)
    settings = Decoding(beam=3, length=5, title_length=4, spans=2, weights="pmi")
    null = model.prompts("", titles=True)
    for question, keys in zip(
        asked, decode(model, indexed(rows, tmp_path, parts), asked, settings), strict=True
    ):
        body, title = model.prompts(question, titles=True)
        end = model.layout.title_end
        expected = {
            ngram: (BODY, score)
            for ngram, score in slow.search(body, 3, 5, end=None, anchored=False).items()
        }
        expected |= {
            ngram: (TITLE, score)
            for ngram, score in slow.search(title, 3, 4, end=end, anchored=True).items()
            if ngram[-1] == end and len(ngram) > 1
        }
        for text in spans(question, 2):
            (ids,) = model.encode([text])
            if slow.count(ids) and tuple(ids) not in expected:
                expected[tuple(ids)] = (SPAN, slow.score(body, ids))
        found = scores(keys)
        assert {k: v[0] for k, v in found.items()} == {k: v[0] for k, v in expected.items()}
        assert {kind for kind, _ in found.values()} >= {BODY, SPAN}
        for ngram, (_, score) in expected.items():
            assert found[ngram][1] == near(score)
        assert isinstance(keys, Keys) and keys.base is not None and keys.unigrams is not None
        for ngram, (of, _), base in zip(found, found.values(), keys.base, strict=True):
            assert base == near(slow.score(null[of == TITLE], ngram))
        assert np.allclose(keys.unigrams, slow.distribution(body, []), atol=2e-4)
        assert keys.base_unigrams is not None
        assert np.allclose(keys.base_unigrams, slow.distribution(null[0], []), atol=2e-4)


def test_titles_are_complete_and_begin_a_document(tmp_path: Path) -> None:
    model = tiny("llama")
    rows = tokens_of(model)
    found = decode(model, indexed(rows, tmp_path), questions(6), Decoding(beam=8))
    titles = [ngram for keys in found for ngram, (kind, _) in scores(keys).items() if kind == TITLE]
    assert titles
    for title in titles:
        assert title.index(model.layout.title_end) == len(title) - 1 > 0
        assert any(row[: len(title)].tolist() == list(title) for row in rows)
    without = decode(model, indexed(rows, tmp_path / "b"), questions(6), Decoding(titles=False))
    assert all(kind != TITLE for keys in without for kind, _ in scores(keys).values())


@pytest.mark.parametrize("kind", KINDS)
def test_many_questions_at_once_give_what_each_gives_alone(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(kind)
    index = indexed(tokens_of(model), tmp_path)
    settings = Decoding(beam=4, length=6, weights="pmi")
    asked = questions(9, seed=4)
    together = decode(model, index, asked, settings)
    assert len({len(keys) for keys in together if isinstance(keys, Keys)}) > 1
    model.remembered.clear()
    alone = [decode(model, index, [question], settings)[0] for question in asked]
    assert all(same(*pair) for pair in zip(together, alone, strict=True))
    monkeypatch.setattr("rag.retrievers.seal.decode.QUESTIONS_AT_ONCE", 2)
    monkeypatch.setattr("rag.retrievers.seal.packed.TOKENS_AT_ONCE", 3)
    monkeypatch.setattr("rag.retrievers.seal.rows.TOKENS_AT_ONCE", 3)
    model.remembered.clear()
    pairs = decode(model, index, asked[::-1], settings)[::-1]
    assert all(same(*pair) for pair in zip(together, pairs, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_forcing_changes_the_passes_and_not_the_result(kind: str, tmp_path: Path) -> None:
    model = tiny(kind)
    index = indexed(tokens_of(model), tmp_path)
    groups = [model.prompts(question, titles=True) for question in questions(5, seed=2)]
    rules = [
        beams.Search(8, index.whole()),
        beams.Search(6, index.starts(), model.layout.title_end),
    ] * len(groups)
    computed, passes, results = [], [], []
    for force in (True, False):
        hypotheses = model.open(groups)
        grow, sizes = hypotheses.grow, list[int]()

        def counted(
            parents: Any,
            tokens: Any,
            tails: Any,
            grow: Any = grow,
            sizes: list[int] = sizes,
            force: bool = force,
        ) -> Any:
            sizes.append(sum(tail is None for tail in tails))
            assert force or all(tail is None for tail in tails)
            return grow(parents, tokens, tails)

        hypotheses.grow = counted  # type: ignore[method-assign]
        results.append(beams.search(hypotheses, index, rules, 4, force=force))
        computed.append(sum(sizes))
        passes.append(len(sizes))
    assert computed[0] < computed[1]
    assert passes[0] <= passes[1]
    for forced, plain in zip(*results, strict=True):
        assert forced.keys() == plain.keys() and forced
        for ngram, score in forced.items():
            assert score == near(plain[ngram])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_one_row_for_many_hypotheses_gives_what_a_row_for_each_gives(kind: str) -> None:
    """Also after steps that repeat, drop and reorder hypotheses, and rows that end."""
    draw = np.random.default_rng(5)
    net = network(kind)
    groups = [draw.integers(4, 60, (2, size)).tolist() for size in (3, 9, 5)]
    packed = Packed(net, groups)
    rows = Rows(net, [prompt for group in groups for prompt in group], start=None)
    live = 6
    for parents in ([3, 3, 0, 5, 1], [3, 2, 0, 0, 1, 2], [4, 1, 1], [0]):
        assert max(parents) < live
        tokens = draw.integers(4, 60, len(parents))
        tails = [[7, 8, 9][: int(draw.integers(1, 4))] if at == 1 else None for at in range(6)]
        one = packed.grow(np.array(parents), tokens, tails[: len(parents)])
        other = rows.grow(np.array(parents), tokens, tails[: len(parents)])
        live = len(one[0])
        for mine, its in zip((one[0], *one[1]), (other[0], *other[1]), strict=True):
            assert np.allclose(mine, its, atol=2e-4)
        ngrams = draw.integers(4, 60, (9, 3)).tolist() + [[5], [5, 6]]
        of = draw.integers(0, 6, len(ngrams))
        assert np.allclose(packed.score(of, ngrams), rows.score(of, ngrams), atol=2e-4)


def test_causal_models_pack_where_they_can() -> None:
    assert isinstance(tiny("llama").open([[[5, 6]]]), Packed)
    assert isinstance(tiny("gpt2").open([[[5, 6]]]), Packed)
    assert isinstance(tiny("bloom").open([[[5, 6]]]), Rows)


def test_a_shared_beginning_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = list[int]()
    whole = Packed._pass

    def counted(self: Packed, rows: Any, *given: Any) -> Any:
        sizes.append(len(rows))
        return whole(self, rows, *given)

    monkeypatch.setattr(Packed, "_pass", counted)
    packed = Packed(network("llama"), [[[5, 6, 7, 8], [5, 6, 7, 9, 10]]])
    packed.score(np.array([0, 0, 0]), [[4, 5, 6], [4, 5, 7, 8], [4]])
    assert sizes == [6, 3]


def test_scores_without_a_question_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SealModel("own", network("llama"), tokenizer())
    index = indexed(tokens_of(model), tmp_path)
    settings, asked = Decoding(beam=4, length=6, weights="pmi"), questions(2, seed=6)
    (first, _) = decode(model, index, asked, settings)
    known = len(model.remembered)
    scored = list[int]()
    without = model.without(titles=True)
    score = without.score

    def counted(of: Any, ngrams: Any) -> Any:
        scored.append(len(ngrams))
        return score(of, ngrams)

    monkeypatch.setattr(without, "score", counted)
    (again,) = decode(model, index, asked[:1], settings)
    assert scored == [0] and len(model.remembered) == known > 0
    assert same(first, again)
    monkeypatch.setattr("rag.retrievers.seal.model.REMEMBERED", known)
    model.remember(0, (99, 99), -1.0)
    assert len(model.remembered) == known


def test_ties_go_to_the_earlier_hypothesis_and_the_smaller_token(tmp_path: Path) -> None:
    model = SealModel("even", network("llama"), tokenizer())
    with torch.no_grad():
        model._model.lm_head.weight.zero_()
    index = indexed(tokens_of(model), tmp_path)
    settings = Decoding(beam=3, length=3, titles=False, spans=0, unigrams=False)
    asked = questions(3)
    rows = tokens_of(model)
    expected = Literal(model._model, rows).search([5], 3, 3, end=None, anchored=False)
    for keys in decode(model, index, asked, settings):
        assert scores(keys).keys() == expected.keys()
        assert isinstance(keys, Keys) and keys.unigrams is None


def test_odd_questions(tmp_path: Path) -> None:
    model = tiny("llama")
    index = indexed(tokens_of(model), tmp_path)
    long = " ".join(["w1"] * CONTEXT)
    other = "谁 发现了 青霉素 ؟ ?!"
    empty, blank, strange, failed, plain = decode(
        model, index, ["", " \n", other, long, "w1 w2"], Decoding(beam=3, weights="pmi")
    )
    assert isinstance(empty, Keys) and isinstance(blank, Keys)
    assert len(empty) == len(blank) == 0 and empty.unigrams is None
    kinds = {kind for kind, _ in scores(strange).values()}
    assert BODY in kinds and SPAN not in kinds
    assert isinstance(failed, InvalidInput)
    assert "the question has 67 tokens with its prompt and 15 are to be written" in str(failed)
    assert SPAN in {kind for kind, _ in scores(plain).values()}
    assert decode(model, index, [], Decoding()) == []


def test_an_index_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    index = indexed([np.array([3, 4, len(VOCABULARY)])], tmp_path)
    with pytest.raises(InvalidInput) as caught:
        decode(tiny("llama"), index, ["w1"], Decoding())
    assert str(caught.value) == (
        "the index has the token 72, but the vocabulary of llama ends at 71: the index was built "
        "for another model; set 'model' to that one, or build the index again with this one"
    )


def test_a_collection_without_tokens_has_no_keys(tmp_path: Path) -> None:
    index = indexed([np.array([], np.int32)] * 2, tmp_path)
    (keys,) = decode(tiny("bart"), index, ["w1 w2"], Decoding(beam=3, weights="pmi"))
    assert isinstance(keys, Keys) and len(keys) == 0


def test_tokens_that_the_model_forbids_are_never_chosen(tmp_path: Path) -> None:
    net = network("bart")
    net.final_logits_bias[0, 20:] = -torch.inf
    model = SealModel("biased", net, tokenizer())
    index = indexed(tokens_of(model), tmp_path)
    (keys,) = decode(model, index, ["w1 w2 w30"], Decoding(beam=5, weights="pmi"))
    assert isinstance(keys, Keys) and len(keys)
    assert keys.unigrams is not None and keys.base_unigrams is not None
    assert (keys.unigrams[20:].astype(float) - keys.base_unigrams[20:] == -np.inf).all()
    assert keys.tokens.max() < 20 and np.isfinite(keys.log_probs).all()


def test_spans_of_a_question() -> None:
    assert spans("who?", 3) == ["who", "Who"]
    assert spans("(a) 3 B!", 2) == ["a", "A", "a) 3", "A) 3", "3", "3 B", "3 b", "B", "b"]
    assert spans("?? !", 2) == spans("", 3) == spans("who", 0) == []
    assert spans("谁发现了青霉素", 3) == ["谁发现了青霉素"]
    for run in spans("What did the U.S. army do?", 3):
        assert len(run.split()) <= 3
    assert "the U.S. army" in spans("What did the U.S. army do?", 3)
    joined = {
        " ".join(each)
        for each in itertools.product(*[(w, w.title()) for w in ["one", "two", "three"]])
    }
    assert joined <= set(spans("one two three", 3))
