"""The JSON schema that ``rag schema`` prints."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest

import rag.pipelines
from rag import registry
from rag.pipelines.schema import json_schema


def items(schema: dict[str, Any]) -> list[dict[str, Any]]:
    assert schema["properties"]["stages"]["items"] == {"$ref": "#/$defs/Stage"}
    found: list[dict[str, Any]] = schema["$defs"]["Stage"]["oneOf"]
    return found


def test_stages_stand_inside_stages() -> None:
    _, *forms = items(json_schema("pipeline"))
    by_name = {form["required"][0]: form["properties"][form["required"][0]] for form in forms}
    stage = {"$ref": "#/$defs/Stage"}
    assert by_name["unless"]["properties"]["stages"]["items"] == stage
    assert by_name["repeat"]["properties"]["stages"]["items"] == stage
    branch = by_name["branch"]
    branch = branch["oneOf"][0] if "oneOf" in branch else branch
    assert branch["additionalProperties"]["items"] == stage
    file, settings = by_name["pipeline"]["oneOf"]
    assert file == {"type": "string"}
    assert settings["properties"]["stages"]["items"] == stage


def test_every_built_in_stage_stands_in_it_with_its_fields() -> None:
    bare, *settings = items(json_schema("pipeline"))
    names = sorted(registry.BUILT_IN["stages"])
    assert bare["enum"] == names
    assert [form["required"] for form in settings] == [[name] for name in names]
    for form, name in zip(settings, names, strict=True):
        its = form["properties"][name]
        its = next((one for one in its.get("oneOf", ()) if "properties" in one), its)
        fields = registry.find("stages", name).model_fields
        assert its["properties"].keys() == fields.keys()
        assert its["additionalProperties"] is False or name == "branch"  # its keys are sides
        for field, info in fields.items():
            assert its["properties"][field].get("description") == info.description


def test_index_files() -> None:
    schema = json_schema("index")
    assert schema["required"] == ["kind", "source", "indexes"]
    kinds = schema["properties"]["indexes"]["additionalProperties"]["oneOf"]
    by_type = {kind["properties"]["type"]["const"]: kind for kind in kinds}
    assert sorted(by_type) == sorted(registry.names("indexes"))
    assert by_type["lexical"]["required"] == ["type"]
    assert sorted(by_type["ngrams"]["required"]) == ["model", "type"]


@pytest.mark.parametrize("kind", ["pipeline", "index", "recipe", None])
def test_every_reference_leads_somewhere(
    kind: Literal["pipeline", "index", "recipe"] | None,
) -> None:
    schema = json_schema(kind)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"

    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set[str]()
            return own.union(*map(references, value.values()))
        return set[str]().union(*map(references, value)) if isinstance(value, list) else set()

    assert {ref.removeprefix("#/$defs/") for ref in references(schema)} <= schema["$defs"].keys()
    assert json.loads(json.dumps(schema)) == schema
    assert len(schema.get("oneOf", ())) == (3 if kind is None else 0)


def test_the_public_names_of_the_room() -> None:
    assert rag.pipelines.__all__ == sorted(rag.pipelines.__all__)
    for name in rag.pipelines.__all__:
        assert getattr(rag.pipelines, name) is not None
    assert set(rag.pipelines.__all__) <= set(dir(rag.pipelines))
    missing = "no_such_name"
    with pytest.raises(AttributeError, match=missing):
        getattr(rag.pipelines, missing)
