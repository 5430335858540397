r"""Write ``unicode.npz``, the frozen table of word characters and lower case.

    python -m rag.indexers.make_unicode

The table is made once from one Python's ``str`` and ``re``, and then belongs to the index format:
another Python, with another Unicode version, makes the same tokens from it. To renew it is to
raise ``Lexical.format``.

Arrays, all plain:

    version      (3,) int64     Unicode's version, as 15.0.0
    delta_pages  (4352,) uint8  page of ``deltas`` for the code points c with c >> 8 = index
    deltas       (n, 256) int32 lower(c) - c, 0 where c has no lower case
    flag_pages   (4352,) uint8  page of ``flags``
    flags        (n, 256) uint8 1: matches \w, 2: cased, 4: case-ignorable
"""

from __future__ import annotations

import re
import sys
import unicodedata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WORD, CASED, IGNORABLE = 1, 2, 4
DOTTED_I = 0x130
"""The only character whose lower case is two characters; the tokenizer treats it by name."""

POINTS = 0x110000


def table() -> dict[str, NDArray[np.generic]]:
    """The arrays of the module's docstring, from the running Python."""
    word = re.compile(r"\w")
    deltas = np.zeros(POINTS, np.int32)
    flags = np.zeros(POINTS, np.uint8)
    for code in range(POINTS):
        char = chr(code)
        lower = char.lower()
        if len(lower) == 1:
            deltas[code] = ord(lower) - code
        elif code != DOTTED_I:
            raise ValueError(f"U+{code:04X} has a lower case of {len(lower)} characters")
        # Whether a character is cased or case-ignorable is not exposed; the rule for a final
        # sigma shows both: "Σ" becomes "ς" after a cased character and before none, looking
        # past ignorable ones. A character that is both counts as ignorable, here and in str.
        cased = ("A" + "Σ" + char).lower()[1] == "σ"
        skipped = ("A" + char + "Σ").lower()[-1] == "ς" and ("." + char + "Σ").lower()[-1] == "σ"
        flags[code] = WORD * bool(word.match(char)) + CASED * cased + IGNORABLE * skipped
    pages: dict[str, NDArray[np.generic]] = {}
    pages["version"] = np.array([int(n) for n in unicodedata.unidata_version.split(".")])
    pages["delta_pages"], pages["deltas"] = _fold(deltas)
    pages["flag_pages"], pages["flags"] = _fold(flags)
    return pages


def _fold(values: NDArray[np.generic]) -> tuple[NDArray[np.uint8], NDArray[np.generic]]:
    """``values`` (POINTS,) as page numbers (POINTS / 256,) and the distinct pages (n, 256)."""
    pages, index = np.unique(values.reshape(-1, 256), axis=0, return_inverse=True)
    return index.reshape(-1).astype(np.uint8), pages


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("unicode.npz"), **table())  # type: ignore[arg-type]
    sys.stdout.write(f"Unicode {unicodedata.unidata_version}\n")
