"""The index kind ``ngrams``: bytes that do not depend on the cut, counts, other tokenizers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

pytest.importorskip("transformers")

from rag.collection import Collection
from rag.errors import Damaged, InvalidInput, NotFound, RagError
from rag.indexers import NGrams, token_ids

ROOT = Path(__file__).parents[2]
WORDS = ["the", "cat", "dog", "saw", "a", "house", "tree", "and", "left", "it", "year"]


def tokenizer_folder(folder: Path, words: Sequence[str] = WORDS) -> Path:
    """A model's folder with a tokenizer of whole words and no weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["<unk>", "\n", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tokenizer_folder(tmp_path_factory.mktemp("model")))


def table(rows: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(0, 12))) for _ in range(2 * rows)]
    names = pa.schema([("title", pa.large_string()), ("text", pa.large_string())])
    return pa.table({"title": texts[:rows], "text": texts[rows:]}, schema=names)


def built(kind: NGrams, passages: pa.Table, out: Path) -> Path:
    out.mkdir()
    kind.build(passages, out)
    return out


def merged(
    kind: NGrams, parts: list[Path], keep: list[NDArray[np.bool_] | None], out: Path
) -> dict[str, bytes]:
    out.mkdir()
    kind.merge(parts, keep, out)
    return {file.name: file.read_bytes() for file in sorted(out.iterdir())}


def test_the_bytes_do_not_depend_on_how_rows_are_cut(model: str, tmp_path: Path) -> None:
    kind, passages = NGrams(model=model).pinned(), table(50)
    whole = merged(kind, [built(kind, passages, tmp_path / "all")], [None], tmp_path / "whole")
    ends = [0, 7, 7, 30, 50]
    parts = [
        built(kind, passages.slice(a, b - a), tmp_path / f"part-{n}")
        for n, (a, b) in enumerate(itertools.pairwise(ends))
    ]
    assert merged(kind, parts, [None] * 4, tmp_path / "merged") == whole
    keep = np.arange(50) % 3 > 0
    wanted = passages.filter(pa.array(keep))
    fresh = merged(kind, [built(kind, wanted, tmp_path / "some")], [None], tmp_path / "fresh")
    again = merged(kind, [tmp_path / "merged"], [keep], tmp_path / "again")  # from an index
    assert again == fresh != whole


def test_counts_and_documents_are_those_of_the_texts(model: str, tmp_path: Path) -> None:
    kind, passages = NGrams(model=model).pinned(), table(40, seed=3)
    for n, (a, b) in enumerate([(0, 15), (15, 40)]):
        part = built(kind, passages.slice(a, b - a), tmp_path / f"part-{n}")
        merged(kind, [part], [None], tmp_path / f"index-{n}")
    index = kind.open([tmp_path / "index-0", tmp_path / "index-1"]).index
    assert index is not None
    vocabulary = {word: number for number, word in enumerate(["<unk>", "\n", *WORDS])}
    rows = [
        [*(vocabulary[w] for w in title.split()), 1, *(vocabulary[w] for w in text.split())]
        for title, text in zip(*(passages[c].to_pylist() for c in ("title", "text")), strict=True)
    ]
    assert [index.document(n).tolist() for n in range(40)] == rows
    pairs = sorted({tuple(row[i : i + 2]) for row in rows for i in range(len(row) - 1)})
    counts = [sum(tuple(r[i : i + 2]) == p for r in rows for i in range(len(r) - 1)) for p in pairs]
    assert index.count([list(pair) for pair in pairs]).tolist() == counts


def rows(n: int, seed: int = 1) -> list[dict[str, Any]]:
    made = table(n, seed)
    return [
        {"id": f"p{k}", "title": title, "text": text or "the"}
        for k, (title, text) in enumerate(zip(*made.to_pydict().values(), strict=True))
    ]


def test_a_collection_compacts_to_a_fresh_build(model: str, tmp_path: Path) -> None:
    indexes = {"ngrams": NGrams(model=model)}
    many, _ = Collection.build(rows(60), tmp_path / "many", indexes=indexes, segment_rows=25)
    assert len(many.snapshot().manifest.segments) > 1
    many.delete([f"p{k}" for k in range(0, 60, 2)])
    many.compact()
    left = [row for k, row in enumerate(rows(60)) if k % 2]
    fresh, _ = Collection.build(left, tmp_path / "fresh", indexes=indexes)

    def files(collection: Collection) -> list[bytes]:
        snapshot = collection.snapshot()
        entry = snapshot.manifest.indexes["ngrams"]
        (folder,) = entry.folders
        place = collection.path / "indexes" / "ngrams" / folder
        return [file.read_bytes() for file in sorted(place.glob("*.npy"))]

    assert files(many) == files(fresh)


def test_an_empty_collection_opens(model: str, tmp_path: Path) -> None:
    empty, _ = Collection.build([], tmp_path / "c", indexes={"ngrams": NGrams(model=model)})
    assert empty.snapshot().index("ngrams").index is None


def test_another_tokenizer_is_refused(model: str, tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path / "model")
    made, _ = Collection.build(
        rows(5), tmp_path / "c", indexes={"ngrams": NGrams(model=str(folder))}
    )
    searcher = made.snapshot().index("ngrams")
    searcher.check(model, token_ids.load(model).fingerprint)  # the same words, another folder
    tokenizer_folder(folder, WORDS[::-1])
    token_ids._loaded.cache_clear()
    with pytest.raises(InvalidInput, match="another tokenizer than"):
        searcher.check(str(folder), token_ids.load(str(folder)).fingerprint)
    with pytest.raises(InvalidInput, match=r"has the fingerprint .* was built with"):
        made.add([{"id": "new", "title": "", "text": "the cat"}])
    assert made.snapshot().manifest.rows == 5


@pytest.mark.parametrize("name", ["index.json", "fm_index.json", "matrix.npy", "text.npy"])
def test_a_file_cut_short_is_named(model: str, name: str, tmp_path: Path) -> None:
    kind = NGrams(model=model).pinned()
    merged(kind, [built(kind, table(9), tmp_path / "part")], [None], tmp_path / "index")
    file = tmp_path / "index" / name
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(Damaged, match=name.replace(".", r"\.")):
        kind.open([tmp_path / "index"])
    file.unlink()
    with pytest.raises((NotFound, Damaged), match=name.replace(".", r"\.")):
        kind.open([tmp_path / "index"])


@pytest.mark.parametrize("name", ["tokens.npy", "offsets.npy", "index.json"])
def test_a_damaged_part_is_named(model: str, name: str, tmp_path: Path) -> None:
    kind = NGrams(model=model).pinned()
    part = built(kind, table(9), tmp_path / "part")
    (part / name).write_bytes((part / name).read_bytes()[:-9])
    (tmp_path / "out").mkdir()
    with pytest.raises(Damaged, match=name.replace(".", r"\.")):
        kind.merge([part], [None], tmp_path / "out")


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RagError, match="no model 'nowhere at all'"):
        NGrams(model="nowhere at all").pinned()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RagError, match="cannot load the tokenizer of"):
        NGrams(model=str(tmp_path)).pinned()
