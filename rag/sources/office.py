"""PDF and office files through Haystack's converters, which the extra ``haystack`` installs."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from rag.errors import BadRow, MissingExtra

_CONVERTERS = {
    ".pdf": ("pypdf", "PyPDFToDocument", "pypdf"),
    ".docx": ("docx", "DOCXToDocument", "docx"),
    ".pptx": ("pptx", "PPTXToDocument", "pptx"),
    ".xlsx": ("xlsx", "XLSXToDocument", "openpyxl"),
}
"""The suffix to a module of ``haystack.components.converters``, its class, what that imports."""


def office_text(path: Path, suffix: str, name: str) -> str:
    """The text of a file, as the converter for its ``suffix`` gives it with its default settings.

    Pages stand between form feeds; the sheets of a workbook are CSV between blank lines.

    Raises:
        MissingExtra: Haystack, or what the converter needs, is not installed.
        BadRow: The converter could not read the file, or found no text; messages call it ``name``.
        OSError: The file cannot be opened.
    """
    with path.open("rb"):  # the converter would turn this error into a warning
        pass
    with _warnings() as warned:
        documents = _converter(suffix).run(sources=[path])["documents"]
    texts = [document.content for document in documents if document.content]
    if not documents:
        # Haystack logs what failed and gives nothing back.
        reason = warned[-1] if warned else "the converter gave nothing"
        fix = "see that the file opens elsewhere and has no password"
        raise BadRow(name, 1, "file", f"cannot be converted: {reason[:300]}", fix)
    text = "\n\n".join(texts)
    if not text.strip():
        fix = "run text recognition (OCR) over it first, or take the file out"
        raise BadRow(name, 1, "text", "no text in it, as in a scan", fix)
    return text


@cache
def _converter(suffix: str) -> Any:
    module, cls, needs = _CONVERTERS[suffix]
    os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")
    try:
        found = importlib.import_module(f"haystack.components.converters.{module}")
    except ImportError as error:
        raise MissingExtra("haystack", "haystack") from error
    try:
        return getattr(found, cls)()
    except ImportError as error:
        raise MissingExtra("haystack", needs) from error


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What the converters log meanwhile, in place of the terminal."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, keep = logging.getLogger("haystack.components.converters"), Keep()
    before = logger.propagate
    logger.addHandler(keep)
    logger.propagate = False
    try:
        yield messages
    finally:
        logger.removeHandler(keep)
        logger.propagate = before
