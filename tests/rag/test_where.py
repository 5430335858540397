"""The condition grammar: what it accepts, what it says of mistakes, and which rows pass."""

from __future__ import annotations

import operator
import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from rag.errors import InvalidInput
from rag.where import OPERATORS, Where

TYPES = {"year": "int", "lang": "str", "score": "float", "good": "bool"}
ARROW = {"year": pa.int64(), "lang": pa.large_string(), "score": pa.float64(), "good": pa.bool_()}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "year": st.integers(-3, 3),
    "lang": st.sampled_from(["", "a", "b", "é", "z", "東", "\U0001f600"]),
    "score": st.sampled_from([-1.5, 0, 0.5, 1]),
    "good": st.booleans(),
}
NAIVE: dict[str, Any] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "in": lambda a, b: a in b,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


class Model(BaseModel):
    model_config = ConfigDict(frozen=True)
    where: Where | None = None


@st.composite
def comparisons(draw: st.DrawFn, field: str) -> Any:
    value = VALUES[field]
    if draw(st.booleans()):
        return draw(value)
    names = [name for name in OPERATORS if field != "good" or name in ("eq", "ne", "in")]
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
    return {n: draw(st.lists(value, min_size=1) if n == "in" else value) for n in chosen}


simple = st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=2, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: comparisons(name) for name in names})
)
conditions = st.recursive(
    simple,
    lambda inner: st.fixed_dictionaries(
        {}, optional={how: st.lists(inner, min_size=1, max_size=3) for how in ("all", "any")}
    ).filter(bool),
    max_leaves=5,
)
rows = st.lists(
    st.fixed_dictionaries({name: st.none() | value for name, value in VALUES.items()}), max_size=8
)


def naive(said: dict[str, Any], row: dict[str, Any]) -> bool:
    def holds(name: str, value: Any) -> bool:
        if name in ("all", "any"):
            return (all if name == "all" else any)(naive(part, row) for part in value)
        tests = value if isinstance(value, dict) else {"eq": value}
        return row[name] is not None and all(NAIVE[op](row[name], v) for op, v in tests.items())

    return all(holds(name, value) for name, value in said.items())


@given(conditions, rows)
def test_the_mask_is_what_a_loop_over_rows_says(said: dict[str, Any], data: list[Any]) -> None:
    table = pa.table({n: pa.array([row[n] for row in data], t) for n, t in ARROW.items()})
    where = Where(said)
    where.check(TYPES)
    assert where.mask(table).tolist() == [naive(said, row) for row in data]
    assert where.mask(table).dtype == np.bool_


@given(conditions)
def test_a_model_reads_and_writes_the_mapping(said: dict[str, Any]) -> None:
    model = Model.model_validate({"where": said})
    assert model.model_dump()["where"] == said
    assert Model.model_validate_json(model.model_dump_json()) == model
    assert Model.model_validate_json(model.model_dump_json(), strict=True) == model
    assert hash(model) == hash(Model(where=Where(said)))
    assert pickle.loads(pickle.dumps(model)) == model
    assert model.where is not None
    assert repr(model.where) == f"Where({model.where.mapping!r})"


def test_true_and_one_are_different_conditions() -> None:
    assert len({Where({"x": 1}), Where({"x": True}), Where({"x": 1.0}), Where({"x": 1})}) == 3
    assert Where({"x": 1}) != {"x": 1}
    assert Where({"a": 1, "b": 2}) == Where({"b": 2, "a": 1})


def test_the_fields_are_those_of_every_part() -> None:
    where = Where({"a": 1, "any": [{"b": {"gt": 2}}, {"all": [{"c": "x"}, {"a": {"in": [2]}}]}]})
    assert where.fields() == {"a", "b", "c"}


def test_absent_values_pass_nothing() -> None:
    table = pa.table({"year": pa.array([None, 1], pa.int64()), "no": pa.nulls(2)})
    tests = {"eq": 2, "ne": 2, "in": [2], "gt": 2, "gte": 2, "lt": 0, "lte": 0}
    for name, value in tests.items():
        assert Where({"year": {name: value}}).mask(table).tolist() == [False, name == "ne"]
        assert not Where({"no": {name: value}}).mask(table).any()


def test_a_number_is_compared_in_the_type_of_the_column() -> None:
    table = pa.table({"confidence": pa.array([0.7, 0.8], pa.float32())})
    assert Where({"confidence": {"gte": 0.7}}).mask(table).tolist() == [True, True]
    assert Where({"confidence": 0.7}).mask(table).tolist() == [True, False]
    big = pa.table({"n": pa.array([2**53, 2**53 + 1], pa.int64())})
    assert Where({"n": {"gt": 2**53}}).mask(big).tolist() == [False, True]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({}, "where: found an empty mapping, expected conditions"),
        ("year > 3", "where: found 'year > 3', expected conditions"),
        ([{"a": 1}], "where: found a list, expected conditions"),
        ({3: 4}, "where: found the key 3, expected the name of a field"),
        ({"year": {"gt_e": 3}}, "where: year: unknown operator 'gt_e'; did you mean 'gte'.*lte"),
        ({"year": {}}, "where: year: found an empty mapping, expected operators: eq"),
        ({"year": None}, "where: year: found null, expected a value"),
        ({"year": {"gt": None}}, r"where: year\.gt: found null"),
        ({"year": [1, 2]}, "where: year: found a list, expected a text, a number"),
        ({"year": {"in": 3}}, r"where: year\.in: found 3, expected a list of values: in: \["),
        ({"year": {"in": []}}, r"where: year\.in: found an empty list, expected a list"),
        ({"year": float("nan")}, "where: year: found nan, expected a finite number"),
        ({"year": 10**30}, r"where: year: found 1\.000e\+30, expected a number of 64 bits"),
        ({"any": []}, "where: any: found an empty list, expected a list of conditions"),
        ({"all": {"a": 1}}, "where: all: found a mapping, expected a list of conditions"),
        ({"any": [{"a": 1}, {"b": {"x": 1}}]}, r"where: any\[1\]\.b: unknown operator 'x'"),
    ],
)
def test_a_mistake_is_named_with_its_place(said: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Where(said)
    with pytest.raises(ValidationError, match=message):
        Model.model_validate({"where": said})


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"yaer": 1}, r"where: unknown field 'yaer'; did you mean 'year'\? \(there are: year, la"),
        ({"year": "1990"}, r"where: year\.eq: found '1990', expected a whole number: the field is"),
        ({"year": 1990.5}, r"year\.eq: found 1990\.5, expected a whole number"),
        ({"year": True}, r"year\.eq: found True, expected a whole number"),
        ({"score": {"in": [1, "b"]}}, r"score\.in: found 'b', expected a number"),
        ({"lang": {"gt": 3}}, r"lang\.gt: found 3, expected a text"),
        ({"good": {"gt": True}}, "'good' is bool, which has no 'gt'; use eq, ne or in"),
        ({"good": 1}, r"good\.eq: found 1, expected true or false"),
        ({"docs": 1}, "'docs' is ranking, and only str, int, float, bool can be compared"),
        ({"yaer": 1, "any": [{"lang": 2}]}, r"unknown field 'yaer'.*; lang\.eq: found 2"),
    ],
)
def test_what_does_not_fit_the_fields_is_listed(said: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Where(said).check({**TYPES, "docs": "ranking"})
    with pytest.raises(InvalidInput, match="unknown field"):
        Where({"nothing": 1}).mask(pa.table({"year": [1]}))


def test_the_json_schema_knows_the_operators() -> None:
    schema = Model.model_json_schema()["properties"]["where"]["anyOf"][0]
    assert sorted(schema["properties"]) == ["all", "any"]
    assert sorted(schema["additionalProperties"]["oneOf"][1]["properties"]) == sorted(OPERATORS)
