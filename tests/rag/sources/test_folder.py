from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rag import Collection
from rag.errors import BadRow
from rag.sources import Reader, Source, Split, detect


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def read(folder: Path, **more: Any) -> list[dict[str, Any]]:
    return [row for batch in Reader(detect(folder), **more) for row in batch.to_pylist()]


FILES: dict[str, str | bytes] = {
    "z.txt": "last",
    "a/b.md": "intro\n\n# The *title* #\n\ntext",
    "a.html": "<title>Page</title><script>no()</script><p>One</p><p>Two &amp; three</p>",
    "a/é.TXT": "\ufeffone\r\ntwo\rthree",
    "a-b.md": "```\n# no heading\n```\nUnder\n=====\nx",
    "packed.txt.gz": gzip.compress(b"from gzip"),
    "latin.htm": b"<meta charset=latin1><h1>Caf\xe9</h1>",
    "no heading.markdown": "just text",
    ".hidden.txt": "no",
    ".git/x.txt": "no",
    "picture.png": b"\x89PNG",
}


def test_a_folder_is_its_text_files_by_path(tmp_path: Path) -> None:
    rows = read(write(tmp_path, FILES))
    assert [(row["id"], row["title"], row["text"]) for row in rows] == [
        ("a-b.md", "Under", "```\n# no heading\n```\nUnder\n=====\nx"),
        ("a.html", "Page", "One\n\nTwo & three"),
        ("a/b.md", "The *title*", "intro\n\n# The *title* #\n\ntext"),
        ("a/é.TXT", "é", "one\ntwo\nthree"),
        ("latin.htm", "Café", "Café"),
        ("no heading.markdown", "no heading", "just text"),
        ("packed.txt.gz", "packed", "from gzip"),
        ("z.txt", "z", "last"),
    ]
    assert {row["meta"] for row in rows} == {"{}"}
    cut = read(tmp_path, split=Split(by="words", size=2))
    texts = {row["id"]: row["text"] for row in rows}
    assert all(row["text"] == texts[row["document"]][row["start"] : row["end"]] for row in cut)


def test_progress_counts_all_files(tmp_path: Path) -> None:
    reader = Reader(detect(write(tmp_path, {f"{n}.txt": "x" * n for n in range(1, 50)})))
    assert (reader.bytes_read, reader.bytes_total) == (0, sum(range(50)))
    assert [batch.num_rows for batch in reader] == [49]
    assert reader.bytes_read == reader.bytes_total


def broken(folder: Path) -> None:
    """Files that cannot be documents, between two that can."""
    write(
        folder,
        {
            "a.txt": "fine",
            "b.txt": b"one\nca\xe9",
            "c.txt": "x\n\0",
            "d.txt": " \n",
            "e.md": "x".encode("utf-16"),
            "f.txt.gz": gzip.compress(b"x" * 100)[:-9],
            "g.html": "<script>only",
            "h.html": b"<meta charset=nosuch>x",
            "i.txt": gzip.compress(b"x"),
            "z.txt": "fine too",
        },
    )
    (folder / "l1.txt").symlink_to(folder / "nowhere")
    (folder / "l11.txt").symlink_to(folder / "l11.txt")
    (folder / "l2").symlink_to(folder)
    (folder / "l3.txt").symlink_to("/etc/hostname" if Path("/etc/hostname").exists() else "/bin/sh")
    os.mkfifo(folder / "m.txt")
    (folder / os.fsdecode(b"n\xff.txt")).write_text("x")


FOUND = [
    ("b.txt", 2, "text", "not UTF-8: byte 0xe9"),
    ("c.txt", 2, "text", "a NUL byte"),
    ("d.txt", 1, "text", "only whitespace"),
    ("e.md", 1, "row", "the byte order mark of UTF-16"),
    ("f.txt.gz", 1, "file", "ends early or is damaged"),
    ("g.html", 1, "text", "'text' is empty"),
    ("h.html", 1, "text", "unknown encoding: nosuch"),
    ("i.txt", 1, "file", "holds gzip data"),
    ("l1.txt", 1, "file", "a link that leads nowhere"),
    ("l11.txt", 1, "file", "a link that leads nowhere"),
    ("l2", 1, "file", "a link to a folder"),
    ("l3.txt", 1, "file", "a link that leads out of the folder"),
    ("m.txt", 1, "file", "no regular file"),
    ("n\\xff.txt", 1, "file", "its name is not UTF-8"),
]


def test_files_that_cannot_be_read_are_bad_rows(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    broken(folder)
    source = Source(type="folder", path=str(folder), on_bad="skip")
    reader = Reader(source, skipped=tmp_path / "bad.jsonl")
    assert [n for batch in reader for n in batch["id"].to_pylist()] == ["a.txt", "z.txt"]
    entries = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    got = [(e["file"], e["line"], e["field"]) for e in entries]
    assert got == [(f"{folder}/{name}", line, field) for name, line, field, _ in FOUND]
    for entry, (*_, found) in zip(entries, FOUND, strict=True):
        assert found in entry["found"]
        assert entry["fix"]
    with pytest.raises(BadRow, match=r"docs/b\.txt:2: field 'text': not UTF-8"):
        list(Reader(source.model_copy(update={"on_bad": "stop"})))


def test_a_link_inside_the_folder_is_read(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "x"})
    (tmp_path / "b.txt").symlink_to("a.txt")
    assert [(row["id"], row["text"]) for row in read(tmp_path)] == [("a.txt", "x"), ("b.txt", "x")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_said(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "x", "b/c.txt": "x"})
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(BadRow, match=r"a\.txt:1: .*cannot be read: Permission denied"):
        read(tmp_path)
    (tmp_path / "a.txt").chmod(0o600)
    (tmp_path / "b").chmod(0)
    with pytest.raises(BadRow, match=r"/b:1: .*a folder that cannot be listed"):
        read(tmp_path)
    (tmp_path / "b").chmod(0o700)


def test_a_collection_of_a_folder_follows_its_files(tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {"a.txt": "penicillin", "b.md": "# Radium\n\nglows"})
    wiki, done = Collection.build(str(docs), tmp_path / "wiki")
    assert done.added == 2
    assert [hit.id for hit in wiki.search("glows")] == ["b.md"]
    _, done = Collection.build(str(docs), tmp_path / "wiki")
    assert done.unchanged
    write(docs, {"b.md": "# Radium\n\nshines", "c/d.html": "<p>polonium</p>"})
    _, done = Collection.build(str(docs), tmp_path / "wiki")
    assert not done.unchanged
    wiki = Collection.open(tmp_path / "wiki")
    assert [hit.id for hit in wiki.search("polonium")] == ["c/d.html"]
    assert wiki.search("glows") == []
    (docs / "c" / "d.html").unlink()
    (docs / "c" / "d.html").symlink_to("gone")
    with pytest.raises(BadRow, match="d.html:1: .*a link that leads nowhere"):
        Collection.build(str(docs), tmp_path / "wiki")
