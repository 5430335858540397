"""Which indexes a command line asks for: ``--index``, and the settings given with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import ValidationError

from rag.errors import InvalidInput

if TYPE_CHECKING:
    from rag.collection.kinds import IndexKind

_MISSING = {
    "model": "which model? its tokenizer is needed; add '--model NAME', "
    "such as --model smollm2 or --model facebook/bart-large",
    "encoder": "which encoder? add '--encoder NAME', such as --encoder minilm",
}
_TAKEN_BY = {"model": "ngrams", "encoder": "dense", "factory": "dense"}
"""An index kind that has the setting, for errors."""


def asked_kinds(names: Sequence[str], given: Mapping[str, Sequence[str]]) -> dict[str, IndexKind]:
    """The index kinds that are asked for, by name.

    Args:
        names: a type of index (``dense``), which is its name too, or ``NAME=TYPE``.
        given: values of settings; one goes to all indexes that have the setting, several to one
            index each, in their order.

    Raises:
        InvalidInput: a type or a setting is missing, or one is given that nothing takes.
    """
    from rag import registry

    types: dict[str, str] = {}
    for said in names:
        name, _, type_ = said.rpartition("=")
        name = name or type_
        if name in types:
            raise InvalidInput(
                f"--index {said}: there is an index {name} already; name it: --index NAME={type_}"
            )
        types[name] = type_
    classes = {name: registry.find("indexes", type_) for name, type_ in types.items()}
    fields = {name: getattr(cls, "model_fields", {}) for name, cls in classes.items()}
    for name in types:
        for key, question in _MISSING.items():
            if key in fields[name] and fields[name][key].is_required() and key not in given:
                raise InvalidInput(f"--index {name}: {question}")
    settings: dict[str, dict[str, str]] = {name: {} for name in types}
    for key, values in given.items():
        takers = [name for name in types if key in fields[name]]
        if not takers:
            raise InvalidInput(
                f"--{key} {values[0]}: no index asked for has one; add '--index {_TAKEN_BY[key]}'"
            )
        if len(values) not in (1, len(takers)):
            raise InvalidInput(
                f"--{key} stands there {len(values)} times, and {len(takers)} of the indexes "
                f"asked for take it ({', '.join(takers)}): give one for all, or one for each in "
                "their order"
            )
        wide = [*values] * len(takers) if len(values) == 1 else values
        for name, value in zip(takers, wide, strict=True):
            settings[name][key] = value
    return {name: _made(name, cls, settings[name]) for name, cls in classes.items()}


def _made(name: str, cls: type[IndexKind], settings: Mapping[str, str]) -> IndexKind:
    try:
        return cls(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InvalidInput(f"--index {name}: --{key} {first['input']!r}: {first['msg']}") from None
