"""Every damaged byte is named, and what is missing is built again."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rag import Collection
from rag.collection import manifest
from rag.collection.folders import canonical
from rag.errors import Damaged, InvalidInput, RagError

Rag = Callable[..., tuple[int, str, str]]
Trees = Callable[[Path], dict[str, bytes]]
ROWS = [{"id": f"p{n}", "text": f"apple birch {n}"} for n in range(12)]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three segments, rows deleted in two of them, three manifests."""
    path = tmp_path_factory.mktemp("damage") / "c"
    collection, _ = Collection.build(ROWS, path, segment_rows=4)
    collection.delete(["p0", "p11"])
    collection.delete(["p1"])
    return path


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "c"))


def files(path: Path) -> list[Path]:
    found = [path.glob(f"{part}/**/*") for part in ("segments", "indexes", "manifest", "deleted")]
    return sorted(file for part in found for file in part if file.is_file())


def test_a_flipped_byte_in_any_file_is_named(path: Path) -> None:
    collection = Collection(path)
    assert collection.verify() == []
    assert len(files(path)) > 3 * 14 + 3
    for file in files(path):
        data = file.read_bytes()
        for place, change in ((0, 0x01), (len(data) // 2, 0x80), (len(data) - 1, 0x03)):
            flipped = bytearray(data)
            flipped[place] ^= change
            file.write_bytes(flipped)
            messages = [str(error) for error in collection.verify()]
            assert len(messages) == 1, (file.name, messages)
            assert messages[0].startswith(f"{file}:")
        file.write_bytes(data)
    assert collection.verify() == []


def test_a_file_cut_short_or_missing_is_named(path: Path) -> None:
    collection = Collection(path)
    for file in files(path):
        data = file.read_bytes()
        for kept in (len(data) - 1, 0):
            file.write_bytes(data[:kept])
            messages = [str(error) for error in collection.verify()]
            assert [m.startswith(f"{file}:") for m in messages] == [True], (file.name, messages)
        if file.parent.name == "manifest":
            # One that is not there cannot be told from one that never was.
            file.write_bytes(data)
            continue
        file.unlink()
        messages = [str(error) for error in collection.verify()]
        assert [m.startswith(f"{file}:") for m in messages] == [True], (file.name, messages)
        file.write_bytes(data)


def test_a_missing_folder_and_a_file_too_many_are_named(path: Path) -> None:
    folders = [*path.glob("segments/*"), *path.glob("indexes/*/*")]
    gone, kept, other = folders[0], folders[1], folders[-1]
    shutil.rmtree(gone)
    (kept / "extra").write_text("x")
    (other / "folder").mkdir()
    (path / "segments" / "stray").write_text("x")
    messages = [str(error) for error in Collection(path).verify()]
    expected = {gone, kept / "extra", other / "folder", path / "segments" / "stray"}
    assert {Path(message.partition(":")[0]) for message in messages} == expected
    assert len(messages) == len(expected)


def test_sums_that_are_damaged_together_with_a_file_are_no_crash(path: Path) -> None:
    folder = next(path.glob("indexes/*/*"))
    (folder / "extra").mkdir()
    for text in (b"", b"{}", b'{"files":[]}', b'{"files":{"rows.npy":{}}}', b'{"files":{"a":1}}'):
        (folder / "checksums.json").write_bytes(text)
        messages = [str(error) for error in Collection(path).verify()]
        assert any(message.startswith(f"{folder / 'checksums.json'}:") for message in messages)


def test_the_command_names_the_file_and_exits_with_1(path: Path, rag: Rag) -> None:
    assert rag("verify", path)[0] == 0
    file = next(path.glob("segments/*/passages.arrow"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    code, out, _ = rag("verify", path)
    assert code == 1
    assert out.startswith(f"{file}: ")
    code, out, _ = rag("verify", path, "--json")
    assert code == 1
    assert len(json.loads(out)["damage"]) == 1


def test_reading_damaged_files_never_ends_in_a_foreign_error(path: Path) -> None:
    for file in files(path):
        data = file.read_bytes()
        for place in {5, len(data) // 2}:
            flipped = bytearray(data)
            flipped[place] ^= 0xFF
            file.write_bytes(flipped)
            read(path)
            file.write_bytes(data[:place])
            read(path)
        file.write_bytes(data)


def read(path: Path) -> None:
    """Open and search: an answer or an error of ours."""
    try:
        collection = Collection.open(path)
        collection.search("apple")
        collection.snapshot().find(["p2", "p9"])
        for batch in collection.snapshot().passages():
            batch.to_pylist()
    except (RagError, UnicodeDecodeError):
        pass


def test_a_damaged_newest_manifest_is_never_passed_over(path: Path, rag: Rag) -> None:
    newest = path / "manifest" / "000003.json"
    newest.write_bytes(newest.read_bytes().replace(b'"rows":4', b'"rows":5', 1))
    for attempt in (
        lambda: Collection.open(path),
        lambda: Collection(path).snapshot(),
        lambda: Collection(path).delete(["p5"]),
        lambda: Collection(path).add([{"id": "new", "text": "t"}]),
        lambda: Collection.build(ROWS, path),
    ):
        with pytest.raises(Damaged, match=r"000003\.json: .*checksum.*--manifest 2'") as error:
            attempt()
        assert str(error.value).startswith(str(newest))
    assert len(Collection(path).snapshot(2)) == 10
    assert [row["id"] for b in Collection(path).snapshot(1).passages() for row in b.to_pylist()]
    assert rag("info", path)[0] == 1
    code, out, _ = rag("info", path, "--manifest", 2, "--json")
    assert (code, json.loads(out)["passages"]) == (0, 10)
    assert rag("search", "apple", "-c", path)[0] == 1


def test_a_manifest_of_another_format_is_refused_with_words(path: Path) -> None:
    newest = path / "manifest" / "000003.json"
    content = json.loads(newest.read_bytes())
    del content["checksum"]
    older = "'rag index' from the source into a new folder makes the collection again"
    for format, advice in ((3, "upgrade"), (1, older)):
        content |= {"format": format, "novelty": True}
        checksum = hashlib.sha256(canonical(content)).hexdigest()
        newest.write_bytes(canonical({**content, "checksum": checksum}) + b"\n")
        with pytest.raises(InvalidInput, match=f"format {format}.*reads format 2; {advice}"):
            Collection.open(path)


def test_what_is_missing_or_cut_short_is_built_again(
    tmp_path: Path, trees: Trees, write_rows: Callable[..., Path]
) -> None:
    source = write_rows(tmp_path / "rows.jsonl", ROWS)
    path = tmp_path / "c"
    Collection.build(source, path, segment_rows=4)
    whole = trees(path)
    for file in [f for f in files(path) if f.parent.name not in ("manifest", "deleted")]:
        if file.name in ("passages.arrow", "rows.npy", "checksums.json"):
            for damage in (lambda f: f.write_bytes(b"x"), lambda f: shutil.rmtree(f.parent)):
                damage(file)
                collection, done = Collection.build(source, path, segment_rows=4)
                assert not done.unchanged
                assert collection.verify() == []
                assert trees(path) == whole
    assert manifest.numbers(path) == [1]
    assert Collection.build(source, path, segment_rows=4)[1].unchanged


def test_what_verify_found_the_next_run_builds_again(
    tmp_path: Path, trees: Trees, write_rows: Callable[..., Path]
) -> None:
    source = write_rows(tmp_path / "rows.jsonl", ROWS)
    path = tmp_path / "c"
    collection, _ = Collection.build(source, path, segment_rows=4)
    whole = trees(path)
    for file in (next(path.glob("segments/*/ids.arrow")), next(path.glob("indexes/*/*/rows.npy"))):
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    assert len(collection.verify()) == 2
    _, done = Collection.build(source, path, segment_rows=4)
    assert not done.unchanged
    assert trees(path) == whole
    assert collection.verify() == []
    assert Collection.build(source, path, segment_rows=4)[1].unchanged
    assert manifest.numbers(path) == [1]


def test_an_index_is_built_again_without_the_source(tmp_path: Path, trees: Trees) -> None:
    from rag.indexers import Lexical

    collection, _ = Collection.build(ROWS, tmp_path / "c", segment_rows=4)
    whole = trees(collection.path)
    shutil.rmtree(next(collection.path.glob("indexes/lexical/*")))
    assert not collection.add_index({"lexical": Lexical()}).unchanged
    assert trees(collection.path) == whole
    assert collection.add_index({"lexical": Lexical()}).unchanged
