"""What a reader is told: which files (``Source``) and how to cut its documents (``Split``)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rag.errors import InvalidInput, NotFound
from rag.sources.walk import files_below

Type = Literal[
    "beir",
    "csv",
    "dpr",
    "flashrag",
    "folder",
    "haystack",
    "jsonl",
    "kilt",
    "msmarco",
    "parquet",
    "seal",
    "tsv",
]
"""How a source is read: the key ``type``."""

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"""The compression of a file by its last suffix; any other suffix means none."""

CORPUS = ("corpus.jsonl", *(f"corpus.jsonl{suffix}" for suffix in COMPRESSIONS))
"""The names that the corpus of a BEIR folder may have; the first that exists is read."""

COLUMNS: dict[str, tuple[str, ...]] = {"msmarco": ("id", "text"), "seal": ("id", "title", "text")}
"""The columns of the types without a header line, in order."""

FILE_ROWS = ("folder", "haystack")
"""The types whose rows are files."""

TEXTS = (".txt", ".md", ".markdown", ".html", ".htm", ".xhtml")
"""The files of a ``folder``; each also with the suffix of a compression."""

OFFICE = (".pdf", ".docx", ".pptx", ".xlsx")
"""What ``haystack`` reads beside those."""

_IN_FOLDER: dict[str, tuple[tuple[str, ...], bool]] = {
    "folder": (TEXTS, True),
    "haystack": (OFFICE, False),
    "jsonl": ((".jsonl", ".ndjson", ".json"), True),
    "flashrag": ((".jsonl", ".ndjson", ".json"), True),
    "parquet": ((".parquet",), False),
}


class Source(BaseModel):
    """Where documents come from: the ``source:`` key of an index YAML.

    - ``type``, for rows of text. ``jsonl`` is one JSON object a line. ``csv`` has a header line,
      commas, and quotes that may enclose commas, quotes (doubled) and newlines. ``tsv`` has a
      header line and tabs; quotes in it are literal text. ``beir`` is a folder that holds
      ``corpus.jsonl``.
    - ``type``, for the conventions of others. ``msmarco`` is ``id, text`` and ``seal`` is
      ``id, title, text``, between tabs and without a header line; quotes are literal text, and
      the text of ``seal`` may hold tabs. ``dpr`` (psgs_w100.tsv) has the header
      ``id, text, title``, tabs, and the quotes of CSV. ``kilt`` is the knowledge source of KILT:
      JSON lines whose text is a list of paragraphs, which are joined by newlines.
      ``flashrag`` is JSON lines whose ``contents`` are a title, a newline and the text.
    - ``type``, for files. ``parquet`` holds one document a row. ``folder`` reads each text,
      Markdown and HTML file below a folder as a document, and ``haystack`` also PDF, docx, pptx
      and xlsx, through the converters of Haystack (extra ``haystack``). The id of a document is
      its path below the folder.
    - ``path``: a file or, for ``beir``, ``folder`` and ``haystack``, a folder. ``jsonl``,
      ``flashrag`` and ``parquet`` read also a folder: every file below it that is named so, by
      path. A last suffix ``.gz``, ``.zst`` or ``.bz2`` means compressed.
    - ``fields``: our column to the source's key. Columns are ``id`` (default: the first of
      ``_id``, ``id``, ``docid`` in the row), ``title`` (default ``title``), ``text`` (default:
      the first of ``text``, ``contents``) and the declared fields (default: their own name).
      ``kilt`` begins with ``wikipedia_id`` and ``wikipedia_title``.
    - ``on_bad``: what a row that cannot be read does: ``stop`` raises, ``skip`` writes it to a
      file and goes on. A file of a folder is a row.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Type
    path: str
    fields: dict[str, str] = {}
    on_bad: Literal["stop", "skip"] = "stop"

    def files(self) -> list[Path]:
        """The files that are read, as paths that begin with ``path`` as it was given.

        Those of a folder come by their path below it, in the order of its code points. Hidden
        ones are left out. A link that leads out of the folder, and what cannot be read, is listed:
        reading says what is wrong with it.

        Raises:
            NotFound: ``path`` does not exist, or is a folder without a file to read.
            InvalidInput: ``path`` is a folder where a file is read, or the other way round.
        """
        path = Path(self.path)
        if not path.exists():
            raise NotFound(f"{self.path}: no such file or folder; correct the path of the source")
        if self.type == "beir":
            return [self._beir(path)]
        if not path.is_dir():
            if self.type == "folder":
                raise InvalidInput(
                    f"{self.path}: a file, but type 'folder' reads the files below a folder; "
                    "name the folder"
                )
            return [path]
        wanted = self.suffixes()
        if not wanted:
            raise InvalidInput(
                f"{self.path}: a folder, but type {self.type!r} reads a file; name the file, "
                f"or use type 'beir' for a folder with {CORPUS[0]}, 'folder' for one of text files"
            )
        found = files_below(path, wanted)
        if not found:
            raise NotFound(f"{self.path}: the folder holds no file ending in {', '.join(wanted)}")
        return found

    def suffixes(self) -> tuple[str, ...]:
        """The suffixes of the files of a folder that this type reads; none if it reads a file."""
        if self.type not in _IN_FOLDER:
            return ()
        names, packed = _IN_FOLDER[self.type]
        if self.type == "haystack":
            return names + _packed(TEXTS)
        return _packed(names) if packed else names

    def _beir(self, path: Path) -> Path:
        if not path.is_dir():
            raise InvalidInput(
                f"{self.path}: a file, but type 'beir' reads a folder with {CORPUS[0]}; "
                "name the folder, or use type 'jsonl'"
            )
        corpus = corpus_of(path)
        if corpus is None:
            raise NotFound(f"{self.path}: the folder holds no corpus; put {CORPUS[0]} (or .gz) in")
        return corpus


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


def corpus_of(folder: Path) -> Path | None:
    """The corpus of a BEIR folder; None if it has none."""
    return next((folder / name for name in CORPUS if (folder / name).is_file()), None)


def _packed(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{name}{last}" for name in names for last in ("", *COMPRESSIONS))
