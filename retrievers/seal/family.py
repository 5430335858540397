"""What a family of models is asked, so that it writes a text or a title of the collection.

How passages are laid out for a family stands in ``rag.indexers.layout``, which the index shares.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """The prompts of a family of models.

    body, title: what is asked, with ``{question}`` for the question and the space before it.
    value: what is put behind either prompt of a model that was trained to tell its own good
        n-grams ("+") from those that were mined for it, as SEAL's value conditioning does; a
        causal model has none.
    lead: whether a space stands before a question that is not empty, at the start of the prompt
        as elsewhere.
    """

    name: str
    body: str
    title: str
    value: str
    lead: bool

    def prompts(self, question: str, *, value: bool = False) -> tuple[str, str]:
        """The prompts for a text and for a title; those of no question, where it is empty.

        White space around the question does not count.
        """
        asked = question.strip()
        if asked and self.lead:
            asked = " " + asked
        end = self.value if value else ""
        return self.body.format(question=asked) + end, self.title.format(question=asked) + end


FAMILIES = {
    # As the published SEAL models were trained.
    "bart": Family("bart", "{question} || body", "{question} || title", " || +", True),
    # No published model: the same words, and sentencepiece marks the first word itself.
    "t5": Family("t5", "{question} || body", "{question} || title", " || +", False),
    "causal": Family(
        "causal", "Question:{question}\nPassage:", "Question:{question}\nTitle:", "", True
    ),
}
"""By name; the same names as in ``rag.indexers.layout.TITLE_ENDS``."""
