"""What is large or pretends to be small: memory stays in proportion, and nothing hangs."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

MB = 1 << 20

CHILD = """
import sys
from rag.cli import main
try:
    main()
finally:
    # Not getrusage: its peak includes that of the process that started this one.
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    print("peak", peak // 1024, file=sys.stderr)
"""

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs Linux's account of a process's memory"
)

Peak = Callable[..., tuple[int, str, int]]


@pytest.fixture(scope="module")
def peak() -> Peak:
    """The command line in a process of its own: exit code, what it said, and its peak in MB."""

    def run(*arguments: object) -> tuple[int, str, int]:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, *map(str, arguments)],
            capture_output=True,
            check=False,
            text=True,
            timeout=500,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert "Traceback" not in done.stderr
        assert "defect" not in done.stderr
        said, _, peak = done.stderr.rpartition("peak ")
        return done.returncode, said, int(peak)

    return run


@pytest.fixture(scope="module")
def usual(peak: Peak, tmp_path_factory: pytest.TempPathFactory) -> int:
    """The peak of indexing one short passage, in MB."""
    folder = tmp_path_factory.mktemp("usual")
    (folder / "a.jsonl").write_text('{"id":"a","text":"apple"}\n')
    code, _, found = peak("index", folder / "a.jsonl", "--out", folder / "c")
    assert code == 0
    return found


@pytest.mark.parametrize("end", ["whole", "cut"])
def test_an_archive_of_small_rows_is_read_in_pieces(
    end: str, peak: Peak, usual: int, tmp_path: Path
) -> None:
    """200 MB of blank lines in 200 kB: decompressed as it is read, never whole."""
    blank = b" " * (MB // 4 - 1) + b"\n"
    packed = gzip.compress(b'{"id":"a","text":"t"}\n' + blank * 800, 6)
    assert len(packed) < MB
    source = tmp_path / "a.jsonl.gz"
    source.write_bytes(packed if end == "whole" else packed[:-8])
    code, said, found = peak("index", source, "--out", tmp_path / "c")
    assert code == (0 if end == "whole" else 1)
    assert end == "whole" or f"{source}: the gzip data ends early" in said
    assert found < usual + 60


def bomb(path: Path, size: int, line: bytes) -> Path:
    with gzip.open(path, "wb", 6) as file:
        for _ in range(size // len(line)):
            file.write(line)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv"])
@pytest.mark.parametrize("content", ["letters", "NUL bytes", "noise", "open lists", "quotes"])
def test_a_line_of_100_mb_takes_memory_in_proportion(
    kind: str, content: str, peak: Peak, usual: int, tmp_path: Path
) -> None:
    """A line is held whole, and a few times while it is decoded: 100 MB, so at most 1 GB."""
    byte = {
        "letters": b"x" * 97 + b" y ",
        "NUL bytes": bytes(100),
        "noise": bytes(range(128, 228)),
        "open lists": b"[" * 100,
        "quotes": b'"' * 99 + b",",
    }[content]
    source = tmp_path / f"a.{kind}"
    header = {"jsonl": b"", "csv": b"id,text\n", "tsv": b"id\ttext\n"}[kind]
    source.write_bytes(header + byte * MB + b"\n")
    code, said, found = peak("index", source, "--out", tmp_path / "c")
    assert code == 2
    assert f"{source}:{1 if kind == 'jsonl' else 2}: field 'row': " in said
    assert len(said) < 2000
    assert found < usual + 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["msmarco", "seal", "dpr", "kilt", "flashrag", "parquet", "folder"]
)
@pytest.mark.parametrize("content", ["letters", "NUL bytes"])
def test_100_mb_in_the_formats_of_others_take_memory_in_proportion(
    kind: str, content: str, peak: Peak, usual: int, tmp_path: Path
) -> None:
    """A row of 100 MB that is none, or a document of NUL bytes, and what is said of it."""
    data = {"letters": b"x" * 97 + b" y ", "NUL bytes": bytes(100)}[content] * MB
    source = tmp_path / "a.txt"
    source.write_bytes(b"id\ttext\ttitle\n" * (kind == "dpr") + data + b"\n")
    expected = {"parquet": "cannot be read as parquet", "folder": "a NUL byte"}.get(kind, "'row': ")
    if kind == "folder":
        source = tmp_path / "docs"
        source.mkdir()
        (tmp_path / "a.txt").rename(source / "a.txt")
    facts = {"kind": "index", "indexes": {"lexical": {"type": "lexical"}}}
    yaml = tmp_path / "index.yaml"
    yaml.write_text(json.dumps({**facts, "source": {"type": kind, "path": str(source)}}))
    code, said, found = peak("index", yaml, "--out", tmp_path / "c")
    if (kind, content) == ("folder", "letters"):
        assert code == 0
        assert found < usual + 3000
        return
    assert code in (1, 2)
    assert str(source) in said
    assert expected in said
    assert len(said) < 2000
    assert found < usual + 1000


@pytest.mark.slow
def test_a_document_of_100_mb_is_a_document(peak: Peak, usual: int, tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps({"id": "a", "text": "apple birch " * (100 * MB // 12)}) + "\n")
    code, said, found = peak("index", source, "--out", tmp_path / "c")
    assert code == 0, said
    assert found < usual + 3000
    assert peak("search", "birch", "-c", tmp_path / "c", "--json")[0] == 0


@pytest.mark.slow
def test_a_bomb_of_bad_rows_stops_at_the_first(peak: Peak, usual: int, tmp_path: Path) -> None:
    """1 GB of rows without an id: refused at the first one, whatever follows."""
    source = bomb(tmp_path / "a.jsonl.gz", 1024 * MB, b'{"text":"t"}\n' * 80_000)
    code, said, found = peak("index", source, "--out", tmp_path / "c")
    assert code == 2
    assert f"{source}:1: field 'id'" in said
    assert found < usual + 100


@pytest.mark.slow
def test_a_million_bad_rows_that_are_skipped_are_not_held(
    peak: Peak, usual: int, tmp_path: Path
) -> None:
    source = bomb(tmp_path / "a.jsonl.gz", 20 * MB, b'{"text":"t"}\n')
    code, said, found = peak("index", source, "--out", tmp_path / "c", "--on-bad", "skip")
    assert code == 0, said
    assert found < usual + 100
