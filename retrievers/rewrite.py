"""The stage ``rewrite``: a text made of columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from rag.errors import InvalidInput
from rag.retrievers.template import Template
from rag.stage import Columns, Context, Run, Stage, Step

if TYPE_CHECKING:
    from rag.batch import Batch


class Rewrite(Stage, name="rewrite"):
    """Write a text made of other columns, by default as the query of the retrievers that follow.

    ``{name}`` in the template is the text of that column in the row, ``{{`` and ``}}`` are braces,
    and there is nothing more: a name with a dot or a colon is a column of that name. A row in which
    one of the columns is null gets null. The columns must hold texts (``question``, ``answer``).
    """

    template: str = Field(description="The text, with {column} for the text of a column.")
    into: str = Field(
        "query",
        description="The column written: query gets a list of this one text, any other the text.",
    )

    @field_validator("template")
    @classmethod
    def _names_columns(cls, template: str) -> str:
        if not Template(template).names:
            raise InvalidInput(
                f"{template!r} names no column, so that all rows would get the same text; "
                "write {question} for the question"
            )
        return template

    def columns(self, have: Columns) -> Columns:
        """Needs the columns that the template names, as texts; writes a text or the query."""
        names = Template(self.template).names
        kind = "texts" if self.into == "query" else "str"
        return have.need(*names, type="str").put(**{self.into: kind})

    def open(self, context: Context) -> Step:
        """Nothing to open."""
        template = Template(self.template)

        def step(batch: Batch, run: Run) -> Batch:
            columns = [batch[name] for name in template.names]
            made = [
                None if None in row else template.fill(dict(zip(template.names, row, strict=True)))
                for row in zip(*columns, strict=True)
            ]
            if self.into == "query":
                return batch.put(query=[None if text is None else (text,) for text in made])
            return batch.put(**{self.into: made})

        return step
