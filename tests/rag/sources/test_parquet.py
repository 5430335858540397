from __future__ import annotations

import json
import tracemalloc
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag.errors import BadRow, Damaged
from rag.passages import FieldType
from rag.sources import Reader, Source, detect

unicode = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
filled = unicode.filter(lambda text: bool(text) and not text.isspace())


def write(path: Path, rows: list[dict[str, Any]], **more: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, **more)
    return path


def read(path: Path, fields: dict[str, FieldType] | None = None) -> list[dict[str, Any]]:
    return [r for batch in Reader(detect(path), fields=fields or {}) for r in batch.to_pylist()]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "title": unicode,
                "text": filled,
                "year": st.none() | st.integers(-(2**63), 2**63 - 1),
                "tags": st.lists(unicode, max_size=3),
                "of": st.fixed_dictionaries({"a": st.booleans(), "b": unicode}),
            }
        ),
        min_size=1,
        max_size=9,
    )
)
def test_rows_of_parquet_are_rows_of_json(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    rows = [{"id": number, **row} for number, row in enumerate(rows)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept = write(tmp_path / "a.parquet", rows, row_group_size=2)
    fields: dict[str, FieldType] = {"year": "int"}
    assert read(kept, fields) == read(path, fields)


def test_values_that_json_lacks_become_texts(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": ["a"],
            "text": pa.array(["x"]).dictionary_encode(),
            "day": [date(2020, 2, 29)],
            "at": pa.array([1], pa.timestamp("ns")),
            "price": [Decimal("1.50")],
            "half": pa.array([0.5], pa.float32()),
            "pairs": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
            "inner": [[datetime(2020, 1, 1, 5)]],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    (row,) = read(tmp_path / "a.parquet")
    assert json.loads(row["meta"]) == {
        "day": "2020-02-29",
        "at": "1970-01-01 00:00:00.000000001",
        "price": "1.50",
        "half": 0.5,
        "pairs": [["k", 1]],
        "inner": ["2020-01-01T05:00:00"],
    }


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"id": None}, "id", "'id' is null"),
    ({"text": " "}, "text", "only whitespace"),
    ({"text": None}, "text", "'text' is null"),
    ({"n": None, "f": float("inf")}, "f", "not a finite number"),
    ({"x": float("nan")}, "meta", "a value that JSON cannot hold"),
    ({"id": "d0"}, "id", "'d0' is the id of row 1 too"),
]


@pytest.mark.parametrize(("change", "field", "found"), BAD)
def test_a_bad_row_is_named_by_its_number(
    tmp_path: Path, change: dict[str, Any], field: str, found: str
) -> None:
    rows = [{"id": f"d{n}", "text": "t", "n": n, "f": 0.5, "x": 1.0} for n in range(1200)]
    rows[700] |= change
    path = write(tmp_path / "a.parquet", rows, row_group_size=400)
    fields: dict[str, FieldType] = {"n": "int", "f": "float"}
    with pytest.raises(BadRow, match=rf"a\.parquet:701: field '{field}': ") as caught:
        list(Reader(detect(path), fields=fields))
    assert found in caught.value.found
    source = Source(type="parquet", path=str(path), on_bad="skip")
    reader = Reader(source, fields=fields, skipped=tmp_path / "bad.jsonl")
    assert sum(batch.num_rows for batch in reader) == reader.rows == 1199
    entry = json.loads((tmp_path / "bad.jsonl").read_text())
    assert entry["line"] == 701
    assert json.loads(entry["row"])["n"] == rows[700]["n"]


def test_a_text_that_is_not_utf8_is_one_bad_row(tmp_path: Path) -> None:
    texts = pa.array([b"fine", b"caf\xe9", b"good"]).view(pa.string())
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": ["a", "b", "c"], "text": texts}), path)
    with pytest.raises(BadRow, match=r"a\.parquet:2: .*column 'text' cannot be read: .*utf-8"):
        read(path)
    source = Source(type="parquet", path=str(path), on_bad="skip")
    (batch,) = Reader(source, skipped=tmp_path / "bad.jsonl")
    assert batch["id"].to_pylist() == ["a", "c"]


@pytest.mark.parametrize("on_bad", ["stop", "skip"])
@pytest.mark.parametrize(
    ("table", "found"),
    [
        ({"name": ["a"], "text": ["x"]}, "no '_id' or 'id' or 'docid'; it has 'name, text'"),
        ({"id": ["a"], "text": [b"x"]}, "the column 'text' has the type binary"),
        ({"id": ["a"], "text": ["x"], "o": [{"png": b"x"}]}, "the column 'o' has the type struct"),
    ],
)
def test_columns_that_cannot_be_used_always_stop(
    tmp_path: Path, table: dict[str, Any], found: str, on_bad: Any
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(table), path)
    source = Source(type="parquet", path=str(path), on_bad=on_bad)
    with pytest.raises(BadRow) as caught:
        list(Reader(source, skipped=tmp_path / "bad.jsonl"))
    assert found in caught.value.found


@pytest.mark.parametrize("on_bad", ["stop", "skip"])
@pytest.mark.parametrize("keep", [0, 3, 200, -1, 0.5])
def test_a_cut_file_is_damaged(tmp_path: Path, keep: float, on_bad: Any) -> None:
    path = write(tmp_path / "a.parquet", [{"id": n, "text": f"t{n}"} for n in range(900)])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else int(keep)])
    source = Source(type="parquet", path=str(path), on_bad=on_bad)
    with pytest.raises(Damaged, match=r"a\.parquet: cannot be read as parquet from its start"):
        list(Reader(source, skipped=tmp_path / "bad.jsonl"))


def test_a_damaged_page_is_damaged(tmp_path: Path) -> None:
    rows = [{"id": n, "text": f"text {n}"} for n in range(5000)]
    path = write(tmp_path / "a.parquet", rows, row_group_size=1000, compression="zstd")
    data = bytearray(path.read_bytes())
    place = pq.ParquetFile(path).metadata.row_group(2).column(1).data_page_offset
    data[place : place + 400] = bytes(400)
    path.write_bytes(data)
    with pytest.raises(Damaged, match=r"a\.parquet: cannot be read as parquet from row 2001 on"):
        list(Reader(detect(path)))


def test_checksums_of_pages_are_checked_where_the_file_has_them(tmp_path: Path) -> None:
    rows = [{"id": n, "text": f"text {n}"} for n in range(100)]
    path = write(
        tmp_path / "a.parquet", rows, compression="none", use_dictionary=False,
        write_page_checksum=True,
    )  # fmt: skip
    path.write_bytes(path.read_bytes().replace(b"text 77", b"text 78"))
    with pytest.raises(Damaged, match=r"a\.parquet: .*(crc|CRC|checksum)"):
        list(Reader(detect(path)))


def test_one_large_row_group_is_not_held_and_progress_goes_on(tmp_path: Path) -> None:
    text = "".join(chr(97 + n * n % 26) for n in range(4000))
    rows = [{"id": n, "text": f"{n} {text}"} for n in range(20_000)]
    path = write(tmp_path / "a.parquet", rows, row_group_size=20_000, compression="none")
    del rows
    reader = Reader(detect(path))
    before = pa.total_allocated_bytes()
    held, positions = 0, []
    tracemalloc.start()
    for batch in reader:
        held = max(held, pa.total_allocated_bytes() - before)
        positions.append(reader.bytes_read)
        del batch
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reader.bytes_total > 80_000_000
    assert held < 45_000_000
    assert peak < 60_000_000
    assert positions == sorted(positions)
    assert 0 < positions[0] < reader.bytes_total == positions[-1]


def test_long_rows_are_decoded_few_at_a_time(tmp_path: Path) -> None:
    rows = [{"id": n, "text": f"{n} " + "x" * 1_000_000} for n in range(60)]
    path = write(tmp_path / "a.parquet", rows, compression="none", use_dictionary=False)
    del rows
    reader = Reader(detect(path))
    tracemalloc.start()
    assert sum(batch.num_rows for batch in reader) == 60
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60_000_000


def test_a_folder_of_shards_is_one_source(tmp_path: Path) -> None:
    write(tmp_path / "b.parquet", [{"id": "c", "text": "x"}])
    write(tmp_path / "a.parquet", [{"id": "a", "text": "x"}, {"id": "b", "text": "x"}])
    source = Source(type="parquet", path=str(tmp_path))
    assert [n for batch in Reader(source) for n in batch["id"].to_pylist()] == ["a", "b", "c"]
    write(tmp_path / "c.parquet", [{"id": "d", "text": "x"}, {"id": "b", "text": "x"}])
    with pytest.raises(BadRow, match=r"c\.parquet:2: .*'b' is the id of row 2 of .*a\.parquet too"):
        list(Reader(source))
