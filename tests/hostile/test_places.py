"""Files where folders belong and the other way round, and what is missing: each is named."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rag import Collection

Rag = Callable[..., tuple[int, str, str]]
WriteRows = Callable[[Path, list[dict[str, str]]], Path]
ROWS = [{"id": f"p{n}", "text": f"apple {n}"} for n in range(30)]


def as_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("x")


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def newest(path: Path) -> Path:
    return max((path / "manifest").iterdir())


CASES: dict[str, tuple[Callable[[Path], object], dict[str, str]]] = {
    # what happens to the collection, and what commands then say after its path
    "no segments": (
        lambda path: shutil.rmtree(path / "segments"),
        {
            "search": r"/segments/.*passages.arrow: is damaged \(No such file.*'rag index' from",
            "add": r"/segments/.*passages.arrow: is damaged \(No such file.*'rag index' from",
            "compact": r"/segments/.*: is not a folder.*'rag index' from the source repairs it",
        },
    ),
    "no hidden rows": (
        lambda path: shutil.rmtree(path / "deleted"),
        dict.fromkeys(
            ("search", "add", "compact"),
            r"/deleted/.*\.npy: No such file or directory; 'rag index' from the source shows all",
        ),
    ),
    "a folder as manifest": (
        lambda path: as_folder(newest(path)),
        dict.fromkeys(
            ("search", "add", "compact", "clean", "info"),
            "/manifest/000002.json: the manifest is damaged: it is a folder; 'rag info",
        ),
    ),
    "a manifest cut short": (
        lambda path: newest(path).write_bytes(newest(path).read_bytes()[:50]),
        dict.fromkeys(
            ("search", "add", "compact", "clean", "info"),
            "/manifest/000002.json: the manifest is damaged: .*'rag info .* opens an older one",
        ),
    ),
    "a file as log": (
        lambda path: as_file(path / "log"),
        dict.fromkeys(
            ("add", "compact", "clean"),
            "/log: File exists; a file stands where a folder belongs; move it away",
        ),
    ),
    "a file as work": (
        lambda path: (path / ".work").write_text("x"),
        dict.fromkeys(
            ("add", "compact"), r"/\.work.*: Not a directory; a part of this path is a file; move"
        ),
    ),
    "a file as segment": (
        lambda path: as_file(min((path / "segments").iterdir())),
        {
            "search": r"/segments/.*: is damaged \(Not a directory\).*'rag index' from the source",
            "compact": "/segments/.*: is not a folder.*'rag index' from the source repairs it",
        },
    ),
    "a file as indexes": (
        lambda path: as_file(path / "indexes"),
        {
            "search": "/indexes/lexical/.*: .*Not a directory.*; run `rag verify`, then `rag",
            "add": "/indexes/lexical: Not a directory; a part of this path is a file; move that",
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_lies_in_the_wrong_place_is_named(
    case: str, rag: Rag, tmp_path: Path, write_rows: WriteRows
) -> None:
    damage, said = CASES[case]
    source = write_rows(tmp_path / "rows.jsonl", ROWS)
    more = write_rows(tmp_path / "more.jsonl", [{"id": "new", "text": "apple"}])
    path = tmp_path / "c"
    Collection.build(source, path, segment_rows=10)[0].delete(["p1"])
    commands: dict[str, list[object]] = {
        "search": ["search", "apple", "-c", path],
        "add": ["add", path, more],
        "compact": ["compact", path],
        "clean": ["clean", path],
        "info": ["info", path],
    }
    damage(path)
    for name, pattern in said.items():
        code, _, err = rag(*commands[name])
        assert code == 1, (name, err)
        assert re.match(f"error: {re.escape(str(path))}{pattern}", err), (name, err)
    # The next step that is named leads on, where it is to index again.
    if any("'rag index' from" in pattern for pattern in said.values()):
        code, out, err = rag("index", source, "--out", path, "--segment-rows", 10, "--json")
        assert code == 0, err
        assert json.loads(out)["passages"] == 30
        assert rag("verify", path, "--json")[0] == (1 if case == "no hidden rows" else 0)
        assert [row["id"] for row in Collection.open(path).passages()] == [r["id"] for r in ROWS]


def test_the_only_manifest_is_damaged(rag: Rag, tmp_path: Path, write_rows: WriteRows) -> None:
    source = write_rows(tmp_path / "rows.jsonl", ROWS)
    path = tmp_path / "c"
    Collection.build(source, path)
    newest(path).write_text("{}")
    code, _, err = rag("search", "apple", "-c", path)
    assert code == 1
    assert "000001.json: the manifest is damaged: no 'checksum'" in err
    assert "'rag index' from the source into a new folder makes the collection again" in err
    assert rag("index", source, "--out", tmp_path / "new")[0] == 0


def test_paths_that_cannot_be_a_collection(rag: Rag, tmp_path: Path, write_rows: WriteRows) -> None:
    source = write_rows(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "empty").mkdir()
    cases = {
        ("index", source, "--out", tmp_path / "file"): "is a file; a collection is a folder: name",
        ("index", source, "--out", tmp_path / "file" / "c"): "Not a directory; a part of this path",
        (
            "index",
            source,
            "--out",
            tmp_path / "loop",
        ): "Too many levels.*; the link leads to itself",
        ("index", source, "--out", tmp_path / ("x" * 300)): "File name too long; shorten the name",
        (
            "index",
            tmp_path / "absent.jsonl",
            "--out",
            tmp_path / "c",
        ): "no such file or folder; corr",
        ("add", tmp_path / "absent", source): "there is no such folder; 'rag index SOURCE --out",
        ("verify", tmp_path / "empty"): "is not a collection .*'rag index SOURCE --out DIR' makes",
        ("compact", tmp_path / "file"): "is not a collection .*'rag index SOURCE --out DIR' makes",
    }
    for command, pattern in cases.items():
        code, _, err = rag(*command)
        assert code in (1, 2), command
        assert re.match(f"error: {re.escape(str(tmp_path))}/.*{pattern}", err), err
