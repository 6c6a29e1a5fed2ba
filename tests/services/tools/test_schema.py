"""Signatures to JSON Schema, JSON arguments to calls."""

import enum
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, Optional, TypedDict

import jsonschema
import msgspec
import pydantic
import pytest

from voicebus import ToolContext
from voicebus.services.tools import schema


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Address:
    """Where somebody lives."""

    street: str
    number: int = 1


@dataclass
class Person:
    name: str
    home: Address


@dataclass
class Phone:
    digits: str


@dataclass
class Tree:
    children: "list[Tree]"


class Query(TypedDict):
    text: str
    limit: NotRequired[int]


class Order(pydantic.BaseModel):
    item: str
    count: int = pydantic.Field(ge=1)


def nothing() -> None:
    """Do it."""


def plain(a: str, b: int, c: float, d: bool) -> None:
    """Do it."""


def defaults(a: str = "x", b: int = 3, c: list[int] = [1]) -> None:  # noqa: B006
    """Do it."""


def optional(a: int | None, b: Optional[str] = None, c: int = None) -> None:  # type: ignore[assignment]  # noqa: UP045, RUF013
    """Do it."""


def choices(a: Literal["x", "y"], b: Colour = Colour.RED, c: Level = Level.LOW) -> None:
    """Do it."""


def collections(a: list[str], b: dict[str, float], c: tuple[int, str], d: set[int]) -> None:
    """Do it."""


def nested(a: Person, b: list[Address]) -> None:
    """Do it."""


def alternatives(a: int | str, b: Address | Phone | None = None) -> None:
    """Do it."""


def typed(a: Query, b: Order) -> None:
    """Do it."""


def recursive(a: Tree) -> None:
    """Do it."""


def anything(a: Any, b: dict[str, Any], c) -> None:  # type: ignore[no-untyped-def]
    """Do it."""


def described(a: Annotated[int, "how many"], b: str) -> None:
    """Do it.

    Args:
        b: which one
    """


def with_context(call: ToolContext, a: int) -> None:
    """Do it."""


def with_bare_context(ctx, a: int) -> None:  # type: ignore[no-untyped-def]
    """Do it."""


def open_ended(a: int, **more: str) -> None:
    """Do it."""


STREET = {"type": "string"}
ADDRESS = {
    "description": "Where somebody lives.",
    "type": "object",
    "properties": {"street": STREET, "number": {"type": "integer", "default": 1}},
    "required": ["street"],
}
PHONE = {"type": "object", "properties": {"digits": {"type": "string"}}, "required": ["digits"]}
NULL = {"type": "null"}


def described_as(properties: dict[str, Any], required: list[str], **more: Any) -> dict[str, Any]:
    body = {"type": "object", "properties": properties, "required": required}
    return body | {"additionalProperties": False} | more


TABLE: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (nothing, described_as({}, [])),
    (
        plain,
        described_as(
            {
                "a": {"type": "string"},
                "b": {"type": "integer"},
                "c": {"type": "number"},
                "d": {"type": "boolean"},
            },
            ["a", "b", "c", "d"],
        ),
    ),
    (
        defaults,
        described_as(
            {
                "a": {"type": "string", "default": "x"},
                "b": {"type": "integer", "default": 3},
                "c": {"type": "array", "items": {"type": "integer"}},
            },
            [],
        ),
    ),
    (
        optional,
        described_as(
            {
                "a": {"anyOf": [{"type": "integer"}, NULL]},
                "b": {"anyOf": [{"type": "string"}, NULL], "default": None},
                "c": {"type": "integer"},
            },
            ["a"],
        ),
    ),
    (
        choices,
        described_as(
            {
                "a": {"type": "string", "enum": ["x", "y"]},
                "b": {"type": "string", "enum": ["blue", "red"], "default": "red"},
                "c": {"type": "integer", "enum": [1, 2], "default": 1},
            },
            ["a"],
        ),
    ),
    (
        collections,
        described_as(
            {
                "a": {"type": "array", "items": {"type": "string"}},
                "b": {"type": "object", "additionalProperties": {"type": "number"}},
                "c": {
                    "type": "array",
                    "minItems": 2,
                    "maxItems": 2,
                    "prefixItems": [{"type": "integer"}, {"type": "string"}],
                    "items": False,
                },
                "d": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
            },
            ["a", "b", "c", "d"],
        ),
    ),
    (
        nested,
        described_as(
            {
                "a": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}, "home": ADDRESS},
                    "required": ["name", "home"],
                },
                "b": {"type": "array", "items": ADDRESS},
            },
            ["a", "b"],
        ),
    ),
    (
        alternatives,
        described_as(
            {
                "a": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
                "b": {"anyOf": [ADDRESS, PHONE, NULL], "default": None},
            },
            ["a"],
        ),
    ),
    (
        typed,
        described_as(
            {
                "a": {
                    "type": "object",
                    "properties": {"text": {"type": "string"}, "limit": {"type": "integer"}},
                    "required": ["text"],
                },
                "b": {
                    "type": "object",
                    "properties": {
                        "item": {"title": "Item", "type": "string"},
                        "count": {"title": "Count", "type": "integer", "minimum": 1},
                    },
                    "required": ["item", "count"],
                },
            },
            ["a", "b"],
        ),
    ),
    (
        anything,
        described_as({"a": {}, "b": {"type": "object"}, "c": {}}, ["a", "b", "c"]),
    ),
    (
        described,
        described_as(
            {
                "a": {"description": "how many", "type": "integer"},
                "b": {"description": "which one", "type": "string"},
            },
            ["a", "b"],
        ),
    ),
    (with_context, described_as({"a": {"type": "integer"}}, ["a"])),
    (with_bare_context, described_as({"a": {"type": "integer"}}, ["a"])),
]


@pytest.mark.parametrize(
    ("function", "expected"), TABLE, ids=lambda one: getattr(one, "__name__", "")
)
def test_a_signature_becomes_exactly_this_schema(
    function: Callable[..., Any], expected: dict[str, Any]
) -> None:
    found = schema.describe(function).parameters

    assert found == expected
    jsonschema.Draft202012Validator.check_schema(found)


def test_a_type_that_contains_itself_is_referred_to() -> None:
    found = schema.describe(recursive).parameters

    jsonschema.validate({"a": {"children": [{"children": []}]}}, found)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"a": {"children": [{"children": 3}]}}, found)


def family() -> type[pydantic.BaseModel]:
    """Another model of the same name that contains itself, too."""

    class Node(pydantic.BaseModel):
        name: str
        children: "list[Node]" = []

    Node.model_rebuild(_types_namespace={"Node": Node})
    return Node


class Node(pydantic.BaseModel):
    value: int
    children: "list[Node]" = []


NODE = {"value": 1, "children": [{"value": 2}]}
RELATIVE = {"name": "Ann", "children": [{"name": "Bea"}]}


@pytest.mark.parametrize(
    ("hint", "given", "wrong"),
    [
        (Node, NODE, {"value": 1, "children": [{"value": "x"}]}),
        (list[Node], [NODE], [{"value": 1, "children": [{"value": "x"}]}]),
        (Tree | Phone, {"children": [{"children": []}]}, {"children": [3]}),
        (
            tuple[Node, family()],  # type: ignore[misc]
            [NODE, RELATIVE],
            [NODE, {"name": "Ann", "children": [{}]}],
        ),
    ],
)
def test_a_reference_leads_to_its_definition_wherever_the_type_stands(
    hint: Any, given: Any, wrong: Any
) -> None:
    def grow(what: Any) -> None:
        """Grow it."""

    grow.__annotations__["what"] = hint
    found = schema.describe(grow).parameters

    jsonschema.validate({"what": given}, found)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"what": wrong}, found)


def test_a_type_that_stands_twice_is_defined_once() -> None:
    def graft(this: Node, onto: Node | None = None) -> None:
        """Put one onto the other."""

    assert list(schema.describe(graft).parameters["$defs"]) == ["Node"]


def test_extra_keywords_are_open_to_the_model_and_passed_on() -> None:
    found = schema.describe(open_ended)

    assert found.parameters.get("additionalProperties") is not False
    assert found.bind({"a": 1, "b": "x"}) == {"a": 1, "b": "x"}


def test_of_a_partial_the_model_is_told_what_its_function_says() -> None:
    found = schema.describe(functools.partial(plain, b=3))

    assert found.description == (inspect.getdoc(plain) or "").splitlines()[0]
    assert found.parameters["properties"]["a"] == {"type": "string"}
    assert found.parameters["properties"]["b"] == {"type": "integer", "default": 3}


def test_that_nothing_is_the_default_is_shown_beside_a_description() -> None:
    def look(where: Annotated[str | None, "which shelf"] = None) -> None:
        """Look."""

    assert schema.describe(look).parameters["properties"]["where"] == {
        "anyOf": [{"type": "string"}, {"type": "null"}],
        "default": None,
        "description": "which shelf",
    }


def test_the_context_is_no_argument_of_the_model() -> None:
    assert schema.describe(with_context).context_parameter == "call"
    assert schema.describe(with_bare_context).context_parameter == "ctx"


def test_arguments_arrive_as_the_types_of_the_hints() -> None:
    found = schema.describe(nested).bind(
        {"a": {"name": "Ann", "home": {"street": "Main"}}, "b": [{"street": "Side", "number": 2}]}
    )

    assert found == {"a": Person("Ann", Address("Main")), "b": [Address("Side", 2)]}


@dataclass
class Contact:
    by: Address | Phone
    also: "list[Address | Phone]" = field(default_factory=list)
    kind: Colour = Colour.RED


@dataclass
class Ring:
    next: "Chain | Phone | Address"


@dataclass
class Chain:
    ring: "Ring | None" = None


PHONE, HOME = {"digits": "110"}, {"street": "Elm"}


@pytest.mark.parametrize(
    ("hint", "given", "read"),
    [
        (list[Address | Phone], [PHONE, HOME], [Phone("110"), Address("Elm")]),
        (list[Address | Phone] | None, [PHONE], [Phone("110")]),
        (dict[str, Address | Phone], {"a": PHONE}, {"a": Phone("110")}),
        (tuple[Address | Phone, int], [PHONE, 1], (Phone("110"), 1)),
        (tuple[Address | Phone, ...], [PHONE], (Phone("110"),)),
        (Annotated[Address | Phone, "how to reach them"], PHONE, Phone("110")),
        (Contact, {"by": PHONE}, Contact(Phone("110"))),
        (list[Contact], [{"by": HOME, "also": [PHONE], "kind": "blue"}],
         [Contact(Address("Elm"), [Phone("110")], Colour.BLUE)]),
    ],
)  # fmt: skip
def test_unions_of_classes_may_stand_inside_other_types(hint: Any, given: Any, read: Any) -> None:
    def reach(whom: Any) -> None:
        """Reach somebody."""

    reach.__annotations__["whom"] = hint
    found = schema.describe(reach)

    jsonschema.Draft202012Validator.check_schema(found.parameters)
    jsonschema.validate({"whom": given}, found.parameters)
    assert found.bind({"whom": given}) == {"whom": read}


def test_what_fits_no_member_inside_is_told_where_it_stands() -> None:
    def reach(whom: list[Contact]) -> None:
        """Reach somebody."""

    with pytest.raises(schema.InvalidArguments) as told:
        schema.describe(reach).bind({"whom": [{"by": {"digits": 110}}]})

    assert str(told.value) == (
        "argument 'whom[0]': argument 'by': fits none of Address: missing argument `street`; "
        "Phone: argument 'digits': expected a string, got `int`"
    )


def test_classes_that_contain_each_other_by_such_a_union_are_refused() -> None:
    def reach(whom: Ring) -> None:
        """Reach somebody."""

    with pytest.raises(schema.SchemaError, match="parameter 'whom': a model cannot fill in"):
        schema.describe(reach)


def test_each_member_of_a_union_of_classes_is_tried() -> None:
    bind = schema.describe(alternatives).bind

    assert bind({"a": 1, "b": {"digits": "911"}}) == {"a": 1, "b": Phone("911")}
    assert bind({"a": "x", "b": None}) == {"a": "x", "b": None}


@dataclass
class Filter:
    words: str = ""
    limit: int = 10


def test_of_a_union_the_member_that_knows_what_was_given_is_taken() -> None:
    def search(by: Filter | Address | Phone) -> None:
        """Search."""

    bind = schema.describe(search).bind

    assert bind({"by": HOME}) == {"by": Address("Elm")}
    assert bind({"by": {"limit": 3}}) == {"by": Filter(limit=3)}
    assert bind({"by": {}}) == {"by": Filter()}


@dataclass(frozen=True)
class Sealed:
    number: int = 1


@dataclass
class Parcel:
    to: Address
    by: Colour = Colour.RED
    seal: Sealed = Sealed()
    marks: list[Sealed] = field(default_factory=list)


def test_a_dataclass_is_whole_when_it_is_handed_back() -> None:
    def send(parcel: Parcel) -> None:
        """Send it."""

    given = {"parcel": {"to": {"street": "Elm"}, "marks": [{}]}}
    read = schema.describe(send).bind(given)["parcel"]

    assert msgspec.json.decode(msgspec.json.encode(read)) == {
        "to": {"street": "Elm", "number": 1},
        "by": "red",
        "seal": {"number": 1},
        "marks": [{"number": 1}],
    }


@dataclass
class Booking:
    """A table."""

    guests: int
    price: int = field(init=False)
    notes: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.price = 20 * self.guests


@dataclass
class Evening:
    bookings: list[Booking]
    first: Booking | None = None


BOOKING = {
    "description": "A table.",
    "type": "object",
    "properties": {"guests": {"type": "integer"}},
    "required": ["guests"],
}


@pytest.mark.parametrize(
    ("hint", "offered", "given", "read"),
    [
        (Booking, BOOKING, {"guests": 2}, Booking(2)),
        (list[Booking], {"type": "array", "items": BOOKING}, [{"guests": 2}], [Booking(2)]),
        (
            Evening,
            {
                "type": "object",
                "properties": {
                    "bookings": {"type": "array", "items": BOOKING},
                    "first": {"anyOf": [BOOKING, NULL], "default": None},
                },
                "required": ["bookings"],
            },
            {"bookings": [{"guests": 1}], "first": {"guests": 3}},
            Evening([Booking(1)], Booking(3)),
        ),
    ],
)
def test_what_a_dataclass_fills_in_itself_is_not_asked_of_the_model(
    hint: Any, offered: dict[str, Any], given: Any, read: Any
) -> None:
    def book(what: Any) -> None:
        """Book it."""

    book.__annotations__["what"] = hint
    found = schema.describe(book)
    bound = found.bind({"what": given})

    assert found.parameters["properties"] == {"what": offered}
    assert bound == {"what": read}


@dataclass
class Branch:
    parts: "list[Branch]"
    depth: int = field(init=False, default=0)


def test_a_dataclass_that_contains_itself_may_fill_in_fields_too() -> None:
    def plant(tree: Branch) -> None:
        """Plant it."""

    found = schema.describe(plant)

    assert found.bind({"tree": {"parts": [{"parts": []}]}}) == {"tree": Branch([Branch([])])}


def test_a_pydantic_model_is_validated_by_itself() -> None:
    bind = schema.describe(typed).bind

    assert bind({"a": {"text": "t"}, "b": {"item": "tea", "count": 2}})["b"].count == 2
    with pytest.raises(schema.InvalidArguments, match=r"'b'.*count.*greater than or equal to 1"):
        bind({"a": {"text": "t"}, "b": {"item": "tea", "count": 0}})


def test_what_was_not_given_is_left_to_the_function() -> None:
    assert schema.describe(defaults).bind({"b": 4}) == {"b": 4}


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        (plain, {"a": "x", "b": 1, "c": 1.5}, "missing argument `d`"),
        (plain, {"a": "x", "b": "1", "c": 1.5, "d": True}, "'b': expected an integer, got `str`"),
        (plain, {"a": "x", "b": 1, "c": 1.5, "d": 1}, "'d': expected a boolean"),
        (described, {"a": 1, "bb": "x"}, "unknown argument 'bb'; did you mean 'b'?"),
        (nothing, {"zzz": 1}, "this tool takes no arguments"),
        (choices, {"a": "z"}, "allowed are: 'x', 'y'"),
        (nested, {"a": {"name": "A", "home": {}}, "b": []}, "'a.home': missing argument `street`"),
        (alternatives, {"a": 1, "b": {}}, "fits none of Address"),
    ],
)
def test_the_model_is_told_what_was_wrong(
    function: Callable[..., Any], arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(schema.InvalidArguments) as refused:
        schema.describe(function).bind(arguments)

    assert said in str(refused.value)


def no_docstring(a: int) -> None: ...


def strange_type(a: Callable[[], None]) -> None:
    """Do it."""


def own_class(a: Path) -> None:
    """A class that JSON has no word for."""


def positional(a: int, /) -> None:
    """Do it."""


def stars(*a: int) -> None:
    """Do it."""


def unknown_name(a: "Nowhere") -> None:  # type: ignore[name-defined]  # noqa: F821
    """Do it."""


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (no_docstring, "no docstring"),
        (strange_type, "parameter 'a': a model cannot fill in"),
        (own_class, "parameter 'a': a model cannot fill in Path; use str, int"),
        (positional, "parameter 'a' is positional"),
        (stars, "parameter 'a' is positional"),
        (unknown_name, "Nowhere"),
    ],
)
def test_a_signature_that_no_model_could_use_is_refused_with_a_reason(
    function: Callable[..., Any], said: str
) -> None:
    with pytest.raises(schema.SchemaError) as refused:
        schema.describe(function)

    assert said in str(refused.value)


def test_a_description_that_providers_refuse_names_length_and_limit() -> None:
    with pytest.raises(schema.SchemaError, match="1025 characters, the limit is 1024"):
        schema.describe(nothing, "x" * 1025)
