from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.sources.sentences import sentence_spans


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


@pytest.mark.parametrize(
    "expected",
    [
        ["It rained.", "He left."],
        ["What?!", "No!", "Why?"],
        ["no capitals here.", "still two sentences."],
        ["Mr. Smith met Dr. Jones and Mrs. Hall.", "They spoke."],
        ["J. R. R. Tolkien wrote it.", "T. S. Eliot did not."],
        ["Use e.g. Paris, i.e. a city.", "Or not."],
        ["The U.S. Army left the U.S. by sea.", "It was over."],
        ["He lives in the U.S.", "The weather is fine."],
        ["At 3 p.m. we met.", "At 5 p.m.", "She left."],
        ["Vitamin C.", "The rest."],
        ["It cost $3.50 or 1.000,25.", "Version 2.0.1 is out."],
        ["It ended in 1990.", "Paris won."],
        ["Section 5.", "Paris."],
        ["See Fig. 3 and No. 5, vol. 2, pp. 3.", "Done."],
        ["Apples, pears, etc. are fruit.", "Nuts, etc.", "Those are not."],
        ["Acme Inc. was founded on Jan. 5.", "Acme Inc.", "That is all."],
        ["Many spp. are known.", "He climbed Mt. Everest."],
        ['"Really?" she asked.', '"Yes!"', '"Go."', "He went."],
        ["He left (quickly.)", "(So did she.)", "“Ah.”", "«Oh.»"],
        ["Well... maybe.", "Well… maybe.", "Well...", "Then no."],
        ["A fact.[12]", "Another.[3][4]", "A third."],
        ["1. First item.", "2. Second item."],
        ["See http://x.org/a.html?b=1.2 for more.", "Mail a.b@c.de now."],
        ["A heading", "A paragraph\nover two lines.", "Another\r\none."],
        ["क्या यह ठीक है।", "हाँ।", "هل هذا؟", "Это г. Москва."],
    ],
)
def test_sentences_are_found(expected: list[str]) -> None:
    paragraphs = any(text[-1] not in '.!?।؟…”»])"' for text in expected)
    assert sentences(("\n \n" if paragraphs else " ").join(expected)) == expected


def test_chinese_and_japanese_need_no_spaces() -> None:
    assert sentences("他说：「好。」然后走了。真的！？是的") == [
        "他说：「好。」",
        "然后走了。",
        "真的！？",
        "是的",
    ]


@pytest.mark.parametrize("text", ["", " ", "\n\n \u2029\t"])
def test_whitespace_has_no_sentences(text: str) -> None:
    assert sentence_spans(text) == []


@pytest.mark.parametrize("text", ["x", ".", "...", "no stop", "Mr.", "1.", "“", "e.g."])
def test_a_text_without_an_inner_end_is_one_sentence(text: str) -> None:
    assert sentences(f" {text}\n") == [text]


def test_a_blank_line_ends_what_no_stop_would() -> None:
    assert sentences("Dear Mr.\n\nSmith") == ["Dear Mr.", "Smith"]
    assert sentences('"Why?"\r\n\r\nshe') == ['"Why?"', "she"]


alphabet = st.sampled_from("aZ1é字 .!?…。」\"'()[]\n\r\t\u2029\u3000#")


@given(text=st.text(alphabet, max_size=80) | st.text(max_size=80))
def test_spans_are_ordered_trimmed_and_cover_all_but_whitespace(text: str) -> None:
    end_before = 0
    for start, end in sentence_spans(text):
        assert not text[end_before:start].strip()
        assert text[start:end] == text[start:end].strip() != ""
        end_before = end
    assert not text[end_before:].strip()


@pytest.mark.parametrize(
    "unit", ["a", ".", ".)", "\n", "\n ", ". ", "? [1", "a. ", '"', "\n\n.", "。", "[1]", "A."]
)
def test_time_is_linear_in_hostile_texts(unit: str) -> None:
    text = unit * (60_000 // len(unit))
    before = time.process_time()
    sentence_spans(text)
    assert time.process_time() - before < 2  # quadratic would take minutes
