"""The tokenizer against ``re`` and ``str.lower`` of the running Python."""

from __future__ import annotations

import re
import sys
import unicodedata
from itertools import chain

import bm25s
import numpy as np
import pyarrow as pa
import pytest
import Stemmer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rag.errors import InvalidInput
from rag.indexers import make_unicode, tokenizer
from rag.indexers.tokenizer import Tokenizer

PLAIN = Tokenizer("none", "none")
WORDS = re.compile(r"(?u)\b\w\w+\b")


def known() -> str:
    """Characters that the running Python treats as the frozen table does."""
    table = tokenizer._table()[0]
    points = np.arange(0x110000)
    flags = table.flags[table.flag_pages[points >> 8], points & 255]
    deltas = table.deltas[table.delta_pages[points >> 8], points & 255]
    word = re.compile(r"\w")
    return "".join(
        char
        for char, flag, delta in zip(map(chr, range(0x110000)), flags, deltas, strict=True)
        if not 0xD800 <= ord(char) < 0xE000
        and unicodedata.category(char) != "Cn"
        and (flag & 1) == bool(word.match(char))
        and (char == "İ" or char.lower() == chr(ord(char) + delta))
    )


KNOWN = known()
# Mostly the characters at which rules turn, so that short texts meet them.
CHARS = st.one_of(
    st.sampled_from("aBz09_ .-'’ΣσςΑİIıßǅȺ·\u0307\u0301\u00ad\u200bé中😀𝒜𐐀"), st.sampled_from(KNOWN)
)


def test_most_of_unicode_is_known() -> None:
    assert len(KNOWN) > 280_000 - 140_000 * (unicodedata.unidata_version < "14")


@settings(max_examples=400, deadline=None)
@given(st.lists(st.text(CHARS, max_size=12), max_size=5))
@example(
    ["ΑΣ", "ΑΣ.", "Α.Σ", "ΑΣ'Α", "ΑΣ' Α", "Σ", "ΣΣ", "ΑΣ\u0301", "ΑΣ\u0301Α", "\u0301Σ", "ΑΣİ"]
)
@example(["İ", "İİ", "aİ", "İa", "aİbİc", "xİI", "İstanbul"])
@example(["", "a", "ab", " ab", "ab ", "a_", "__", "a b", "Ⱥ" * 30, "x" * 5000])
def test_tokens_equal_re_findall_on_lowered_text(texts: list[str]) -> None:
    assert PLAIN.tokens(texts) == [WORDS.findall(text.lower()) for text in texts]


@pytest.mark.skipif(
    tokenizer.unicode_version() != unicodedata.unidata_version, reason="another Unicode version"
)
def test_shipped_table_is_what_the_script_makes() -> None:
    made = make_unicode.table()
    assert ".".join(map(str, made.pop("version"))) == tokenizer.unicode_version()
    for name, array in made.items():
        np.testing.assert_array_equal(array, getattr(tokenizer._table()[0], name))


def test_many_distinct_terms_grow_the_tables() -> None:
    words = [f"w{i:x}" for i in range(30_000)]
    texts = [" ".join(words[i : i + 100]) for i in range(0, len(words), 100)]
    assert list(chain.from_iterable(PLAIN.tokens(texts))) == words


@pytest.mark.parametrize("stemmer", ["none", "porter", "english", "german"])
def test_terms_equal_those_of_bm25s(stemmer: str) -> None:
    texts = [
        "The runners were running to their relational databases",
        "Die Häuser der Universitäten; and it is not such a thing",
        "",
        "to be or not to be",
    ]
    theirs = bm25s.tokenize(
        texts,
        stopwords="en",
        stemmer=None if stemmer == "none" else Stemmer.Stemmer(stemmer),
        return_ids=False,
        show_progress=False,
    )
    assert Tokenizer(stemmer, "english").tokens(texts) == theirs


def test_terms_are_sorted_and_slices_and_nulls_are_read_right() -> None:
    texts = pa.array(["skipped", "beta alpha", None, "alpha"], pa.large_string())[1:]
    ends, ids, names = PLAIN.terms(texts)
    assert names == ["alpha", "beta"]
    assert (ends.tolist(), ids.tolist()) == ([0, 2, 2, 3], [1, 0, 0])


def test_broken_utf8_and_half_surrogates_do_no_harm() -> None:
    data = b"ab\xff cd\xe4\xb8 ef\xf4"
    array = pa.Array.from_buffers(
        pa.large_string(), 1, [None, pa.py_buffer(np.array([0, len(data)])), pa.py_buffer(data)]
    )
    ends, ids, names = PLAIN.terms(array)
    assert len(ids) == ends[-1] and "ab" in names
    assert PLAIN.tokens(["one\ud800two"]) == [["one", "two"]]


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidInput, match="1 is no text"):
        PLAIN.tokens([1])  # type: ignore[list-item]
    with pytest.raises(InvalidInput, match="is one text"):
        PLAIN.tokens("one text")


def test_importing_the_room_loads_nothing_heavy() -> None:
    import subprocess

    code = "import sys, rag.indexers; print([m for m in ('numpy', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@settings(max_examples=300, deadline=None)
@given(st.text(CHARS, max_size=20))
@example("İİ aİb İstanbul xİ.")
@example("ΑΣ ΑΣ'Α ǅungla Ⱥb 😀a😀bc 𐐀𐐀 é")
@example("a\ud800bc")
def test_words_are_the_tokens_and_stand_where_they_say(text: str) -> None:
    words = PLAIN.words(text)
    assert [word.text for word in words] == PLAIN.tokens([text])[0]
    assert [word.term for word in words] == [word.text for word in words]
    last = 0
    for word in words:
        assert last <= word.start < word.end <= len(text)
        last = word.end
        # A final sigma and a dotted I look beyond the word; all else is the word's own.
        own = text[word.start : word.end].replace("İ", "i").lower().replace("ς", "σ")
        assert own == word.text.replace("ς", "σ")


def test_words_keep_stop_words_and_have_the_terms_of_the_stemmer() -> None:
    words = Tokenizer("porter", "english").words("The runners RUNNING, a b")
    assert [(w.start, w.end, w.text, w.term) for w in words] == [
        (0, 3, "the", None), (4, 11, "runners", "runner"), (12, 19, "running", "run"),
    ]  # fmt: skip
