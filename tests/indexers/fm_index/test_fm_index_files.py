"""What an FM-index writes, and what it says of files and arguments that it cannot use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag.errors import Damaged, InvalidInput, NotFound
from rag.indexers.fm_index import FMIndex, FMIndexes, build

RNG = np.random.default_rng(3)
DOCUMENTS = [RNG.integers(0, 30, size).tolist() for size in RNG.integers(0, 40, 60)]


def test_the_same_documents_give_the_same_bytes(tmp_path: Path) -> None:
    FMIndex.build([[9]], tmp_path / "b", locate="sampled")  # replaced
    for name in "ab":
        FMIndex.build((np.array(tokens, np.uint16) for tokens in DOCUMENTS), tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert "fm_index.json" in files
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_open_index_survives_its_replacement(tmp_path: Path) -> None:
    before = FMIndex.build([[1, 2, 3]], tmp_path)
    FMIndex.build([[4, 5]], tmp_path)
    assert before.document(0).tolist() == [1, 2, 3]
    assert FMIndex.open(tmp_path).document(0).tolist() == [4, 5]


def test_sampled_positions_are_the_full_ones(tmp_path: Path) -> None:
    documents = [RNG.integers(0, 50, 300).tolist(), [], *DOCUMENTS]
    full = FMIndex.build(documents, tmp_path / "full")
    sampled = FMIndex.build(documents, tmp_path / "sampled", locate="sampled")
    rows = np.arange(len(full))
    for a, b in zip(full.locate(rows), sampled.locate(rows), strict=True):
        assert (a == b).all()
    assert (full.locate(rows[: len(documents)])[1] == -1).all()  # the starts


@pytest.mark.parametrize("name", ["matrix", "text", "alphabet", "spans", "positions", "zeros"])
@pytest.mark.parametrize("cut", [1, 60, 100_000])
def test_a_file_cut_short_is_named_with_its_sizes(name: str, cut: int, tmp_path: Path) -> None:
    FMIndex.build(DOCUMENTS, tmp_path)
    path = tmp_path / f"{name}.npy"
    data = path.read_bytes()
    path.write_bytes(data[:-cut])
    left = max(0, len(data) - cut)
    with pytest.raises(Damaged, match=rf"{name}.npy: .* {left:,} bytes.*{len(data)}"):
        FMIndex.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 99; this version reads 1"),
        ({"tokens": 5}, r"\.npy: is damaged: it holds"),
        ({"documents": 5}, r"\.npy: is damaged: it holds"),
        ({"symbols": 0}, "'symbols' is 0"),
        ({"symbols": 1 << 20}, r"alphabet\.npy"),
        ({"successors": -1}, "'successors' is -1"),
        ({"samples": "many"}, "'samples' is 'many'"),
        ({"bytes": 3}, "'bytes' is 3"),
        ({"bytes": {}}, "says None"),
    ],
)
def test_a_wrong_description_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    FMIndex.build(DOCUMENTS, tmp_path)
    path = tmp_path / "fm_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises((Damaged, InvalidInput), match=message):
        FMIndex.open(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_a_description_that_is_no_json_object_is_refused(text: str, tmp_path: Path) -> None:
    FMIndex.build(DOCUMENTS, tmp_path)
    (tmp_path / "fm_index.json").write_text(text)
    with pytest.raises(Damaged, match=r"fm_index\.json"):
        FMIndex.open(tmp_path)


def test_what_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no FM-index"):
        FMIndex.open(tmp_path)
    FMIndex.build(DOCUMENTS, tmp_path)
    (tmp_path / "leaves.npy").unlink()
    with pytest.raises(NotFound, match=r"leaves\.npy"):
        FMIndex.open(tmp_path)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # in numpy's headers
@pytest.mark.parametrize("locate", ["full", "sampled"])
def test_flipped_bytes_give_an_error_or_an_answer_but_never_a_crash(
    locate: Any, tmp_path: Path
) -> None:
    FMIndex.build(DOCUMENTS, tmp_path, locate=locate)
    ngrams = [tokens[:3] for tokens in DOCUMENTS] + [[i] for i in range(30)]
    scores = np.zeros((len(ngrams), 2**16), np.float32)

    def ask() -> None:
        index = FMIndex.open(tmp_path)
        if index.limit > 2**16:
            return
        ranges = index.find_flat(np.arange(31), np.arange(30))
        index.count(ngrams)
        index.next_tokens_of([*ranges, index.starts()])
        index.top_k(ranges, scores[: len(ranges)], 5)
        index.locate(np.arange(len(index)))
        index.documents_flat(np.arange(index.documents))
        index.extend(ranges, np.arange(30))

    caught = 0
    for path in sorted(tmp_path.iterdir()):
        data = path.read_bytes()
        for _ in range(12):
            damaged = bytearray(data)
            at = int(RNG.integers(len(data)))
            damaged[at : at + 8] = bytes(RNG.integers(0, 256, 8, np.uint8))[: len(data) - at]
            path.write_bytes(damaged)
            try:
                ask()
            except (Damaged, InvalidInput, MemoryError):
                caught += 1
        path.write_bytes(data)
    assert caught > 20
    ask()


BAD: list[tuple[Callable[[FMIndex], Any], str]] = [
    (lambda ix: ix.extend([[0, 1]], [1, 2]), "each range takes one token"),
    (lambda ix: ix.extend([[0, len(ix) + 1]], [1]), "a range of rows is not within"),
    (lambda ix: ix.extend([[-1, 3]], [1]), "a range of rows is not within"),
    (lambda ix: ix.extend([[5, 3]], [1]), "a range of rows is not within"),
    (lambda ix: ix.extend([0, 1], [1, 1]), "they are pairs of rows"),
    (lambda ix: ix.next_tokens([0, 1, 2]), "it is a pair of rows"),
    (lambda ix: ix.next_tokens([5, 4]), "a range of rows is not within"),
    (lambda ix: ix.find_flat([0, 3], [1, 2]), "do not ascend"),
    (lambda ix: ix.find_flat([0, 2, 1], [1, 2]), "do not ascend"),
    (lambda ix: ix.find_flat([-1, 2], [1, 2]), "do not ascend"),
    (lambda ix: ix.find_flat([], []), "n \\+ 1 offsets"),
    (lambda ix: ix.locate([len(ix)]), "a range of rows is not within"),
    (lambda ix: ix.locate([-1]), "a range of rows is not within"),
    (lambda ix: ix.document(60), "numbered from 0"),
    (lambda ix: ix.document(-1), "numbered from 0"),
    (lambda ix: ix.top_k([[0, 1]], np.zeros((2, 99)), 1), "has a row for each range"),
    (lambda ix: ix.top_k([[0, 1]], np.zeros((1, 99)), -1), "k is not negative"),
    (lambda ix: ix.top_k([[0, 1]], np.zeros((1, 29)), 1), "another model's tokenizer"),
    (lambda ix: FMIndexes([ix, ix]).extend([[[0, 1]]], [1]), r"shape \(n, 2, 2\)"),
    (lambda ix: FMIndexes([ix]).document(60), "numbered from 0"),
    (lambda ix: FMIndexes([]), "at least one"),
]


@pytest.mark.parametrize(("ask", "message"), BAD, ids=[message for _, message in BAD])
def test_arguments_that_do_not_fit_are_refused(
    ask: Callable[[FMIndex], Any], message: str, tmp_path: Path
) -> None:
    index = FMIndex.build(DOCUMENTS, tmp_path)
    with pytest.raises(InvalidInput, match=message):
        ask(index)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([1, -2], "document 1 holds the token id -2; ids are from 0 to 2,147,483,647"),
        ([2**31], "document 1 holds the token id 2147483648"),
        (np.array([2**63], np.uint64), "document 1 holds the token id 9223372036854775808"),
        ([1.5], r"document 1 is an array of shape \(1,\) and type float64"),
        ([[1, 2]], r"document 1 is an array of shape \(1, 2\)"),
        (3, "document 1 is an array of shape"),
        (["a"], "document 1 is an array of shape"),
    ],
)
def test_documents_that_are_no_token_ids_are_refused(
    document: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=message):
        FMIndex.build([[1], document], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_wrong_way_to_locate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="'full' or 'sampled'"):
        FMIndex.build([], tmp_path, locate="some")  # type: ignore[arg-type]


def test_too_many_tokens_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "MOST_TOKENS", 1000)
    with pytest.raises(InvalidInput, match="at most 1,000 .* open them with FMIndexes"):
        FMIndex.build([[1] * 600, [2] * 600], tmp_path)
    FMIndex.build([[1] * 600, [2] * 400], tmp_path)
