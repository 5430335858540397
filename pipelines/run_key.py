"""What the results of a job hang on: the settings, the models and the collections, as one key."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rag.collection import manifest
from rag.collection.folders import file_hash, key_of
from rag.errors import InvalidInput, RagError
from rag.stage import Stage

Known = dict[str, list[Any]]
"""Path of a model file to its size, time, inode and sha256, so that no run hashes it twice."""


def settings_of(stages: Sequence[Stage]) -> list[Any]:
    """The settings of all stages as JSON values; none of them is lost.

    Raises:
        InvalidInput: settings of a stage do not come back from JSON, so no key can stand for them.
    """
    found = []
    for stage in stages:
        try:
            text = stage.model_dump_json()
            same = type(stage).model_validate_json(text) == stage
        except RagError:
            raise
        except ValueError:
            same = False
        if not same:
            raise InvalidInput(
                f"stage {stage.label!r}: its settings do not survive JSON, so a job cannot tell "
                "what it was run with; rag.testing.check_stage shows where"
            )
        found.append([target(stage), json.loads(text)])
    return found


def target(stage: Stage) -> str:
    """Where the class of a stage is defined: ``module:name``."""
    return f"{type(stage).__module__}:{type(stage).__qualname__}"


def collections_of(stages: Sequence[Stage]) -> dict[str, list[Any]]:
    """The newest manifest, as (number, checksum), of each collection that a stage names itself."""
    names = {
        part.collection
        for part in _within(list(stages))
        if isinstance(part, Stage) and part.collection is not None
    }
    newest = {name: manifest.read(Path(name)) for name in sorted(names)}
    return {name: [state.number, state.checksum] for name, state in newest.items()}


def models_of(stages: Sequence[Stage], known: Known) -> dict[str, str]:
    """The sha256 of every file that the settings name, by its path as it stands there.

    A text that is the path of a file names it, and so does one that is the path of a folder with
    a ``config.json`` (a model of transformers). Settings that find their files in another way (in
    a package, in what a hub gave) have a method ``files() -> list[Path]``; these go by the file's
    name, after the number of the settings, since two models each have a ``config.json``. A model
    at a server is known by its name alone.

    Args:
        stages: the stages.
        known: what an earlier run hashed; a file of the same size, time and inode is not read
            again. What is read now is added.
    """
    found: dict[str, str] = {}
    asked = 0
    for part in _within(list(stages)):
        if isinstance(part, str | os.PathLike):
            found |= {str(path): _hash(path, known) for path in _files(os.fspath(part))}
        elif callable(files := getattr(part, "files", None)):
            asked += 1
            found |= {f"{asked}:{path.name}": _hash(path, known) for path in files()}
    return found


def part_key(job: str, checksum: str | None, rows: Any) -> str:
    """The key of a part: that of the job, the manifest that it searches, and its rows."""
    return key_of(job, checksum, rows)


def _within(value: Any) -> Iterator[Any]:
    """A value of the settings and everything in it, whatever holds what."""
    yield value
    parts: Any = ()
    if isinstance(value, BaseModel):
        # The path of a collection stands for its manifest, not for a file.
        names = [name for name in type(value).model_fields if name != "collection"]
        parts = [getattr(value, name) for name in names]
        parts += (value.model_extra or {}).values()
    elif isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, list | tuple):
        parts = value
    for part in parts:
        yield from _within(part)


def _files(text: str) -> list[Path]:
    if not text or len(text) > 1000 or "\0" in text or "\n" in text:
        return []
    path = Path(text).expanduser() if text.startswith("~/") else Path(text)
    try:
        if path.is_file():
            return [path]
        if path.is_dir() and (path / "config.json").is_file():
            return sorted(file for file in path.rglob("*") if file.is_file())
    except OSError:  # too long a name, or in a folder that is closed to us: no path at all
        pass
    return []


def _hash(path: Path, known: Known) -> str:
    stat = path.stat()
    seen = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
    name = str(path.absolute())
    before = known.get(name)
    if before is None or before[:-1] != seen:
        known[name] = [*seen, file_hash(path)]
    return str(known[name][-1])


def digest(data: bytes) -> str:
    """The first 16 hexadecimal digits of the sha256 of a part."""
    return hashlib.sha256(data).hexdigest()[:16]
