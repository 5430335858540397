"""The physical lines of a file, plain or compressed, as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa

from rag.errors import BadRow, Damaged, InvalidInput
from rag.sources.settings import COMPRESSIONS

CHUNK = 1 << 20
"""Bytes decompressed at a time."""

UTF8_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
MAGIC = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst", b"BZh": ".bz2"}


class Lines:
    r"""Iterate it once: yields ``(number, line)``, the number from 1, the line without ``\n``.

    Only ``\n`` ends a line (a ``\r`` before it stays), so that numbers agree with editors and
    with ``sed -n 7p``, and a Unicode line separator inside a text does no harm. A UTF-8 byte order
    mark is dropped. Memory is bounded by the longest line.

    Attributes:
        total: Size of the file in bytes, as stored.
        position: How many of them have been read.

    Raises:
        Damaged: The compressed data ends early or cannot be decompressed.
        BadRow: The file is UTF-16.
        InvalidInput: The data is compressed and the name does not say so.
    """

    def __init__(self, path: Path, name: str) -> None:
        """Read ``path``; messages call it ``name``."""
        self._path, self._name = path, name
        self.total = path.stat().st_size
        self.position = 0
        self._compression = COMPRESSIONS.get(path.suffix.lower())

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        number = 1
        pending: list[bytes] = []  # the parts of a line that spans chunks: joined once
        try:
            for chunk in self._chunks():
                head, *others = chunk.split(b"\n")
                pending.append(head)
                for other in others:
                    yield number, b"".join(pending)
                    number += 1
                    pending = [other]
        except pa.ArrowException as error:
            raise self._damaged(number, error) from error
        except OSError as error:
            if error.errno is not None or isinstance(error, Damaged):
                raise  # the disk failed, not the data
            raise self._damaged(number, error) from error
        if last := b"".join(pending):
            yield number, last

    def whole(self) -> bytes:
        """All bytes of the file, decompressed, without its mark; it raises what iterating does."""
        try:
            return b"".join(self._chunks())
        except pa.ArrowException as error:
            raise self._damaged(1, error) from error
        except OSError as error:
            if error.errno is not None or isinstance(error, Damaged):
                raise
            raise self._damaged(1, error) from error

    def _chunks(self) -> Iterator[bytes]:
        with ExitStack() as stack:
            file = stack.enter_context(pa.OSFile(str(self._path), "rb"))
            stream = file
            if self._compression is not None:
                stream = stack.enter_context(pa.CompressedInputStream(file, self._compression))
                if self.total == 0:
                    raise Damaged(f"{self._name}: 0 bytes, not even an empty archive")
            first = True
            while chunk := stream.read(CHUNK):
                self.position = file.tell()
                yield self._start(chunk) if first else chunk
                first = False

    def _start(self, chunk: bytes) -> bytes:
        """The first chunk without its byte order mark."""
        if chunk.startswith(UTF16_MARKS):
            fix = "save the file as UTF-8 (iconv -f UTF-16 -t UTF-8)"
            raise BadRow(self._name, 1, "row", "the byte order mark of UTF-16", fix)
        for magic, suffix in MAGIC.items():
            if chunk.startswith(magic):
                raise InvalidInput(
                    f"{self._name}: holds {COMPRESSIONS[suffix]} data and is not named so; "
                    f"rename it to end in {suffix}"
                )
        return chunk.removeprefix(UTF8_MARK)

    def _damaged(self, number: int, error: Exception) -> Damaged:
        return Damaged(
            f"{self._name}: the {self._compression} data ends early or is damaged in line {number} "
            f"({error}); no row from there on can be read, so fetch or compress the file again"
        )
