from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

import rag.sources
from rag.errors import InvalidInput, NotFound
from rag.sources import Reader, Source, Split, detect


def test_public_names_are_sorted_and_exist() -> None:
    assert rag.sources.__all__ == sorted(rag.sources.__all__)
    assert all(hasattr(rag.sources, name) for name in rag.sources.__all__)


@pytest.mark.parametrize("packed", ["", ".gz", ".zst", ".bz2"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jsonl", "jsonl"),
        ("a.ndjson", "jsonl"),
        ("a.json", "jsonl"),
        ("a.csv", "csv"),
        ("a.b.TSV", "tsv"),
        ("psgs_w100.tsv", "dpr"),
        ("collection.tsv", "tsv"),
    ],
)
def test_detect_takes_the_type_from_the_suffix(
    tmp_path: Path, name: str, kind: str, packed: str
) -> None:
    path = tmp_path / (name + packed)
    path.touch()
    assert detect(path) == detect(str(path))
    assert detect(path).type == kind
    assert detect(path).files() == [path]


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz", "corpus.jsonl.zst"])
def test_detect_takes_a_folder_with_a_corpus_for_beir(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    source = detect(tmp_path)
    assert source.type == "beir"
    assert source.files() == [tmp_path / name]


@pytest.mark.parametrize("name", ["a.txt", "a", "a.jsonl.zip", "a.pdf", ".gz"])
def test_detect_names_what_is_accepted(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(InvalidInput, match=r"\.jsonl, .*\.csv, \.tsv, .*\.gz"):
        detect(tmp_path / name)


def test_detect_refuses_a_folder_without_a_corpus_and_a_path_to_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="without a corpus"):
        detect(tmp_path)
    with pytest.raises(NotFound, match=r"none\.jsonl"):
        detect(tmp_path / "none.jsonl")


def test_detect_takes_parquet_by_its_suffix_and_not_through_a_compression(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").touch()
    assert detect(tmp_path / "a.parquet").type == "parquet"
    (tmp_path / "a.parquet.gz").touch()
    with pytest.raises(InvalidInput, match="parquet compresses inside"):
        detect(tmp_path / "a.parquet.gz")


@pytest.mark.parametrize("name", ["a.txt", "b/c.MD", "d.html.gz", "e.markdown"])
def test_detect_takes_a_folder_of_text_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    (tmp_path / "picture.png").touch()
    assert detect(tmp_path).type == "folder"


@pytest.mark.parametrize("other", ["a.jsonl", "b/a.csv.gz", "a.parquet", "a.pdf"])
def test_detect_does_not_choose_between_text_files_and_others(tmp_path: Path, other: str) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").touch()
    (tmp_path / other).touch()
    with pytest.raises(InvalidInput, match=r"files and text files; say .*type: folder, path"):
        detect(tmp_path)
    (tmp_path / "corpus.jsonl").touch()
    assert detect(tmp_path).type == "beir"


def test_files_must_be_there_and_be_what_the_type_reads(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    with pytest.raises(NotFound, match="no such file"):
        Source(type="jsonl", path=str(file)).files()
    with pytest.raises(InvalidInput, match="names? the folder"):
        Source(type="folder", path=str(Path(__file__))).files()
    with pytest.raises(NotFound, match=r"no file ending in \.parquet"):
        Source(type="parquet", path=str(tmp_path)).files()
    with pytest.raises(NotFound, match="no such file"):
        Reader(Source(type="jsonl", path=str(file)))
    with pytest.raises(NotFound, match="holds no corpus"):
        Source(type="beir", path=str(tmp_path)).files()
    with pytest.raises(InvalidInput, match="reads a file"):
        Source(type="csv", path=str(tmp_path)).files()
    file.touch()
    with pytest.raises(InvalidInput, match="reads a folder"):
        Source(type="beir", path=str(file)).files()


@pytest.mark.parametrize(
    "settings",
    [
        {"type": "xml", "path": "a"},
        {"type": "csv"},
        {"type": "csv", "path": "a", "on_bad": "warn"},
        {"type": "csv", "path": "a", "delimiter": ";"},
    ],
)
def test_source_refuses_unknown_settings(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Source.model_validate(settings)


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (-1, 0), (3, 3), (3, 4), (3, -1)])
def test_split_must_advance(size: int, overlap: int) -> None:
    with pytest.raises(ValidationError):
        Split(by="words", size=size, overlap=overlap)


def test_reader_refuses_settings_that_do_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.touch()
    source = Source(type="jsonl", path=str(file))
    with pytest.raises(InvalidInput, match="'text' is a column of every passage"):
        Reader(source, fields={"text": "str"})
    with pytest.raises(InvalidInput, match="the types are str, int, float, bool"):
        Reader(source, fields={"year": "date"})  # type: ignore[dict-item]
    with pytest.raises(InvalidInput, match="'yaer' is no column; map one of id, title, text, year"):
        Reader(source.model_copy(update={"fields": {"yaer": "y"}}), fields={"year": "int"})
    skip = source.model_copy(update={"on_bad": "skip"})
    with pytest.raises(InvalidInput, match="no file for the skipped rows"):
        Reader(skip)
    with pytest.raises(InvalidInput, match="is the source itself"):
        Reader(skip, skipped=file)
