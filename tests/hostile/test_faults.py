"""Files that change, cannot be read or cannot be written, while a job runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rag import Collection
from rag.collection import manifest
from rag.errors import Conflict
from rag.sources import Reader

Rag = Callable[..., tuple[int, str, str]]
WriteRows = Callable[[Path, list[dict[str, Any]]], Path]
ROWS = [{"id": f"p{n}", "text": f"apple birch {n}"} for n in range(5000)]


def append(path: Path) -> None:
    with path.open("a") as file:
        file.write('{"id":"late","text":"late"}\n')


def shorten(path: Path) -> None:
    os.truncate(path, 40)


def replace_file(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.rename(path)


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def remove(path: Path) -> None:
    path.unlink()


CHANGES: dict[Callable[[Path], None], str] = {
    append: r"changed from [\d,]+ to [\d,]+ bytes",
    shorten: r"changed from [\d,]+ to 40 bytes",
    replace_file: "was replaced by another file",
    touch: "was written to",
    remove: "was removed",
}


@pytest.fixture
def change_after_first_batch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Have the reader's source changed between its first and its second batch of passages."""

    def prepare(path: Path, change: Callable[[Path], None]) -> list[str]:
        happened: list[str] = []
        real = Reader.__iter__

        def changing(reader: Reader) -> Iterator[pa.RecordBatch]:
            for batch in real(reader):
                yield batch
                if not happened:
                    change(path)
                    happened.append(change.__name__)

        monkeypatch.setattr(Reader, "__iter__", changing)
        return happened

    return prepare


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_source_that_changes_while_it_is_indexed_is_noticed(
    change: Callable[[Path], None],
    tmp_path: Path,
    rag: Rag,
    write_rows: WriteRows,
    change_after_first_batch: Callable[..., list[str]],
) -> None:
    source = write_rows(tmp_path / "rows.jsonl", ROWS)
    happened = change_after_first_batch(source, change)
    code, _, err = rag("index", source, "--out", tmp_path / "c")
    assert happened == [change.__name__]
    assert code == 2
    assert str(source) in err
    assert re.search(CHANGES[change], err), err
    assert "nothing was committed" in err
    assert manifest.numbers(tmp_path / "c") == []
    # The next run, over a source at rest, is a whole one.
    source = write_rows(source, ROWS)
    assert rag("index", source, "--out", tmp_path / "c")[0] == 0
    assert len(Collection.open(tmp_path / "c")) == len(ROWS)


def test_a_source_that_changes_while_it_is_added_is_noticed(
    tmp_path: Path, write_rows: WriteRows, change_after_first_batch: Callable[..., list[str]]
) -> None:
    collection, _ = Collection.build([{"id": "old", "text": "old"}], tmp_path / "c")
    source = write_rows(tmp_path / "rows.jsonl", ROWS)
    happened = change_after_first_batch(source, append)
    with pytest.raises(Conflict, match="changed from"):
        collection.add(source)
    assert happened
    assert manifest.numbers(tmp_path / "c") == [1]
    assert [row["id"] for row in collection.passages()] == ["old"]


POWERLESS = """
import ctypes, os, sys
if os.geteuid() == 0:  # root may read and write everything, unless it gives that up
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None, use_errno=True).capset(header, none) == 0
from rag.cli import main
main()
"""


@pytest.fixture
def powerless() -> Callable[..., tuple[int, str]]:
    """The command line in a process for which the modes of files hold, whoever runs the tests."""

    def run(*arguments: object) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", POWERLESS, *map(str, arguments)],
            capture_output=True,
            check=False,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode in (0, 1, 2), done.stderr
        if done.returncode:
            assert done.stderr.startswith("error: ")
            assert re.search(
                "Permission denied.*(give this user the right|may read it)", done.stderr
            )
        return done.returncode, done.stderr

    return run


def test_a_source_that_may_not_be_read_is_named(
    tmp_path: Path, powerless: Callable[..., tuple[int, str]], write_rows: WriteRows
) -> None:
    source = write_rows(tmp_path / "rows.jsonl", ROWS[:3])
    source.chmod(0o000)
    code, err = powerless("index", source, "--out", tmp_path / "c")
    assert code == 2
    assert f"{source}" in err
    assert manifest.numbers(tmp_path / "c") == []


def test_a_folder_that_may_not_be_written_is_named_and_can_be_searched(
    tmp_path: Path, powerless: Callable[..., tuple[int, str]], write_rows: WriteRows
) -> None:
    source = write_rows(tmp_path / "rows.jsonl", ROWS[:3])
    asked = write_rows(tmp_path / "asked.jsonl", [{"id": "q", "question": "apple"}])
    Collection.build(source, tmp_path / "c")
    for folder in (tmp_path / "c", *(tmp_path / "c").glob("**/")):
        folder.chmod(0o555)
    for file in (tmp_path / "c").glob("**/*"):
        file.chmod(0o555 if file.is_dir() else 0o444)
    tmp_path.chmod(0o555)
    for change in (("delete", tmp_path / "c", "p0"), ("compact", tmp_path / "c")):
        code, err = powerless(*change)
        assert code == 1
        assert f"{tmp_path / 'c'}" in err
    code, err = powerless("index", source, "--out", tmp_path / "new")
    assert code == 1
    assert f"{tmp_path / 'new'}" in err
    out = tmp_path / "out.jsonl"
    code, err = powerless("run", asked, out, "-c", tmp_path / "c", "-p", "bm25")
    assert code == 1
    assert f"{out}" in err
    assert powerless("info", tmp_path / "c")[0] == 0
    assert powerless("search", "apple", "-c", tmp_path / "c")[0] == 0
    assert len(Collection.open(tmp_path / "c")) == 3
    for folder in (tmp_path, tmp_path / "c", *(tmp_path / "c").glob("**/")):
        folder.chmod(0o755)  # so that it can be removed


@pytest.mark.parametrize("part", ["passages.arrow", "rows.npy", "index.json", "000001.json"])
def test_a_file_of_a_collection_that_may_not_be_read_is_named(
    part: str, tmp_path: Path, powerless: Callable[..., tuple[int, str]], write_rows: WriteRows
) -> None:
    Collection.build(write_rows(tmp_path / "rows.jsonl", ROWS[:3]), tmp_path / "c")
    files = [path for path in (tmp_path / "c").glob("[!l]*/**/*") if path.name == part]
    (file,) = files
    file.chmod(0o000)
    code, err = powerless("search", "apple", "-c", tmp_path / "c")
    assert code == 1
    assert part in err
    assert "damaged" not in err


def test_a_limit_on_the_size_of_files_is_a_full_disk(tmp_path: Path, write_rows: WriteRows) -> None:
    """RLIMIT_FSIZE makes every write beyond 64 kB fail, as a full disk does."""
    source = write_rows(tmp_path / "rows.jsonl", ROWS)
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from rag.cli import main; import rag.cli.app, rag.collection.collection;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "index", str(source), "--out", str(tmp_path / "c"), "--json"],
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 1, done.stderr
    assert "run the command again" in done.stderr
    assert str(tmp_path / "c") in done.stderr
    assert manifest.numbers(tmp_path / "c") == []
    assert json.dumps(ROWS[0]) in source.read_text()
