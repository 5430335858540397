"""Which source a path looks like, by names alone."""

from __future__ import annotations

import re
from pathlib import Path

from rag.errors import InvalidInput, NotFound
from rag.sources.settings import COMPRESSIONS, CORPUS, OFFICE, TEXTS, Source, Type, corpus_of
from rag.sources.tasks import is_task, task_folder
from rag.sources.walk import files_below

SUFFIXES: dict[str, Type] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
"""The type that ``detect`` takes for a suffix. A ``.json`` file must hold one object a line."""

ACCEPTED = (
    f"a folder with {CORPUS[0]}, a folder of text, Markdown or HTML files, or a file ending in "
    f"{', '.join(SUFFIXES)}, all but the last also with {', '.join(COMPRESSIONS)}"
)
BY_TYPE = "an index file with 'source: {type: ..., path: ...}' reads others"

_OTHERS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", *OFFICE)


def detect(path: str | Path) -> Source:
    """The source that ``path`` looks like, by its name alone, with the default settings.

    What a file holds is never guessed. A ``.tsv`` file is one with a header line and literal
    quotes, except ``psgs_w100.tsv``, which is DPR's; those of MS MARCO and SEAL have names that
    say nothing, so their type must be written.

    Args:
        path: A folder with ``corpus.jsonl`` (``beir``); a folder with text, Markdown or HTML
            files and none that might be a corpus too (``folder``); or a file with the suffix
            ``.jsonl``, ``.ndjson``, ``.json`` (one object a line), ``.csv`` or ``.tsv``, each
            also with ``.gz``, ``.zst`` or ``.bz2``, or ``.parquet``. Upper case counts as lower
            case. What is no path may be the name of a task such as ``beir/scifact``
            (``rag.sources.tasks``), which is downloaded.

    Raises:
        NotFound: Nothing exists at ``path``.
        InvalidInput: The type cannot be told from the name; the message lists what is accepted.
    """
    if is_task(path):
        path = task_folder(str(path))
    given = Path(path)
    if not given.exists():
        raise NotFound(f"{path}: no such file or folder; correct the path of the source")
    if given.is_dir():
        return Source(type=_of_folder(path, given), path=str(path))
    packed = "|".join(map(re.escape, COMPRESSIONS))
    name = re.sub(f"({packed})$", "", given.name.lower())
    kind = SUFFIXES.get(Path(name).suffix)
    if kind == "parquet" and name != given.name.lower():
        raise InvalidInput(
            f"{path}: parquet compresses inside, and cannot be read through {given.suffix}; "
            "decompress the file"
        )
    if kind is None:
        raise InvalidInput(
            f"{path}: the type cannot be told from the name; a source is {ACCEPTED}; {BY_TYPE}"
        )
    if name == "psgs_w100.tsv":
        kind = "dpr"
    return Source(type=kind, path=str(path))


def _of_folder(path: str | Path, folder: Path) -> Type:
    if corpus_of(folder) is not None:
        return "beir"
    packed = tuple(f"{name}{last}" for name in TEXTS for last in ("", *COMPRESSIONS))
    others = tuple(f"{name}{last}" for name in _OTHERS for last in ("", *COMPRESSIONS))
    names = [file.name.lower() for file in files_below(folder, packed + others)]
    unclear = sorted({_suffix(name, others) for name in names if name.endswith(others)})
    texts = any(name.endswith(packed) for name in names)
    if unclear:
        mixed = f"{', '.join(unclear)} files" + (" and text files" if texts else "")
        raise InvalidInput(
            f"{path}: a folder without a corpus ({CORPUS[0]}) that holds {mixed}; say in an index "
            "file what is meant: 'source: {type: folder, path: ...}' reads the text, Markdown and "
            f"HTML files, haystack also {', '.join(OFFICE)}, jsonl and parquet those named so"
        )
    if not texts:
        raise InvalidInput(f"{path}: a folder without a corpus; a source is {ACCEPTED}; {BY_TYPE}")
    return "folder"


def _suffix(name: str, suffixes: tuple[str, ...]) -> str:
    return next(suffix for suffix in suffixes if name.endswith(suffix))
