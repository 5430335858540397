"""Texts with named gaps: ``{name}`` is replaced, ``{{`` and ``}}`` are braces, nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping

from rag.errors import InvalidInput

_TOKEN = re.compile(r"(?P<brace>\{\{|\}\})|\{(?P<name>[^{}]+)\}|(?P<lone>[{}])")


class Template:
    """A text whose gaps name values, as in ``"{question} {answer}"``.

    A name is looked up as it is written: a dot, a bracket, ``!`` or ``:`` in it is a part of the
    name, so that a template can reach nothing but the values it is given. What is filled in is not
    read again.

    Args:
        text: the template.

    Raises:
        InvalidInput: a brace opens or closes nothing; the message gives its place.
    """

    def __init__(self, text: str) -> None:
        """Split the text at its gaps."""
        self._literals, self.names = [""], list[str]()
        at = 0
        for token in _TOKEN.finditer(text):
            self._literals[-1] += text[at : token.start()] + (token["brace"] or "")[:1]
            at = token.end()
            if token["lone"]:
                raise InvalidInput(
                    f"{text!r}: the {token['lone']!r} at character {token.start() + 1} belongs to "
                    "no {name}; write {{ or }} for a brace itself"
                )
            if token["name"]:
                self.names.append(token["name"])
                self._literals.append("")
        self._literals[-1] += text[at:]

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with every gap filled; ``values`` holds all ``names``."""
        gaps = (values[name] for name in self.names)
        pairs = zip(self._literals[1:], gaps, strict=True)
        return self._literals[0] + "".join(gap + literal for literal, gap in pairs)
