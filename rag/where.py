"""``where``: a condition on named values, over the declared fields of passages or batch columns.

One grammar, in YAML and in Python::

    where:
      year: {gte: 1990, lt: 2000}        # several conditions hold together
      lang: {in: [en, de]}
      source: wiki                       # a bare value means eq
      any:                               # one of these, each a condition of its own
        - {reviewed: true}
        - all: [{year: {gt: 2010}}, {source: {ne: forum}}]

Operators: ``eq``, ``ne``, ``in``, ``gt``, ``gte``, ``lt``, ``lte``; ``any`` and ``all`` take lists
of conditions. Texts are compared by code points. **A value that is absent (null) passes no
operator, ``ne`` included**: what is not known is not known to differ.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import core_schema

from rag.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler

Value = str | int | float | bool

OPERATORS = ("eq", "ne", "in", "gt", "gte", "lt", "lte")
GROUPS = ("all", "any")
_COMPUTE = {
    "eq": "equal",
    "ne": "not_equal",
    "gt": "greater",
    "gte": "greater_equal",
    "lt": "less",
    "lte": "less_equal",
}
_FITTING: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a text"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
}


@dataclass(frozen=True)
class _Test:
    """One comparison; ``value`` is a tuple for ``in``."""

    field: str
    operator: str
    value: Value | tuple[Value, ...]


@dataclass(frozen=True)
class _Group:
    """Conditions that hold together (``all``), or one of them (``any``)."""

    how: str
    parts: tuple[_Test | _Group, ...]


class Where:
    """A condition on named values; see the module's docstring for the grammar.

    Immutable and hashable; two are equal where their mappings are. A pydantic model may have it as
    the type of a field (``where: Where | None = None``): it validates a mapping and dumps it back.

    Raises:
        InvalidInput: the mapping is no condition; the message names the key.
    """

    __slots__ = ("_root", "_text")

    def __init__(self, conditions: Mapping[str, Any]) -> None:
        """Check the ``conditions``, a mapping as YAML has it."""
        self._root = _parsed(conditions, "")
        self._text = json.dumps(conditions, sort_keys=True)

    def __eq__(self, other: object) -> bool:
        """Equal mappings; 1, 1.0 and true differ."""
        return self._text == other._text if isinstance(other, Where) else NotImplemented

    def __hash__(self) -> int:
        """As equality has it."""
        return hash(self._text)

    def __repr__(self) -> str:
        """As it is made."""
        return f"Where({self.mapping!r})"

    def __reduce__(self) -> tuple[object, ...]:
        """So that settings travel to workers."""
        return Where, (self.mapping,)

    @property
    def mapping(self) -> dict[str, Any]:
        """The mapping that it was made from, its keys sorted."""
        mapping: dict[str, Any] = json.loads(self._text)
        return mapping

    def fields(self) -> set[str]:
        """The names that it compares."""
        return {test.field for test in _tests(self._root)}

    def check(self, types: Mapping[str, str]) -> None:
        """Compare with what there is, before any data is read.

        Args:
            types: name to type: ``str``, ``int``, ``float``, ``bool``, or any other, which cannot
                be compared; ``null`` (a column of nulls) takes every operator.

        Raises:
            InvalidInput: a name is unknown (the nearest is named), or a value does not fit a type;
                all that is wrong is listed.
        """
        wrong = [said for test in _tests(self._root) if (said := _misfit(test, types))]
        if wrong:
            raise InvalidInput("where: " + "; ".join(dict.fromkeys(wrong)))

    def mask(self, table: pa.Table) -> NDArray[np.bool_]:
        """For which rows it holds: (rows,) bool; a null passes no operator, ``ne`` included.

        Values are compared in the type of the column: 0.7 equals the float32 nearest to 0.7.

        Raises:
            InvalidInput: as ``check`` does, for the columns of ``table``.
        """
        self.check({field.name: _type_name(field.type) for field in table.schema})
        return _mask(self._root, table)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """A mapping or a ``Where`` goes in, a mapping comes out."""

        def validate(value: Any) -> Where:
            return value if isinstance(value, Where) else cls(value)

        return core_schema.no_info_plain_validator_function(
            validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda where: where.mapping
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """What editors complete and check; conditions inside any and all are left open."""
        value = {"type": ["string", "number", "boolean"]}
        group = {"type": "array", "minItems": 1, "items": {"type": "object", "minProperties": 1}}
        operators: dict[str, Any] = dict.fromkeys(OPERATORS, value)
        operators["in"] = {"type": "array", "minItems": 1, "items": value}
        compared = {
            "type": "object",
            "minProperties": 1,
            "properties": operators,
            "additionalProperties": False,
        }
        return {
            "type": "object",
            "description": "Field to value, or to operators: {year: {gte: 1990}, lang: en}.",
            "minProperties": 1,
            "properties": dict.fromkeys(GROUPS, group),
            "additionalProperties": {"oneOf": [value, compared]},
        }


def _parsed(conditions: Any, path: str) -> _Group:
    if not isinstance(conditions, Mapping) or not conditions:
        found = "an empty mapping" if isinstance(conditions, Mapping) else _shown(conditions)
        raise _wrong(path, f"found {found}, expected conditions: {{year: {{gte: 1990}}, lang: en}}")
    parts: list[_Test | _Group] = []
    for name, said in conditions.items():
        here = f"{path}.{name}" if path else str(name)
        if not isinstance(name, str):
            raise _wrong(path, f"found the key {name!r}, expected the name of a field")
        if name in GROUPS:
            parts.append(_group(name, said, here))
        elif isinstance(said, Mapping):
            parts += _compared(name, said, here)
        else:
            parts.append(_Test(name, "eq", _value(said, here)))
    return _Group("all", tuple(parts))


def _group(how: str, said: Any, path: str) -> _Group:
    if not isinstance(said, list | tuple) or not said:
        found = "an empty list" if isinstance(said, list | tuple) else _shown(said)
        raise _wrong(path, f"found {found}, expected a list of conditions: {how}: [{{lang: en}}]")
    return _Group(how, tuple(_parsed(part, f"{path}[{n}]") for n, part in enumerate(said)))


def _compared(field: str, said: Mapping[Any, Any], path: str) -> Iterator[_Test]:
    if not said:
        raise _wrong(path, f"found an empty mapping, expected operators: {', '.join(OPERATORS)}")
    for operator, value in said.items():
        if operator not in OPERATORS:
            near = difflib.get_close_matches(str(operator), OPERATORS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise _wrong(
                path, f"unknown operator {operator!r}{hint} (known: {', '.join(OPERATORS)})"
            )
        here = f"{path}.{operator}"
        if operator != "in":
            yield _Test(field, operator, _value(value, here))
        elif isinstance(value, list | tuple) and value:
            yield _Test(field, "in", tuple(_value(one, here) for one in value))
        else:
            found = "an empty list" if isinstance(value, list | tuple) else _shown(value)
            raise _wrong(here, f"found {found}, expected a list of values: in: [en, de]")


def _value(value: Any, path: str) -> Value:
    if value is None:
        raise _wrong(path, "found null, expected a value; what is null passes no condition anyway")
    if not isinstance(value, str | int | float):
        raise _wrong(path, f"found {_shown(value)}, expected a text, a number, true or false")
    if isinstance(value, float) and not math.isfinite(value):
        raise _wrong(path, f"found {value}, expected a finite number")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise _wrong(path, f"found {value:.3e}, expected a number of 64 bits")
    return value


def _wrong(path: str, message: str) -> InvalidInput:
    return InvalidInput(f"where: {path}: {message}" if path else f"where: {message}")


def _shown(value: Any) -> str:
    kinds: list[tuple[Any, str]] = [(Mapping, "a mapping"), (list | tuple, "a list")]
    return next((text for kind, text in kinds if isinstance(value, kind)), repr(value))


def _tests(node: _Test | _Group) -> Iterator[_Test]:
    if isinstance(node, _Test):
        yield node
        return
    for part in node.parts:
        yield from _tests(part)


def _misfit(test: _Test, types: Mapping[str, str]) -> str | None:
    """What is wrong with a comparison over values of these types, or None."""
    if test.field not in types:
        near = difflib.get_close_matches(test.field, types, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown field {test.field!r}{hint} (there are: {', '.join(types) or 'none'})"
    kind = types[test.field]
    if kind == "null":
        return None
    if kind not in _FITTING:
        return f"{test.field!r} is {kind}, and only {', '.join(_FITTING)} can be compared"
    if kind == "bool" and test.operator not in ("eq", "ne", "in"):
        return f"{test.field!r} is bool, which has no {test.operator!r}; use eq, ne or in"
    fitting, expected = _FITTING[kind]
    for value in test.value if isinstance(test.value, tuple) else (test.value,):
        if not isinstance(value, fitting) or (isinstance(value, bool) and kind != "bool"):
            where = f"{test.field}.{test.operator}"
            return f"{where}: found {value!r}, expected {expected}: the field is {kind}"
    return None


def _type_name(type_: pa.DataType) -> str:
    import pyarrow as pa

    kinds: dict[str, Callable[[pa.DataType], bool]] = {
        "int": pa.types.is_integer,
        "float": pa.types.is_floating,
        "bool": pa.types.is_boolean,
        "null": pa.types.is_null,
    }
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return "str"
    return next((name for name, fits in kinds.items() if fits(type_)), str(type_))


def _mask(node: _Test | _Group, table: pa.Table) -> NDArray[np.bool_]:
    import numpy as np

    if isinstance(node, _Test):
        return _test_mask(node, table)
    masks = [_mask(part, table) for part in node.parts]
    joined = np.logical_and if node.how == "all" else np.logical_or
    result: NDArray[np.bool_] = joined.reduce(masks)
    return result


def _test_mask(test: _Test, table: pa.Table) -> NDArray[np.bool_]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table[test.field]
    if pa.types.is_null(column.type):
        return np.zeros(len(table), np.bool_)
    if isinstance(test.value, tuple):
        found = pc.is_in(column, value_set=pa.array(test.value, column.type))
    else:
        compare = getattr(pc, _COMPUTE[test.operator])
        found = compare(column, pa.scalar(test.value, column.type))
    mask: NDArray[np.bool_] = pc.fill_null(found, False).to_numpy()
    return mask
