"""What the model wrote as arguments, checked before anybody runs on it."""

from typing import Any

import pytest

from voicebus.services.session.core import arguments


def test_arguments_are_an_object() -> None:
    assert arguments.parse('{"city": "Berlin"}') == {"city": "Berlin"}
    assert arguments.parse("") == {}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("null", "null"),
        ("true", "a boolean"),
        ("1.5", "a number"),
        ('"x"', "a string"),
        ("[]", "an array"),
    ],
)
def test_anything_else_is_named(text: str, kind: str) -> None:
    assert arguments.parse(text) == f"the arguments must be a JSON object, not {kind}"


@pytest.mark.parametrize("text", ['{"a"', "{'a': 1}", "\ud800", '{"a":1}}'])
def test_what_is_not_json_is_said_to_be_so(text: str) -> None:
    assert str(arguments.parse(text)).startswith("the arguments are not JSON")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' + "[" * 100 + "]" * 100 + "}"])
def test_endless_nesting_is_refused(text: str) -> None:
    assert arguments.parse(text) == "the arguments are nested too deeply, the limit is 100 levels"


SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "unit": {"enum": ["C", "F"]},
        "ratio": {"type": ["number", "null"]},
        "flags": {"type": "array", "items": {"type": "boolean"}},
        "place": {"type": "object", "required": ["lat"], "properties": {"lat": {"type": "number"}}},
    },
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "value",
    [
        {"city": "x"},
        {"city": "x", "days": 3, "unit": "C", "ratio": None, "flags": [True], "place": {"lat": 1}},
        {"city": "x", "days": 3.0, "ratio": 0.5},
    ],
)
def test_what_fits_the_schema_fits(value: dict[str, Any]) -> None:
    assert arguments.mismatch(value, SCHEMA) is None


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ({}, "the arguments lack city"),
        ({"city": 3}, "argument city must be of type string, not a number"),
        ({"city": {}}, "argument city must be of type string, not an object"),
        ({"city": "x", "days": 1.5}, "argument days must be of type integer, not a number"),
        ({"city": "x", "days": True}, "argument days must be of type integer, not a boolean"),
        ({"city": "x", "unit": "K"}, 'argument unit must be one of ["C","F"], not "K"'),
        (
            {"city": "x", "ratio": "y"},
            "argument ratio must be of type number or null, not a string",
        ),
        ({"city": "x", "flags": [1]}, "argument flags[0] must be of type boolean, not a number"),
        ({"city": "x", "place": {}}, "argument place lack lat"),
        (
            {"city": "x", "place": {"lat": ""}},
            "argument place.lat must be of type number, not a string",
        ),
    ],
)
def test_the_first_misfit_is_named(value: dict[str, Any], wrong: str) -> None:
    assert arguments.mismatch(value, SCHEMA) == wrong


def test_an_unknown_argument_is_told_with_the_known_ones() -> None:
    wrong = arguments.mismatch({"city": "x", "town": "y"}, SCHEMA)

    assert wrong == ("the arguments know no 'town' (known: city, days, unit, ratio, flags, place)")


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "something else"},
        {"type": 7},
        {"properties": 3, "required": "city", "enum": 4},
        {"properties": {"a": "no schema"}},
        {"items": {"type": "string"}},
    ],
)
def test_what_is_not_known_of_a_schema_is_let_through(schema: dict[str, Any]) -> None:
    assert arguments.mismatch({"a": 1}, schema) is None


def test_a_schema_that_never_ends_is_followed_only_so_far() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    schema["properties"]["a"] = schema
    value: Any = 3
    for _ in range(arguments.DEPTH_LIMIT + 2):
        value = {"a": value}

    assert arguments.mismatch(value, schema) is None


WIDE: dict[str, Any] = {
    "$defs": {
        "place": {"type": "object", "required": ["lat"], "properties": {"lat": {"maximum": 90}}},
        "a/b": {"const": True},
    },
    "type": "object",
    "properties": {
        "days": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
        "unit": {"oneOf": [{"const": "C"}, {"const": "F"}]},
        "place": {"$ref": "#/$defs/place"},
        "odd": {"$ref": "#/$defs/a~1b"},
        "elsewhere": {"$ref": "https://example.org/schema"},
        "lost": {"$ref": "#/$defs/nothing/at/all"},
        "name": {"allOf": [{"minLength": 2}, {"maxLength": 4}]},
        "tags": {"minItems": 1, "maxItems": 2},
        "share": {"exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "one": {"enum": [1]},
    },
    "additionalProperties": {"type": "string"},
}


@pytest.mark.parametrize(
    "value",
    [
        {"days": 1, "unit": "F", "place": {"lat": 90}, "odd": True, "name": "Ada"},
        {"days": None, "tags": ["a", "b"], "share": 0.5, "one": 1, "anything": "else"},
        {"elsewhere": 3, "lost": 3, "tags": "no list", "share": "no number", "name": 7},
    ],
)
def test_what_fits_bounds_alternatives_and_references_fits(value: dict[str, Any]) -> None:
    assert arguments.mismatch(value, WIDE) is None


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        (
            {"days": 0},
            "argument days must be at least 1, not 0, or argument days must be of type null, "
            "not a number",
        ),
        ({"unit": "K"}, 'argument unit must be one of ["C"], not "K", or argument unit must be'),
        ({"place": {}}, "argument place lack lat"),
        ({"place": {"lat": 91}}, "argument place.lat must be at most 90, not 91"),
        ({"odd": 1}, "argument odd must be one of [true], not 1"),
        ({"one": True}, "argument one must be one of [1], not true"),
        ({"name": "A"}, 'argument name must have 2 characters or more, not "A"'),
        ({"name": "Adele"}, 'argument name must have 4 characters or fewer, not "Adele"'),
        ({"tags": []}, "argument tags must have 1 items or more, not []"),
        ({"tags": [1, 2, 3]}, "argument tags must have 2 items or fewer, not [1,2,3]"),
        ({"share": 0}, "argument share must be above 0, not 0"),
        ({"share": 1}, "argument share must be below 1, not 1"),
        ({"anything": 3}, "argument anything must be of type string, not a number"),
    ],
)
def test_what_fits_neither_bounds_nor_alternatives_is_named(
    value: dict[str, Any], wrong: str
) -> None:
    assert str(arguments.mismatch(value, WIDE)).startswith(wrong)


def test_alternatives_without_end_are_followed_only_so_far() -> None:
    schema: dict[str, Any] = {"anyOf": [{"$ref": "#"}] * 20}

    assert arguments.mismatch({}, schema) is None


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"minimum": 0, "exclusiveMinimum": True}, 0.5),
        ({"maximum": 5, "exclusiveMaximum": False}, 3),
        ({"$ref": "#size"}, 3),
        ({"prefixItems": [{"type": "integer"}], "items": {"type": "string"}}, [1, "a"]),
        ({"patternProperties": {"^x_": {}}, "additionalProperties": False}, {"x_a": 1}),
        ({"patternProperties": {"^x_": {}}, "additionalProperties": {"const": 2}}, {"x_a": 1}),
    ],
)
def test_what_a_schema_says_in_ways_that_are_not_followed_is_let_through(
    schema: dict[str, Any], value: Any
) -> None:
    of_one = {"type": "object", "properties": {"one": schema}}

    assert arguments.mismatch({"one": value}, of_one) is None


def test_items_after_those_with_schemas_of_their_own_are_checked() -> None:
    schema = {"properties": {"a": {"prefixItems": [{}], "items": {"type": "string"}}}}

    wrong = arguments.mismatch({"a": [1, "x", 2]}, schema)

    assert wrong == "argument a[2] must be of type string, not a number"


def test_long_lists_of_choices_count_towards_the_end_of_checking() -> None:
    choices = {"enum": [None] * (arguments.CHECK_LIMIT // 2)}
    schema = {"properties": {"a": {"items": {"anyOf": [choices, {"const": 1}]}}}}

    assert arguments.mismatch({"a": [0]}, schema) is not None
    assert arguments.mismatch({"a": [1, 1, 0]}, schema) is None


def test_of_a_long_value_or_many_alternatives_only_some_is_shown() -> None:
    long = arguments.mismatch({"a": "x" * 10_000}, {"properties": {"a": {"enum": [1]}}})
    many = arguments.mismatch(
        {"a": 1}, {"properties": {"a": {"anyOf": [{"const": n} for n in range(2, 99)]}}}
    )

    assert len(str(long)) < 300
    assert str(many).count("must be") == arguments.NAMED
