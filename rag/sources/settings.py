"""What a reader is told: which file (``Source``) and how to cut its documents (``Split``)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rag.errors import InvalidInput, NotFound

SUFFIXES: dict[str, Literal["jsonl", "csv", "tsv"]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
}
"""The type that ``detect`` takes for a suffix. A ``.json`` file must hold one object a line."""

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"""The compression of a file by its last suffix; any other suffix means none."""

CORPUS = ("corpus.jsonl", *(f"corpus.jsonl{suffix}" for suffix in COMPRESSIONS))
"""The names that the corpus of a BEIR folder may have; the first that exists is read."""

ACCEPTED = (
    f"a folder with {CORPUS[0]}, or a file ending in {', '.join(SUFFIXES)}, "
    f"each also with {', '.join(COMPRESSIONS)}"
)


class Source(BaseModel):
    """Where documents come from: the ``source:`` key of an index YAML.

    - ``type``: ``jsonl`` is one JSON object a line. ``csv`` has a header line, commas, and quotes
      that may enclose commas, quotes (doubled) and newlines. ``tsv`` has a header line and tabs;
      quotes in it are literal text. ``beir`` is a folder that holds ``corpus.jsonl``.
    - ``path``: a file or, for ``beir``, a folder. A last suffix ``.gz``, ``.zst`` or ``.bz2``
      means compressed.
    - ``fields``: our column to the source's key. Columns are ``id`` (default: the first of
      ``_id``, ``id``, ``docid`` in the row), ``title`` (default ``title``), ``text`` (default:
      the first of ``text``, ``contents``) and the declared fields (default: their own name).
    - ``on_bad``: what a row that cannot be read does: ``stop`` raises, ``skip`` writes it to a
      file and goes on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["beir", "jsonl", "csv", "tsv"]
    path: str
    fields: dict[str, str] = {}
    on_bad: Literal["stop", "skip"] = "stop"

    def files(self) -> list[Path]:
        """The files that are read, as paths that begin with ``path`` as it was given.

        Raises:
            NotFound: ``path`` does not exist, or is a BEIR folder without a corpus.
            InvalidInput: ``path`` is a folder where a file is read, or the other way round.
        """
        path = Path(self.path)
        if not path.exists():
            raise NotFound(f"{self.path}: no such file or folder; correct the path of the source")
        if self.type != "beir":
            if path.is_dir():
                raise InvalidInput(
                    f"{self.path}: a folder, but type {self.type!r} reads a file; name the file, "
                    f"or use type 'beir' for a folder with {CORPUS[0]}"
                )
            return [path]
        if not path.is_dir():
            raise InvalidInput(
                f"{self.path}: a file, but type 'beir' reads a folder with {CORPUS[0]}; "
                "name the folder, or use type 'jsonl'"
            )
        corpus = _corpus(path)
        if corpus is None:
            raise NotFound(f"{self.path}: the folder holds no corpus; put {CORPUS[0]} (or .gz) in")
        return [corpus]


class Split(BaseModel):
    """How documents are cut into passages: the ``split:`` key of an index YAML.

    A passage holds ``size`` words (runs of characters that are not whitespace) or sentences; the
    next one starts ``size - overlap`` further on. ``overlap`` must be less than ``size``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Literal["words", "sentences"]
    size: Annotated[int, Field(gt=0)]
    overlap: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _advances(self) -> Split:
        if self.overlap >= self.size:
            raise ValueError(
                f"overlap is {self.overlap} and size is {self.size}; "
                "make overlap less than size, so that each passage starts after the one before"
            )
        return self


def detect(path: str | Path) -> Source:
    """The source that ``path`` looks like, by its name alone, with the default settings.

    Args:
        path: A folder with ``corpus.jsonl`` (``beir``), or a file with the suffix ``.jsonl``,
            ``.ndjson``, ``.json`` (one object a line), ``.csv`` or ``.tsv``, each also with
            ``.gz``, ``.zst`` or ``.bz2``. Upper case counts as lower case.

    Raises:
        NotFound: Nothing exists at ``path``.
        InvalidInput: The type cannot be told from the name; the message lists what is accepted.
    """
    given = Path(path)
    if not given.exists():
        raise NotFound(f"{path}: no such file or folder")
    if given.is_dir():
        if _corpus(given) is None:
            raise InvalidInput(f"{path}: a folder without a corpus; a source is {ACCEPTED}")
        return Source(type="beir", path=str(path))
    packed = "|".join(map(re.escape, COMPRESSIONS))
    name = re.sub(f"({packed})$", "", given.name.lower())
    kind = SUFFIXES.get(Path(name).suffix)
    if kind is None:
        raise InvalidInput(f"{path}: the type cannot be told from the name; a source is {ACCEPTED}")
    return Source(type=kind, path=str(path))


def _corpus(folder: Path) -> Path | None:
    return next((folder / name for name in CORPUS if (folder / name).is_file()), None)
