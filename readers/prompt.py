"""What a generating model reads: an instruction, numbered passages, the question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rag.errors import InvalidInput
from rag.readers.passages import Passage

INSTRUCTION = (
    "Answer the question from the numbered passages, in one short sentence. "
    "After the sentence write the number of the passage that it rests on, as in [1]. "
    "If the passages do not hold the answer, say that they do not."
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: its text, the passages in it, and how many did not fit."""

    text: str
    given: tuple[Passage, ...]
    left_out: int

    @property
    def messages(self) -> list[dict[str, str]]:
        """The prompt as a conversation of one message.

        Not every chat template has a place for a system message, and a small model keeps closer
        to an instruction that stands with the question.
        """
        return [{"role": "user", "content": self.text}]


def prompt(
    question: str,
    passages: Sequence[Passage],
    *,
    instruction: str,
    budget: int,
    count: Callable[[str], int],
) -> Prompt:
    """The prompt of one question, with the passages numbered from 1 in reading order.

    While the parts have more than ``budget`` tokens by ``count``, the passage with the lowest
    score is left out whole (the later of equals), so that no passage is cut. The few tokens that
    a model's chat template adds are not counted.

    Raises:
        InvalidInput: not even the best passage fits.
    """
    tail = f"Question: {question}"
    fixed = count(instruction) + count(tail)
    sizes = [count(_block(number, passage)) for number, passage in enumerate(passages, 1)]
    kept = list(range(len(passages)))
    while kept and fixed + sum(sizes[at] for at in kept) > budget:
        kept.remove(min(kept, key=lambda at: (passages[at].score, -at)))
    if passages and not kept:
        best = max(range(len(passages)), key=lambda at: (passages[at].score, -at))
        raise InvalidInput(
            f"the prompt has a budget of {budget} tokens, but instruction and question take "
            f"{fixed} and the best passage ({passages[best].id!r}) {sizes[best]}; raise 'budget', "
            "or split the passages shorter"
        )
    given = tuple(passages[at] for at in kept)
    blocks = [_block(number, passage) for number, passage in enumerate(given, 1)]
    head = [instruction] if instruction else []
    return Prompt("\n\n".join([*head, *blocks, tail]), given, len(passages) - len(given))


def _block(number: int, passage: Passage) -> str:
    head = f"[{number}] {passage.title}".rstrip()
    return f"{head}\n{passage.text}"
