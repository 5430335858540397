"""Whatever bytes stand in a file, it is read or refused by name."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag.errors import RagError
from rag.sources import Reader, Source
from rag.sources.settings import Type

quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

HEADS: dict[Type, tuple[str, bytes]] = {
    "dpr": ("a.tsv", b"id\ttext\ttitle\n"),
    "flashrag": ("a.jsonl", b'{"id": 1, "contents": "'),
    "kilt": ("a.jsonl", b'{"wikipedia_id": 1, "text": ['),
    "msmarco": ("a.tsv", b"1\tx\n"),
    "parquet": ("a.parquet", b"PAR1"),
    "seal": ("a.tsv.gz", b"1\tx\ty\n"),
}


def check(source: Source, skipped: Path) -> None:
    try:
        for batch in Reader(source, skipped=skipped):
            for row in batch.to_pylist():
                json.loads(row["meta"])
                assert row["end"] - row["start"] == len(row["text"])
    except RagError as error:
        assert source.path in str(error)
        str(error).encode()


@pytest.mark.parametrize("kind", list(HEADS))
@quick
@given(data=st.binary(max_size=80) | st.text('\t\n"\\,[]{}: a1é', max_size=40).map(str.encode))
def test_files_of_rows(tmp_path: Path, kind: Type, data: bytes) -> None:
    name, head = HEADS[kind]
    (tmp_path / name).write_bytes(head + data)
    check(Source(type=kind, path=f"{tmp_path}/{name}", on_bad="skip"), tmp_path / "bad.jsonl")


@quick
@given(data=st.binary(max_size=80), pack=st.sampled_from([bytes, gzip.compress, bz2.compress]))
def test_files_of_a_folder(tmp_path: Path, data: bytes, pack: type[bytes]) -> None:
    folder = tmp_path / "in"
    folder.mkdir(exist_ok=True)
    for suffix in ("txt", "md", "html", "txt.gz", "md.zst", "html.bz2"):
        (folder / f"a.{suffix}").write_bytes(pack(data))
    check(Source(type="folder", path=str(folder), on_bad="skip"), tmp_path / "bad.jsonl")


@quick
@given(at=st.integers(0, 10**6), byte=st.integers(1, 255))
def test_a_parquet_file_with_one_wrong_byte(tmp_path: Path, at: int, byte: int) -> None:
    table = pa.table({"id": ["a", "b"], "text": ["x", "y"], "tags": [["u"], []]})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= byte
    path.write_bytes(data)
    check(Source(type="parquet", path=str(path), on_bad="skip"), tmp_path / "bad.jsonl")
