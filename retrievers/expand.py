"""The stage ``expand``: a language model writes more queries for a question."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from rag.backend import Reply, replies
from rag.backend_setting import BackendSetting
from rag.errors import BackendFailed, InvalidInput
from rag.retrievers.template import Template
from rag.stage import Columns, Context, Run, Stage, Step

if TYPE_CHECKING:
    from rag.batch import Batch

PROMPT = (
    "Write {n} search queries that could find the answer to the question below. "
    "Use other words than the question. Write one query a line and nothing else.\n\n"
    "Question: {question}"
)

_MARK = re.compile(r"^\s*(?:[-*+•–—]|\(?\d{1,2}[.):])\s+")
"""What models put before a line of a list: ``- ``, ``2. ``, ``(2) ``."""
_QUOTED = re.compile(r"""^["'“«]([^"“”«»]*)["'”»]$""")
"""A line that is one quotation; quotes inside a query (a phrase) stay."""


class Expand(Stage, name="expand"):
    """Let a language model write queries, which the retrievers that follow search all together.

    A retriever merges what the queries of a question find (its key ``merge``). With ``n`` of 2 or
    more each line of the reply is a query: bullets, numbers and quotes around it are stripped; what
    was there already, but for case and spaces, is dropped, and so is a line that ends with a colon
    or that ``max_tokens`` has cut. Fewer than ``n`` may be left. With ``n: 1`` the whole reply is
    the query, so that a passage written as if it answered the question can be searched for (HyDE,
    Gao et al., ACL 2023).

    With ``temperature: 0`` the queries repeat as far as the backend's answers do. A row whose text
    is null gets null. A row for which the model writes no query fails.
    """

    of: str = Field("question", description="The column of texts to expand.")
    into: str = Field("query", description="The column that the queries are written to.")
    backend: BackendSetting = Field(
        description="What runs the model: a backend's name with its settings."
    )
    prompt: str = Field(
        PROMPT, description="What the model reads; {question} is the text, {n} the number."
    )
    n: int = Field(3, gt=0, le=50, description="The most queries that the model may add.")
    include_question: bool = Field(True, description="Search the text itself too, as the first.")
    max_tokens: int = Field(256, gt=0, description="The most tokens of a reply.")
    temperature: float = Field(0.0, ge=0, description="0: always the most probable token.")

    @field_validator("prompt")
    @classmethod
    def _holds_the_question(cls, prompt: str) -> str:
        names = Template(prompt).names
        unknown = sorted({*names} - {"question", "n"})
        if unknown:
            raise InvalidInput(
                f"{{{unknown[0]}}} is nothing that a prompt can hold; expected {{question}} or "
                "{n}, and {{ or }} for a brace itself"
            )
        if "question" not in names:
            raise InvalidInput("the prompt does not hold the question; write {question} in it")
        return prompt

    def columns(self, have: Columns) -> Columns:
        """Needs a text, writes queries."""
        return have.need(self.of, type="str").put(**{self.into: "texts"})

    def open(self, context: Context) -> Step:
        """Open the backend."""
        session = self.backend.open(context)
        template = Template(self.prompt)

        def step(batch: Batch, run: Run) -> Batch:
            given = {row: text for row, text in enumerate(batch[self.of]) if text is not None}
            prompts = [template.fill({"question": q, "n": str(self.n)}) for q in given.values()]
            written = replies(
                session,
                [[{"role": "user", "content": prompt}] for prompt in prompts],
                list(given),
                run,
                listens=False,
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                stop=(),
                seed=run.seed,
            )
            made: list[tuple[str, ...] | None] = [None] * len(batch)
            for (row, question), reply in zip(given.items(), written, strict=True):
                try:
                    made[row] = self._queries(question, reply)
                except Exception as error:  # noqa: BLE001 - a session hands back what went wrong
                    run.fail(row, error)
            return batch.put(**{self.into: made})

        return step

    def _queries(self, question: str, reply: Reply | Exception) -> tuple[str, ...]:
        """The queries of one row; raises what the session found, or that there is no query."""
        if isinstance(reply, Exception):
            raise reply
        written = [reply.text.strip()] if self.n == 1 else lines(reply)
        new: dict[str, str] = {}
        for text in filter(None, written):
            new.setdefault(_folded(text), text)
        if not new:
            raise BackendFailed(
                f"{self.backend.label} wrote no query: {reply.text[:200]!r}; change 'prompt', or "
                f"raise 'max_tokens' (now {self.max_tokens})"
            )
        if not self.include_question:
            return tuple(new.values())[: self.n]
        new.pop(_folded(question), None)
        return (question, *new.values())[: self.n + 1]


def lines(reply: Reply) -> list[str]:
    """The queries of a reply, one a line, without what lists have around their items."""
    found = reply.text.strip().splitlines()
    if reply.finish == "length":
        found = found[:-1]  # max_tokens has cut the last one somewhere
    bare = [_MARK.sub("", line).strip() for line in found]
    return [_QUOTED.sub(r"\1", line) for line in bare if not line.endswith(":")]


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
