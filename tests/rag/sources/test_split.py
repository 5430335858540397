from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag.sources import Reader, Split, detect
from rag.sources.sentences import sentence_spans
from rag.sources.split import pieces

texts = st.text(st.sampled_from("ab .!?\n\u2003é😀。\t"), max_size=120)
splits = st.integers(1, 6).flatmap(
    lambda size: st.builds(
        Split,
        by=st.sampled_from(["words", "sentences"]),
        size=st.just(size),
        overlap=st.integers(0, size - 1),
    )
)


def units(text: str, split: Split) -> list[str]:
    if split.by == "words":
        return text.split()
    return [text[start:end] for start, end in sentence_spans(text)]


def naive(text: str, split: Split) -> list[list[str]]:
    """Windows over the units, made the plain way."""
    words, windows, at = units(text, split), [], 0
    while True:
        windows.append(words[at : at + split.size])
        if at + split.size >= len(words):
            return windows
        at += split.size - split.overlap


@given(text=texts, split=splits)
def test_pieces_hold_the_windows_of_a_naive_split(text: str, split: Split) -> None:
    spans = pieces(text, split)
    if not text.split():
        assert spans == [(0, len(text))]
        return
    windows = naive(text, split)
    assert len(spans) == len(windows)
    for (start, end), window in zip(spans, windows, strict=True):
        piece = text[start:end]
        assert piece == piece.strip()
        assert "".join(piece.split()) == "".join("".join(window).split())
    for (start, end), (next_start, next_end) in pairwise(spans):
        assert start < next_start
        assert end < next_end  # never inside the one before
    bare = set(range(len(text))) - {i for start, end in spans for i in range(start, end)}
    assert all(text[i].isspace() for i in bare)


def test_overlap_repeats_the_last_words() -> None:
    text = "  one two  three four five six seven "
    spans = pieces(text, Split(by="words", size=3, overlap=1))
    assert [text[start:end] for start, end in spans] == [
        "one two  three",
        "three four five",
        "five six seven",
    ]


def test_sentences_are_windows_too() -> None:
    text = "It is. He was. We are."
    spans = pieces(text, Split(by="sentences", size=2, overlap=1))
    assert [text[start:end] for start, end in spans] == ["It is. He was.", "He was. We are."]


ids = st.text(st.sampled_from("a#01é"), min_size=1, max_size=5)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        st.tuples(ids, texts.filter(str.strip)), unique_by=lambda row: row[0], max_size=6
    ),
    split=splits,
)
def test_passages_are_slices_with_unique_ids(
    tmp_path: Path, rows: list[tuple[str, str]], split: Split
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"id": a, "text": b, "title": "T"}) + "\n" for a, b in rows))
    passages = [row for batch in Reader(detect(path), split=split) for row in batch.to_pylist()]
    whole = dict(rows)
    assert len({row["id"] for row in passages}) == len(passages)
    assert list(dict.fromkeys(row["document"] for row in passages)) == list(whole)
    for row in passages:
        assert row["id"] == f"{row['document']}#{row['part']}"
        assert row["text"] == whole[row["document"]][row["start"] : row["end"]]
        assert row["title"] == "T"
    parts = {name: [r["part"] for r in passages if r["document"] == name] for name in whole}
    assert all(numbers == list(range(len(numbers))) for numbers in parts.values())


def test_a_long_document_fills_several_batches(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"id": "a", "text": "word " * 4100}) + "\n")
    batches = list(Reader(detect(path), split=Split(by="words", size=1)))
    assert [batch.num_rows for batch in batches] == [2000, 2000, 100]
    assert batches[-1]["id"][99].as_py() == "a#4099"
