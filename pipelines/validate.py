"""A node against a pydantic model: what does not fit, in plain words and at its position."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from rag.pipelines.report import Place, Report, joined
from rag.pipelines.yaml_nodes import Node
from rag.stage import reason

Model = TypeVar("Model", bound=BaseModel)

_TYPES = {
    "bool": "true or false",
    "dict": "a mapping",
    "finite_number": "a finite number",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "model": "a mapping",
    "none_required": "null",
    "string": "a text",
    "tuple": "a list",
}
_BOUNDS = {
    "greater_than": ("gt", "a number above {}"),
    "greater_than_equal": ("ge", "at least {}"),
    "less_than": ("lt", "a number below {}"),
    "less_than_equal": ("le", "at most {}"),
    "literal_error": ("expected", "{}"),
    "multiple_of": ("multiple_of", "a multiple of {}"),
    "string_pattern_mismatch": ("pattern", "a text like {}"),
    "string_too_long": ("max_length", "at most {} characters"),
    "string_too_short": ("min_length", "at least {} characters"),
    "too_long": ("max_length", "at most {} items"),
    "too_short": ("min_length", "at least {} items"),
}


@dataclass(frozen=True)
class Spot:
    """Where a mapping stands: its node, the position of the key that it hangs on, and its path."""

    node: Node
    place: Place
    path: str

    def below(self, key: str) -> Spot:
        """The value under a key of the mapping."""
        assert isinstance(self.node.value, dict)
        return Spot(self.node.value[key], self.node.keys[key], joined(self.path, key))


@dataclass(frozen=True)
class _Found:
    """One error of pydantic, with the node it speaks of."""

    spot: Spot
    place: Place
    path: str
    expected: str
    message: str


def validated(model: type[Model], spot: Spot, report: Report) -> tuple[Model | None, set[str]]:
    """The mapping at ``spot`` as a ``model``, or None after reporting everything wrong with it.

    Returns:
        The model, and the keys of the mapping that are wrong (with what is below them).
    """
    errors: list[dict[str, Any]] = []
    for _ in range(2):
        made, errors = _made(model, spot.node.plain())
        # A whole ``${NAME}`` looks like a number, and a text is wanted: it is a text.
        turned = [_as_text(spot, error) for error in errors]
        if not any(turned):
            break
    broken = {key for key, node in _items(spot.node) if _is_broken(node)}
    found = [one for error in errors if (one := _located(model, spot, error)) is not None]
    for one in _merged(found):
        report.add(one.place, one.path, one.message)
    wrong = {str(error["loc"][0]) for error in errors if error["loc"]}
    return (None if errors or broken else made), wrong | broken


def closest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` where one of the ``known`` names is near, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def shown(node: Node) -> str:
    """A value as an error shows it."""
    value = node.value
    if node.raw is not None:
        return f"{node.raw[:60]} with {'text' if isinstance(value, str) else 'a value'} in it"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        what = "list" if isinstance(value, list) else "mapping"
        return f"a {what}" if value else f"an empty {what}"
    if isinstance(value, str):
        return f"the text {value if len(value) <= 60 else value[:57] + '...'!r}"
    return str(value)


def _made(model: type[Model], value: Any) -> tuple[Model | None, list[dict[str, Any]]]:
    try:
        # As strict JSON: a list may become a tuple, but "5" no number and 1 no truth.
        return model.model_validate_json(json.dumps(value), strict=True), []
    except ValidationError as error:
        return None, [dict(one) for one in error.errors(include_url=False)]
    except Exception as error:  # noqa: BLE001 - a plugin's validator raises what it likes
        return None, [{"type": "", "loc": (), "msg": reason(error)}]


def _items(node: Node) -> Iterable[tuple[str, Node]]:
    return node.value.items() if isinstance(node.value, dict) else ()


def _is_broken(node: Node) -> bool:
    return node.broken or any(map(_is_broken, node.children))


def _as_text(spot: Spot, error: dict[str, Any]) -> bool:
    node = _resolved(spot, error["loc"]).node
    if error["type"] != "string_type" or node.text is None or node.value == node.text:
        return False
    node.value = node.text
    return True


def _resolved(spot: Spot, loc: Sequence[str | int]) -> Spot:
    """The deepest spot that ``loc`` leads to.

    Parts that name no key are passed over: pydantic puts the members of a union and the names of
    validators between the keys. And a mapping of one name to settings may have been checked as
    those settings.
    """
    for part in loc:
        value = spot.node.value
        if isinstance(value, list) and isinstance(part, int) and part < len(value):
            spot = Spot(value[part], value[part].place, f"{spot.path}[{part}]")
        elif isinstance(value, dict) and part in value:
            spot = spot.below(str(part))
        elif isinstance(value, dict) and len(value) == 1 and part in dict(_items(*value.values())):
            spot = spot.below(*value).below(str(part))
    return spot


def _located(model: type[BaseModel], spot: Spot, error: dict[str, Any]) -> _Found | None:
    """The error in plain words, or None where it only follows from one reported before."""
    loc, kind = error["loc"], error["type"]
    here = _resolved(spot, loc[:-1] if kind == "missing" else loc)
    if here.node.broken or (kind != "missing" and _is_broken(here.node)):
        return None
    if kind == "extra_forbidden":
        known = _known(model, loc[:-1])
        message = f"unknown key{closest(str(loc[-1]), known)}"
        message += f" (allowed: {', '.join(known)})" if known else ""
        return _Found(here, here.place, here.path, "", message)
    if kind == "unknown_setting":  # the same of a backend, which says what is allowed itself
        return _Found(here, here.place, here.path, "", str(error["msg"]))
    if kind == "missing":
        if loc[-1] in dict(_items(here.node)):
            return None  # it is there, and broken
        message = f"the key is missing{_description(model, loc)}"
        return _Found(here, here.place, joined(here.path, str(loc[-1])), "", message)
    expected = _expected(error)
    message = f"found {shown(here.node)}, expected {expected}"
    if not expected:
        message = _own_words(error)
    elif kind == "literal_error" and isinstance(here.node.value, str):
        message += closest(here.node.value, re.findall("'([^']*)'", expected))
    place = spot.place if here is spot else here.node.place
    return _Found(here, place, here.path, expected, message)


def _expected(error: dict[str, Any]) -> str:
    """What pydantic wanted, or "" where only its own words say it."""
    kind = str(error["type"])
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        limit = error["ctx"][key]
        # "at least 1 items" is no English.
        return words.format(limit).removesuffix("s" if limit == 1 else "")
    if kind == "int_from_float":
        return _TYPES["int"]
    return _TYPES.get(kind, _TYPES.get(kind.removesuffix("_type").removesuffix("_parsing"), ""))


def _own_words(error: dict[str, Any]) -> str:
    raised = error.get("ctx", {}).get("error")
    return str(raised) if isinstance(raised, Exception) else str(error["msg"])


def _merged(found: Sequence[_Found]) -> list[_Found]:
    """One error for each spot: the members of a union each complain of the same value."""
    by_spot: dict[tuple[str, Place], list[_Found]] = {}
    for one in found:
        by_spot.setdefault((one.path, one.place), []).append(one)
    merged = []
    for (path, _), several in by_spot.items():
        deeper = any(other.startswith((f"{path}.", f"{path}[")) for other, _ in by_spot)
        first = several[0]
        if deeper and first.expected:
            continue  # the value has the shape of another member, which complains further down
        if len(several) > 1 and all(one.expected for one in several):
            words = " or ".join(dict.fromkeys(one.expected for one in several))
            message = f"found {shown(first.spot.node)}, expected {words}"
        else:
            message = "; ".join(dict.fromkeys(one.message for one in several))
        merged.append(_Found(first.spot, first.place, path, "", message))
    return merged


def _known(model: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    inner = _inner(model, loc)
    return sorted(inner.model_fields) if inner is not None else []


def _inner(model: type[BaseModel], loc: Sequence[str | int]) -> type[BaseModel] | None:
    """The model that checks the mapping at ``loc``, where plain fields lead there."""
    for part in loc:
        field = model.model_fields.get(str(part))
        types = get_args(field.annotation) or (field.annotation,) if field is not None else ()
        models = [t for t in types if isinstance(t, type) and issubclass(t, BaseModel)]
        if len(models) != 1 or any(t not in (NoneType, models[0]) for t in types):
            return None
        model = models[0]
    return model


def _description(model: type[BaseModel], loc: Sequence[str | int]) -> str:
    inner = _inner(model, loc[:-1])
    field = inner.model_fields.get(str(loc[-1])) if inner is not None else None
    return f": {field.description}" if field is not None and field.description else ""
