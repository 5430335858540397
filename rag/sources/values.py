"""The values of a row: read as the type of a declared field, and named in a message."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from rag.passages import FieldType


def _str(value: Any) -> str:
    if type(value) is not str:
        raise ValueError
    return value


def _int(value: Any) -> int:
    if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
        raise ValueError
    return value


def _float(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError
    return value


_INT_CELL = re.compile(r"[+-]?[0-9]{1,20}")
_FLOAT_CELL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def _int_cell(value: str) -> int | None:
    if value and not _INT_CELL.fullmatch(value):
        raise ValueError
    return _int(int(value)) if value else None


def _float_cell(value: str) -> float | None:
    if value and not _FLOAT_CELL.fullmatch(value):  # float() takes "nan" and "1_0" too
        raise ValueError
    return _float(float(value)) if value else None


def _bool_cell(value: str) -> bool | None:
    if value and value.lower() not in ("true", "false"):
        raise ValueError
    return value.lower() == "true" if value else None


JSON: dict[FieldType, Callable[[Any], Any]] = {
    "str": _str,
    "int": _int,
    "float": _float,
    "bool": _bool,
}
"""How a value of JSON is read; ``ValueError`` or ``OverflowError`` where it is none."""

CELL: dict[FieldType, Callable[[Any], Any]] = {
    "str": _str,
    "int": _int_cell,
    "float": _float_cell,
    "bool": _bool_cell,
}
"""How a cell of CSV or TSV is read; an empty one is None, except as a str."""

WANTED: dict[FieldType, str] = {
    "str": "a string",
    "int": "an integer of 64 bits",
    "float": "a finite number",
    "bool": "true or false",
}
"""What a field of each type asks for, for messages."""


def what(value: Any) -> str:
    """A value of a row as a message names it: the string 'x', the number 1.5, a list."""
    if isinstance(value, str):
        return f"the string {show(value)}"
    if isinstance(value, bool | None):
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"the number {show(str(value), 40, quote=False)}"
    return "a list" if isinstance(value, list) else "an object"


def show(value: str, most: int = 40, *, quote: bool = True) -> str:
    """A string for a message, cut to ``most`` characters."""
    cut = value if len(value) <= most else value[:most] + "…"
    return repr(cut) if quote else cut


def either(keys: tuple[str, ...]) -> str:
    """The keys as a message lists alternatives."""
    return " or ".join(map(repr, keys))
