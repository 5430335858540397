"""Run the code blocks of README.md and docs/*.md, so that a document cannot show what fails.

    python docs/check_blocks.py [FILE ...]

The blocks of one file run in order, in a temporary folder of its own that holds a collection
``wiki`` (built from examples/xquad-en), the same source under ``examples/xquad-en``, and a file
``more.jsonl``. What is done with a block depends on its language:

- ``python`` is executed; the blocks of a file share their variables.
- ``yaml`` is checked as ``rag validate`` checks it.
- ``console`` and ``sh``: each line ``$ rag ...`` is run and must exit with 0; other lines are
  output, or commands for another place.

A comment above a block changes that: ``<!-- file: NAME -->`` first writes the block to NAME, and
``<!-- not run: REASON -->`` leaves it out. The exit code is 1 if a block fails.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^(`{3,})\s*(\w*)\s*$")
COMMENT = re.compile(r"^<!-- (file|not run): (.+?) -->$")
MORE = (
    {"_id": "m1", "title": "Marie Curie", "text": "Marie Curie discovered radium in 1898."},
    {"_id": "m2", "title": "Penicillin", "text": "Alexander Fleming found penicillin in 1928."},
)


class Failed(Exception):
    """A block did not do what a document says; the message is what was printed."""


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, and the line of its fence (1-based)."""

    file: Path
    line: int
    language: str
    text: str
    save_as: str | None = None
    skipped: str | None = None

    def __str__(self) -> str:
        """``file:line``, which editors jump to."""
        return f"{self.file.relative_to(ROOT)}:{self.line}"


def blocks(file: Path) -> Iterator[Block]:
    """The fenced blocks of a Markdown file, in order."""
    lines = file.read_text("utf-8").splitlines()
    number, comment = 0, ("", "")
    while number < len(lines):
        fence = FENCE.match(lines[number].strip())
        if not fence:
            said = COMMENT.match(lines[number].strip())
            if said:
                comment = (said[1], said[2])
            elif lines[number].strip():
                comment = ("", "")
            number += 1
            continue
        start = number
        number += 1
        while number < len(lines) and lines[number].strip() != fence[1]:
            number += 1
        yield Block(
            file,
            start + 1,
            fence[2],
            "\n".join(lines[start + 1 : number]) + "\n",
            save_as=comment[1] if comment[0] == "file" else None,
            skipped=comment[1] if comment[0] == "not run" else None,
        )
        number, comment = number + 1, ("", "")


def check(block: Block, names: dict[str, Any]) -> str:
    """Do with a block what its language asks for, in the current folder; say what was done.

    Raises:
        Failed: it did not succeed.
    """
    if block.skipped:
        return f"not run ({block.skipped})"
    if block.save_as:
        Path(block.save_as).write_text(block.text, encoding="utf-8")
    if block.language == "python":
        run_python(block, names)
    elif block.language == "yaml":
        name = block.save_as or f"block-{block.line}.yaml"
        Path(name).write_text(block.text, encoding="utf-8")
        run_command(f"rag validate {name}")
    elif block.language in ("console", "sh"):
        commands = re.findall(r"^\$ (rag (?:.*\\\n)*.*)$", block.text, re.MULTILINE)
        for command in commands:
            run_command(command.replace("\\\n", " "))
        return "run" if commands else "text"
    else:
        return "text"
    return "run"


def run_python(block: Block, names: dict[str, Any]) -> None:
    """Execute a block; tracebacks name the lines of the document."""
    shown = io.StringIO()
    try:
        code = compile("\n" * block.line + block.text, str(block.file), "exec")
        with contextlib.redirect_stdout(shown):
            exec(code, names)  # noqa: S102 - the documents are our own
    except Exception as error:
        raise Failed(shown.getvalue() + traceback.format_exc(limit=-3)) from error


def run_command(line: str) -> None:
    """Run ``rag ...`` with this interpreter; quotes and comments as in a shell, no pipes."""
    words = shlex.split(line, comments=True)[1:]
    done = subprocess.run(
        [sys.executable, "-m", "rag.cli", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Failed(f"$ {line}\nexit {done.returncode}\n{done.stdout}{done.stderr}")


def check_file(file: Path, prepared: Path) -> Counter[str]:
    """Check all blocks of a file in a copy of the ``prepared`` folder; print the failures."""
    counts: Counter[str] = Counter()
    names: dict[str, Any] = {"__name__": "__main__"}
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "work"
        shutil.copytree(prepared, folder)
        os.chdir(folder)
        try:
            for block in blocks(file):
                try:
                    outcome = check(block, names)
                except Failed as error:
                    outcome = "failed"
                    print(f"{block}: this {block.language} block fails\n{error}")
                if outcome.startswith("not run"):
                    print(f"{block}: {outcome}")
                counts[outcome.partition(" (")[0]] += 1
        finally:
            os.chdir(before)
    return counts


def prepare(folder: Path) -> None:
    """Fill a folder with what the documents talk about."""
    shutil.copytree(ROOT / "examples" / "xquad-en", folder / "examples" / "xquad-en")
    rows = "".join(json.dumps(row) + "\n" for row in MORE)
    (folder / "more.jsonl").write_text(rows, encoding="utf-8")
    before = Path.cwd()
    os.chdir(folder)
    try:
        run_command("rag index examples/xquad-en --out wiki")
    finally:
        os.chdir(before)


def main(arguments: list[str]) -> int:
    """Check the named files, or all; return the exit code."""
    files = [Path(name).resolve() for name in arguments]
    files = files or [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        prepare(Path(temporary))
        for file in files:
            counts += check_file(file, Path(temporary))
    shown = ", ".join(f"{counts[name]} {name}" for name in ("run", "not run", "failed"))
    print(f"code blocks of {len(files)} documents: {shown}")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
