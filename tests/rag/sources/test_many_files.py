from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag.errors import BadRow, InvalidInput
from rag.sources import Reader, Source


def write(folder: Path, files: dict[str, list[Any]]) -> Source:
    for name, rows in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(type="jsonl", path=str(folder))


def row(name: str) -> dict[str, str]:
    return {"id": name, "text": "x"}


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=4), min_size=1, max_size=4))
def test_a_duplicate_names_both_places(tmp_path: Path, files: list[list[str]]) -> None:
    source = write(
        tmp_path / "in", {f"{n}.jsonl": list(map(row, names)) for n, names in enumerate(files)}
    ).model_copy(update={"on_bad": "skip"})
    for extra in range(len(files), 4):
        (tmp_path / "in" / f"{extra}.jsonl").unlink(missing_ok=True)
    reader = Reader(source, skipped=tmp_path / "bad.jsonl")
    got = [name for batch in reader for name in batch["id"].to_pylist()]
    first: dict[str, tuple[int, int]] = {}
    wanted = []
    for file, names in enumerate(files):
        for line, name in enumerate(names, 1):
            if name in first:
                other, at = first[name]
                of = f"of {tmp_path}/in/{other}.jsonl " if other != file else ""
                found = f"{name!r} is the id of line {at} {of}too"
                wanted.append((f"{tmp_path}/in/{file}.jsonl", line, found))
            else:
                first[name] = (file, line)
    assert got == list(first)
    bad = (tmp_path / "bad.jsonl").read_text() if wanted else ""
    entries = [json.loads(line) for line in bad.splitlines()]
    assert [(e["file"], e["line"], e["found"]) for e in entries] == wanted
    assert (reader.bad, reader.bytes_read) == (len(wanted), reader.bytes_total)


def test_a_bad_row_names_its_own_file(tmp_path: Path) -> None:
    source = write(tmp_path, {"a.jsonl": [row("a")], "b/c.jsonl": [row("b"), [1]]})
    with pytest.raises(BadRow, match=r"b/c\.jsonl:2: field 'row': a JSON list"):
        list(Reader(source))


def test_a_file_that_cannot_be_opened_stops_even_a_skipping_reader(tmp_path: Path) -> None:
    source = write(tmp_path / "in", {"a.jsonl": [row("a")], "c.jsonl": [row("c")]})
    (tmp_path / "in" / "b.jsonl").symlink_to("gone")
    source = source.model_copy(update={"on_bad": "skip"})
    with pytest.raises(InvalidInput, match=r"in/b\.jsonl: a link that leads nowhere; remove"):
        list(Reader(source, skipped=tmp_path / "bad.jsonl"))
    (tmp_path / "in" / "b.jsonl").unlink()
    (tmp_path / "in" / "b.jsonl").symlink_to("b.jsonl")
    with pytest.raises(InvalidInput, match=r"in/b\.jsonl: a link that leads nowhere; remove"):
        list(Reader(source, skipped=tmp_path / "bad.jsonl"))
    (tmp_path / "in" / "b.jsonl").unlink()
    reader = Reader(source, skipped=tmp_path / "bad.jsonl")
    (tmp_path / "in" / "c.jsonl").unlink()
    with pytest.raises(InvalidInput, match=r"in/c\.jsonl: "):
        list(reader)


def test_links_to_the_files_of_a_cache_are_read(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_text('{"id": "a", "text": "x"}\n')
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").symlink_to(blob)
    (batch,) = Reader(Source(type="jsonl", path=str(tmp_path / "in")))
    assert batch["id"].to_pylist() == ["a"]


def test_the_skipped_rows_do_not_go_where_they_would_be_read(tmp_path: Path) -> None:
    source = write(tmp_path, {"a.jsonl": [row("a")]}).model_copy(update={"on_bad": "skip"})
    with pytest.raises(InvalidInput, match="put the collection outside of that folder"):
        Reader(source, skipped=tmp_path / "wiki" / "log" / "skipped.jsonl")
