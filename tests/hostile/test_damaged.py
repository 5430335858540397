"""Every kind of file of a collection, damaged in every way: an error that names it, or an answer.

What the process must never do is crash: compiled loops and Arrow trust the arrays that they map.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rag import Collection

HERE = Path(__file__).parent
ARRAYS = (
    "terms", "group_texts", "group_runs", "run_windows", "run_starts", "rows", "long_runs",
    "long_starts", "long_highs", "long_lows", "counts",
    "large_positions", "large_counts", "block_counts", "block_lengths", "lengths",
)  # fmt: skip
PARTS = (
    "segments/passages.arrow",
    "segments/ids.arrow",
    "segments/checksums.json",
    *(f"indexes/{name}.npy" for name in ARRAYS),
    "indexes/index.json",
    "indexes/checksums.json",
    "manifest",
    "deleted",
)
DAMAGES = (
    "emptied", "halved", "a byte short", "noise", "noise in its body", "swapped", "deleted",
    "a folder", "a loop",
)  # fmt: skip
UNTOLD = {("manifest", "deleted"), ("manifest", "swapped")}
"""An older state in the place of the newest cannot be told from one that was never followed."""

Results = dict[tuple[str, str, str], dict[str, Any]]


def passages(rows: int) -> list[dict[str, str]]:
    """Passages whose postings use every array: long and short runs, and counts beyond 14."""
    dice = random.Random(7)
    words = ["apple", "birch", "cedar", "dog", "elm"]
    return [
        {
            "id": f"p{n}",
            "title": f"T {n}",
            "text": " ".join(dice.choices(words, k=9)) + " apple" * (300 if n % 97 == 0 else 0),
        }
        for n in range(rows)
    ]


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two segments, rows deleted in one of them twice: three manifests."""
    path = tmp_path_factory.mktemp("damaged") / "c"
    built, _ = Collection.build(passages(2700), path, segment_rows=1400)
    built.delete(["p3"])
    built.delete(["p4"])
    return path


def run_child(collection: Path, work: Path, seed: int, *commands: str) -> Results:
    """What each case printed; the case in which the child died has its signal as code."""
    done = subprocess.run(
        [sys.executable, str(HERE / "damage_child.py"), str(collection), str(work), str(seed)]
        + list(commands),
        capture_output=True,
        check=False,
        text=True,
        timeout=550,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
    )
    results: Results = {}
    case: tuple[str, str, str] | None = None
    for line in done.stdout.splitlines():
        entry = json.loads(line)
        if "case" in entry:
            name, damage, command = entry["case"]
            case = (name, damage, command)
            results[case] = {"code": done.returncode, "out": "", "err": done.stderr[-3000:]}
        elif case is not None:
            results[case] = entry
    assert results, done.stderr
    return results


@pytest.fixture(scope="module")
def results(collection: Path) -> Results:
    return run_child(collection, collection.with_name("work"), 0, "search", "verify")


def check(results: Results, part: str, damage: str, command: str) -> None:
    """The fault happened, the process lived, and what it said names the file, or it worked."""
    found = results[part, damage, command]
    assert found["code"] in (0, 1, 2), (found["code"], found["err"])
    assert found["changed"]
    assert "Traceback" not in found["err"]
    assert "defect" not in found["err"]
    name = Path(found["file"]).name
    if command == "verify":
        if (part, damage) not in UNTOLD:
            assert found["code"] == 1
            assert name in found["out"]
    elif found["code"]:
        assert name in found["err"]
        assert len(found["err"]) < 1500


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("part", PARTS)
def test_a_damaged_file_is_named_or_not_needed(part: str, damage: str, results: Results) -> None:
    check(results, part, damage, "search")
    check(results, part, damage, "verify")
    if damage == "a byte short" and part.endswith(("passages.arrow", ".npy")):
        assert results[part, damage, "search"]["code"] == 1  # or a search would read past its end


def test_the_cases_are_all_there_are(collection: Path, results: Results) -> None:
    assert {(part, damage) for part, damage, _ in results} == {
        (part, damage) for part in PARTS for damage in DAMAGES
    }


@pytest.mark.parametrize("part", [p for p in PARTS if p != "manifest" and "checksums" not in p])
def test_a_file_that_compaction_merges_is_checked_first(
    part: str, collection: Path, tmp_path: Path
) -> None:
    """The merged folder gets sums of its own: damage that went in would be damage for ever."""
    import shutil

    from rag.errors import Damaged

    path = Path(shutil.copytree(collection, tmp_path / "c"))
    room, _, name = part.partition("/")
    file = max((path / room).glob(f"**/{name or '*.npy'}"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 0x01
    file.write_bytes(data)
    with pytest.raises(Damaged, match=file.name):
        Collection.open(path).compact()
    file.write_bytes(bytes(data[:-1]) + bytes([data[-1] ^ 0x01]))
    assert not Collection.open(path).compact().unchanged


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_no_command_crashes_on_any_damage(seed: int, collection: Path, tmp_path: Path) -> None:
    commands = (
        "search", "phrases", "ask", "info", "verify", "delete", "add", "compact", "index"
    )  # fmt: skip
    results = run_child(collection, tmp_path / "work", seed, *commands)
    wrong = {}
    for case in results:
        try:
            check(results, *case)
        except AssertionError as error:
            wrong[case] = str(error)[:300]
    assert not wrong
    assert len(results) == len(PARTS) * len(DAMAGES) * len(commands)
