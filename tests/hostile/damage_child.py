"""Damages copies of a collection and runs commands on them; one line of JSON before and after each.

A process of its own, because what is tested is also that no signal ends it.

    python damage_child.py COLLECTION WORK SEED COMMAND...
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

HEADER = 128
"""Bytes of a .npy file before its values."""

Damage = Callable[[Path, Path, random.Random], None]


def _body(data: bytes, dice: random.Random) -> bytes:
    """The same size, the same beginning and end, noise between: what a header does not show."""
    array = data.startswith(b"\x93NUMPY")
    start, stop = (HEADER, len(data) - 4) if array else (len(data) // 3, 2 * len(data) // 3)
    if stop <= start:
        start, stop = min(HEADER, len(data) - 1), len(data)
    return data[:start] + dice.randbytes(stop - start) + data[stop:]


def _directory(file: Path, other: Path, dice: random.Random) -> None:
    file.unlink()
    file.mkdir()


def _loop(file: Path, other: Path, dice: random.Random) -> None:
    file.unlink()
    file.symlink_to(file.name)


DAMAGES: dict[str, Damage] = {
    "emptied": lambda file, other, dice: _write(file, b""),
    "halved": lambda file, other, dice: _write(file, file.read_bytes()[: file.stat().st_size // 2]),
    "a byte short": lambda file, other, dice: _write(file, file.read_bytes()[:-1]),
    "noise": lambda file, other, dice: _write(file, dice.randbytes(file.stat().st_size)),
    "noise in its body": lambda file, other, dice: _write(file, _body(file.read_bytes(), dice)),
    "swapped": lambda file, other, dice: _write(file, other.read_bytes()),
    "deleted": lambda file, other, dice: file.unlink(),
    "a folder": _directory,
    "a loop": _loop,
}


def _write(file: Path, data: bytes) -> None:
    file.write_bytes(data)


def parts(collection: Path) -> dict[str, tuple[Path, Path]]:
    """Each kind of file of a collection by name: one of them, and another of the same kind."""
    found: dict[str, tuple[Path, Path]] = {}
    for room, pattern in (("segments", "*/*"), ("indexes", "lexical/*/*")):
        for file in sorted((collection / room).glob(pattern)):
            found.setdefault(f"{room}/{file.name}", (file, file))
            found[f"{room}/{file.name}"] = found[f"{room}/{file.name}"][0], file
    for room in ("manifest", "deleted"):
        files = sorted((collection / room).iterdir())
        found[room] = files[-1], files[0]
    return found


def commands(work: Path, more: Path) -> dict[str, list[str]]:
    """The command lines by name."""
    where = str(work)
    return {
        "search": ["search", "apple birch", "-c", where, "--json"],
        "phrases": ["search", '"apple birch" app*', "-c", where, "--json", "--syntax", "phrases"]
        + ["--explain"],
        "ask": ["ask", "Which apple?", "-c", where, "--json"],
        "info": ["info", where],
        "verify": ["verify", where],
        "delete": ["delete", where, "p9"],
        "add": ["add", where, str(more), "--on-existing", "replace"],
        "compact": ["compact", where],
        "index": ["index", where, "--index", "lexical"],
    }


def run(arguments: list[str]) -> tuple[int, str, str]:
    """The command line in this process."""
    from rag.cli import main

    sys.argv = ["rag", *arguments]
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code
    return (code if isinstance(code, int) else 0), out.getvalue(), err.getvalue()


def main_child(collection: Path, work: Path, seed: int, wanted: list[str]) -> None:
    """Every damage of every part, then each of the ``wanted`` commands on a fresh copy."""
    from rag.collection import folders, manifest

    folders.sync = manifest.sync = lambda path: None  # type: ignore[attr-defined]
    more = work.with_name("more.jsonl")
    more.write_text('{"id":"new","text":"apple new"}\n{"id":"p5","text":"again"}\n')
    for name, (file, other) in parts(collection).items():
        for damage, apply in DAMAGES.items():
            for command in wanted:
                shutil.rmtree(work, ignore_errors=True)
                shutil.copytree(collection, work, copy_function=os.link)
                target = work / file.relative_to(collection)
                data = target.read_bytes()
                target.unlink()  # the copies are links: never write into the original
                target.write_bytes(data)
                apply(target, other, random.Random(f"{seed} {name} {damage}"))
                print(json.dumps({"case": [name, damage, command]}), flush=True)
                changed = not target.is_file() or target.read_bytes() != data
                code, out, err = run(commands(work, more)[command])
                result = {"code": code, "out": out[:3000], "err": err, "changed": changed}
                print(json.dumps({**result, "file": str(target)}), flush=True)


if __name__ == "__main__":
    main_child(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
