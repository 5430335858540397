"""Reading corpora: from files of documents to record batches of passages.

``detect`` (or the ``source:`` key of an index YAML) gives a ``Source``; a ``Reader`` streams it.
The files of this room, in the order that a row passes them:

    settings     Source, Split: which files, how they are read, how documents are cut
    detect       the source that a path looks like; ``walk`` lists the files below a folder
    tasks        published evaluation tasks by name, downloaded as folders of BEIR
    files        one file of a source as rows: which of the next four reads it
    lines        the physical lines of a file, decompressed as a stream
    rows         a line (or, in CSV, a few) to the keys and values of one row
    parquet      the rows of a parquet file
    texts        a text, Markdown or HTML file as one row; ``html_text``; ``office`` for PDF
    documents    a row to a checked document, its fields read by ``values``
    duplicates   has this id been seen before, and where
    split        a document to the spans of its passages; ``sentences`` finds the sentences
    skipped      the file that keeps the rows that could not be read
    reader       all of it together
    ids          the 64-bit hash of an id that collections store
"""

from __future__ import annotations

from rag.sources.detect import detect
from rag.sources.reader import Reader
from rag.sources.settings import Source, Split

__all__ = ["Reader", "Source", "Split", "detect"]
