"""The stage ``generate``: a language model answers from the passages, with citations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pydantic import Field

from rag.backend import Reply, Session, replies
from rag.backend_setting import BackendSetting
from rag.errors import RagError
from rag.readers.prompt import INSTRUCTION
from rag.stage import Columns, Context, Run, Stage, Step

if TYPE_CHECKING:
    from rag.batch import Batch
    from rag.readers.passages import Passage
    from rag.readers.prompt import Prompt


class Generate(Stage, name="generate"):
    """Let a language model answer from the best passages.

    The answer stands as the model wrote it, less the markers that name no passage. Its ``[n]``
    markers become citations (``rag.readers.cite.citations``); a small model often writes none, and
    then the passages that hold the words of its sentences are cited (``rag.readers.cite.support``).

    Besides the answer it writes ``citations``; ``prompt``, what the model read; ``confidence``, the
    mean probability of the answer's tokens, or null where the backend gives none; and ``route``,
    which names the model and whatever else happened: ``generate: smollm2; citations by sentence
    match; dropped [7]; 2 passages over the budget; cut at 128 tokens``. A row without passages is
    not answered. A row that the backend fails, or whose best passage is over the budget, fails
    alone.

    A backend that writes piece by piece is listened to (event ``token``, as the model writes it)
    and stopped between two tokens where a row is cancelled or its time has ended.
    """

    of: str = Field("documents", description="The ranking whose passages are read.")
    into: str = Field("answer", description="The column that the answer is written to.")
    backend: BackendSetting = Field(
        description="What runs the model: a backend's name with its settings."
    )
    passages: int = Field(5, gt=0, description="The most passages in a prompt, best first kept.")
    budget: int = Field(1200, gt=0, description="The most tokens of a prompt.")
    max_tokens: int = Field(128, gt=0, description="The most tokens of an answer.")
    temperature: float = Field(0.0, ge=0, description="0: always the most probable token.")
    stop: tuple[str, ...] = Field((), description="Texts that end an answer.")
    instruction: str = Field(INSTRUCTION, description="What the model is told to do.")

    def columns(self, have: Columns) -> Columns:
        """Needs a ranking; writes the answer and where it came from."""
        kinds = {self.into: "str", "citations": "citations", "prompt": "str"}
        return have.need(self.of, type="ranking").put(**kinds, confidence="float", route="str")

    def open(self, context: Context) -> Step:
        """Open the backend."""
        session = self.backend.open(context)

        def step(batch: Batch, run: Run) -> Batch:
            prompts = self._prompts(batch, run, session)
            rows = [row for row, prompt in enumerate(prompts) if prompt and prompt.given]
            made = replies(
                session,
                [prompt.messages for prompt in prompts if prompt and prompt.given],
                rows,
                run,
                listens=True,
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                stop=self.stop,
                seed=run.seed,
            )
            written = [self._unanswered(prompt) for prompt in prompts]
            for row, reply in zip(rows, made, strict=True):
                if isinstance(reply, Exception):
                    run.fail(row, reply)
                else:
                    written[row] = self._answered(prompts[row], reply)
            names = (self.into, "citations", "prompt", "confidence", "route")
            columns = zip(*written, strict=True) if written else ((),) * len(names)
            return batch.put(**dict(zip(names, columns, strict=True)))

        return step

    def _prompts(self, batch: Batch, run: Run, session: Session) -> list[Prompt | None]:
        """The prompt of each row; None where there can be none, which fails the row."""
        from rag.readers.passages import passages
        from rag.readers.prompt import prompt

        def made(row: int, question: str, given: list[Passage]) -> Prompt | None:
            try:
                return prompt(
                    question,
                    given,
                    instruction=self.instruction,
                    budget=self.budget,
                    count=session.count,
                )
            except RagError as error:
                run.fail(row, error)
                return None

        rows = zip(batch["question"], passages(batch[self.of], self.passages), strict=True)
        return [made(row, question, given) for row, (question, given) in enumerate(rows)]

    def _unanswered(self, prompt: Prompt | None) -> tuple[Any, ...]:
        route = f"generate: {self.backend.label}"
        text = None
        if prompt is not None and prompt.given:
            text = prompt.text
        elif prompt is not None:
            route = "generate: no passages, so the model was not asked"
        return None, (), text, None, route

    def _answered(self, prompt: Prompt | None, reply: Reply) -> tuple[Any, ...]:
        from rag.readers.cite import citations, support

        assert prompt is not None
        notes = [f"generate: {self.backend.label}"]
        text, cited, unknown = citations(reply.text, prompt.given)
        if not cited:
            cited = support(text, prompt.given)
            notes += ["citations by sentence match"] if cited else ["no citations"]
        if unknown:
            notes.append("dropped " + "".join(f"[{n}]" for n in unknown))
        if prompt.left_out:
            what = "1 passage" if prompt.left_out == 1 else f"{prompt.left_out} passages"
            notes.append(f"{what} over the budget")
        if reply.finish == "length":
            notes.append(f"cut at {self.max_tokens} tokens")
        return text, cited, prompt.text, _confidence(reply), "; ".join(notes)


def _confidence(reply: Reply) -> float | None:
    """The mean probability of the tokens of a reply, where it is known."""
    if not reply.logprobs:
        return None
    return math.fsum(map(math.exp, reply.logprobs)) / len(reply.logprobs)
