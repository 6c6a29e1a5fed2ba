"""From a function's signature and docstring to JSON Schema, and from JSON arguments to a call."""

import contextlib
import dataclasses
import difflib
import enum
import functools
import inspect
import re
import types
import typing
from collections import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ForwardRef

import msgspec

from voicebus.services.tools import docstrings
from voicebus.services.tools.api import ToolContext
from voicebus.services.tools.bounds import DESCRIPTION_LIMIT


class SchemaError(ValueError):
    """A signature that cannot be described to a model. The text says which parameter and why."""


class InvalidArguments(ValueError):
    """Arguments that do not fit. The text is for the model: what was wrong and what is expected."""


@dataclass(frozen=True)
class Signature:
    """What a model is told of a function, and how its answer becomes a call."""

    description: str
    parameters: dict[str, Any]
    """JSON Schema of the arguments: an object."""
    bind: Callable[[dict[str, Any]], dict[str, Any]]
    """JSON arguments to keyword arguments. Raises InvalidArguments."""
    context_parameter: str | None
    """The parameter that gets the ToolContext."""


def describe(function: Callable[..., Any], description: str | None = None) -> Signature:
    """The signature of a callable. Raises SchemaError."""
    documentation = docstrings.read(inspect.getdoc(_written(function)))
    text = description if description is not None else documentation.summary
    if not text:
        raise SchemaError(
            "it has no docstring: write one sentence that tells the model when to call it"
        )
    if len(text) > DESCRIPTION_LIMIT:
        raise SchemaError(
            f"its description has {len(text)} characters, the limit is {DESCRIPTION_LIMIT}: "
            "shorten the first paragraph of its docstring"
        )
    hints = _hints(function)
    context: str | None = None
    fields: list[Any] = []
    takes_any = False
    for parameter in inspect.signature(function).parameters.values():
        name = parameter.name
        hint = hints.get(name, Any)
        if _is_context(name, hint, parameter):
            context = name
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_any = True
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            raise SchemaError(f"parameter {name!r} is positional; arguments come by name")
        fields.append(_field(parameter, hint, documentation.parameters.get(name)))
    arguments = _struct(fields, forbid_unknown=not takes_any)
    return Signature(
        description=text,
        parameters=_object_schema(arguments),
        bind=functools.partial(_bind, arguments, takes_any),
        context_parameter=context,
    )


def unchecked(description: str, parameters: dict[str, Any], *, context: str | None) -> Signature:
    """A signature for a tool that brings its own JSON Schema (such as Mojentic's LLMTool).

    Only names are checked: which are required, and that none is unknown.
    """
    if len(description) > DESCRIPTION_LIMIT:
        raise SchemaError(
            f"its description has {len(description)} characters, the limit is {DESCRIPTION_LIMIT}"
        )
    return Signature(description, parameters, functools.partial(_by_name, parameters), context)


# --- arguments --------------------------------------------------------------------------------


def _bind(
    struct: type[msgspec.Struct], takes_any: bool, arguments: dict[str, Any]
) -> dict[str, Any]:
    known = struct.__struct_fields__
    if not takes_any:
        _refuse_unknown(arguments, known)
    try:
        value = msgspec.convert(arguments, struct, dec_hook=_decode_custom)
    except msgspec.ValidationError as error:
        raise InvalidArguments(_for_the_model(str(error)) + _choices(struct, str(error))) from None
    # Only what was given: the function's own defaults are the authority.
    given: dict[str, Any] = {name: getattr(value, name) for name in known if name in arguments}
    _complete(given)
    if takes_any:
        given |= {name: item for name, item in arguments.items() if name not in known}
    return given


def _complete(value: Any) -> None:
    """Give each dataclass in it its defaults. msgspec leaves plain ones to the class, where `vars`,
    and who writes the object as JSON, do not find them."""
    if isinstance(value, dict):
        value = value.values()
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            if hasattr(value, field.name):
                part = getattr(value, field.name)
                object.__setattr__(value, field.name, part)  # frozen ones, too
                if part is not field.default:
                    _complete(part)
        return
    elif not isinstance(value, list | tuple | set | frozenset):
        return
    for one in value:
        _complete(one)


def _by_name(parameters: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    known = tuple(parameters.get("properties", {}))
    missing = [name for name in parameters.get("required", ()) if name not in arguments]
    if missing:
        raise InvalidArguments(f"missing: {', '.join(missing)}")
    if parameters.get("additionalProperties") is not True:
        _refuse_unknown(arguments, known)
    return dict(arguments)


def _refuse_unknown(arguments: dict[str, Any], known: tuple[str, ...]) -> None:
    for name in arguments:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = (
                f"did you mean '{near[0]}'?"
                if near
                else f"known are: {', '.join(known)}"
                if known
                else "this tool takes no arguments"
            )
            raise InvalidArguments(f"unknown argument '{name}'; {hint}")


_AT = re.compile(r" - at `\$\.?(.*)`$")
_WORDS = {"`int`": "an integer", "`float`": "a number", "`str`": "a string", "`bool`": "a boolean"}


def _for_the_model(text: str) -> str:
    where = _AT.search(text)
    said = _AT.sub("", text)
    said = said.replace("Object missing required field", "missing argument")
    for python, words in _WORDS.items():
        said = said.replace(f"Expected {python}", f"expected {words}")
    return f"argument '{where[1]}': {said}" if where and where[1] else said


def _choices(struct: type[msgspec.Struct], text: str) -> str:
    where = _AT.search(text)
    if where is None or "enum value" not in text:
        return ""
    schema = _object_schema(struct)["properties"].get(where[1], {})
    values = schema.get("enum") or []
    return f"; allowed are: {', '.join(map(repr, values))}" if values else ""


# --- schema -----------------------------------------------------------------------------------


def _written(function: Callable[..., Any]) -> Callable[..., Any]:
    """What has the docstring and the hints: a functools.partial has those of its class."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    target: Any = _written(function)
    if inspect.isclass(target):
        target = target.__init__
    elif not inspect.isroutine(target):
        target = getattr(target, "__call__", target)  # noqa: B004 - the method is wanted
    try:
        return typing.get_type_hints(inspect.unwrap(target), include_extras=True)
    except NameError as error:
        raise SchemaError(
            f"a type hint names something that does not exist: {error}; "
            "import it at run time (not under TYPE_CHECKING) and at module level"
        ) from None
    except TypeError as error:
        raise SchemaError(f"its type hints cannot be read: {error}") from None


def _is_context(name: str, hint: Any, parameter: inspect.Parameter) -> bool:
    options = typing.get_args(hint) if _is_union(hint) else (hint,)
    if any(inspect.isclass(one) and issubclass(one, ToolContext) for one in options):
        return True
    return name == "ctx" and parameter.annotation is parameter.empty


def _field(parameter: inspect.Parameter, hint: Any, words: str | None) -> Any:
    described = _with_description(_understood(parameter.name, hint), words)
    if parameter.default is parameter.empty:
        return (parameter.name, described)
    default = parameter.default
    if default is None and not _allows_none(hint):
        # `x: int = None` means "may be left out" to people and to models.
        return (parameter.name, described, msgspec.field(default_factory=lambda: None))
    return (parameter.name, described, _default(default))


def _default(value: Any) -> Any:
    """A default that a model is shown where JSON has a word for it."""
    if _shows_in_json(value) and not isinstance(value, (list, dict, set, bytearray)):
        return value
    return msgspec.field(default_factory=lambda: value)


def _shows_in_json(default: Any) -> bool:
    try:
        msgspec.json.encode(default)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _with_description(hint: Any, words: str | None) -> Any:
    extra = typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ()
    said = [one for one in extra if isinstance(one, str)]
    has_own = any(isinstance(one, msgspec.Meta) and one.description for one in extra)
    text = said[0] if said else words
    return hint if has_own or not text else typing.Annotated[hint, msgspec.Meta(description=text)]


def _understood(name: str, hint: Any, inside: tuple[Any, ...] = ()) -> Any:
    """The hint, or one that msgspec understands as well. Raises SchemaError.

    `inside`: the dataclasses that it is a part of.
    """
    if hint is Any or isinstance(hint, (str, ForwardRef)):
        return Any
    refused: TypeError | None = None
    try:
        _schema_of(hint)
    except TypeError as error:
        refused = error
    if refused is None and not _keeps_fields(hint):
        return hint
    rebuilt = _rebuilt(name, hint, inside)
    with contextlib.suppress(TypeError):
        if rebuilt is not None and _schema_of(rebuilt):
            return rebuilt
    if refused is None:
        return hint  # it contains itself: better offered with all its fields than not at all
    raise SchemaError(
        f"parameter {name!r}: a model cannot fill in {_show(hint)}{_why(refused)}; "
        "use str, int, float, bool, Literal, Enum, list, dict, tuple, a dataclass, "
        "a TypedDict or a pydantic model"
    )


def _keeps_fields(hint: Any, seen: frozenset[Any] = frozenset()) -> bool:
    """Whether a dataclass in it has fields that it fills in itself (`init=False`): msgspec would
    have the model fill them in."""
    if not (inspect.isclass(hint) and dataclasses.is_dataclass(hint)):
        return any(_keeps_fields(one, seen) for one in typing.get_args(hint))
    if hint in seen:
        return False
    hints = typing.get_type_hints(hint, include_extras=True)
    return any(
        not one.init or _keeps_fields(hints[one.name], seen | {hint})
        for one in dataclasses.fields(hint)
    )


def _rebuilt(name: str, hint: Any, inside: tuple[Any, ...]) -> Any:
    """The same from parts that msgspec understands each by itself; None if it has none."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if _is_union(hint):
        return _one_of(name, parts, inside)
    if origin is typing.Annotated:
        return typing.Annotated[(_understood(name, parts[0], inside), *hint.__metadata__)]
    if origin in _CONTAINERS:
        return origin[tuple(one if one is ... else _understood(name, one, inside) for one in parts)]
    if inspect.isclass(hint) and dataclasses.is_dataclass(hint) and hint not in inside:
        return _record(name, hint, (*inside, hint))
    return None


_CONTAINERS = frozenset(
    {list, tuple, set, frozenset, dict, abc.Sequence, abc.Mapping, abc.Collection, abc.Iterable}
)


class _AnyInstance(type):
    # msgspec checks what a hook returned against the hinted type; here any member may come back.
    def __instancecheck__(cls, instance: object) -> bool:
        return True


class _Rebuilt(metaclass=_AnyInstance):
    """A type of ours in the place of one that msgspec does not understand."""

    @staticmethod
    def schema() -> dict[str, Any]:
        """What a model is told of it."""
        raise NotImplementedError

    @staticmethod
    def decode(value: Any) -> Any:
        """The value that the function gets. Raises ValueError."""
        raise NotImplementedError


def _record(name: str, kind: Any, inside: tuple[Any, ...]) -> Any:
    """A dataclass some of whose fields have to be rebuilt."""
    hints = typing.get_type_hints(kind, include_extras=True)
    fields: list[Any] = []
    for one in dataclasses.fields(kind):
        if not one.init:
            continue
        hint = _understood(name, hints[one.name], inside)
        if one.default is not dataclasses.MISSING:
            fields.append((one.name, hint, _default(one.default)))
        elif one.default_factory is not dataclasses.MISSING:
            factory = msgspec.field(default_factory=one.default_factory)
            fields.append((one.name, hint, factory))
        else:
            fields.append((one.name, hint))
    # The words that dataclasses make up where a class has none say nothing to a model.
    words = kind.__doc__ if not (kind.__doc__ or "").startswith(f"{kind.__name__}(") else None
    struct = msgspec.defstruct(kind.__name__, fields, kw_only=True, namespace={"__doc__": words})

    class Record(_Rebuilt):
        @staticmethod
        def schema() -> dict[str, Any]:
            return _inlined(*_schema_of(struct))

        @staticmethod
        def decode(value: Any) -> Any:
            try:
                read = msgspec.convert(value, struct, dec_hook=_decode_custom)
            except msgspec.ValidationError as error:
                raise ValueError(_for_the_model(str(error))) from None
            given = (field for field in struct.__struct_fields__ if field in value)
            return kind(**{field: getattr(read, field) for field in given})

    return Record


def _one_of(name: str, options: tuple[Any, ...], inside: tuple[Any, ...]) -> Any:
    """A type for a union whose members only their contents tell apart: those that have a place for
    all that was given are tried first, else a member without required fields would take anything.
    """
    members = [_understood(name, option, inside) for option in options]
    schemas = [_inlined(*_schema_of(member)) for member in members]

    class OneOf(_Rebuilt):
        @staticmethod
        def schema() -> dict[str, Any]:
            return {"anyOf": schemas}

        @staticmethod
        def decode(value: Any) -> Any:
            refusals: dict[int, str] = {}
            order = sorted(range(len(members)), key=lambda one: _without_place(value, schemas[one]))
            for number in order:
                member = members[number]
                try:
                    return msgspec.convert(value, member, dec_hook=_decode_custom)
                except msgspec.ValidationError as error:
                    refusals[number] = f"{_show(member)}: {_for_the_model(str(error))}"
            raise ValueError("fits none of " + "; ".join(refusals[one] for one in sorted(refusals)))

    return OneOf


def _without_place(value: Any, schema: dict[str, Any]) -> int:
    """How many of these fields such an object does not have."""
    known = schema.get("properties")
    return len(value.keys() - known.keys()) if known is not None and isinstance(value, dict) else 0


def _struct(fields: list[Any], *, forbid_unknown: bool) -> type[msgspec.Struct]:
    return msgspec.defstruct(
        "Arguments", fields, kw_only=True, forbid_unknown_fields=forbid_unknown
    )


def _schema_of(hint: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    (schema,), components = msgspec.json.schema_components(
        [hint], schema_hook=_custom_schema, ref_template="#/$defs/{name}"
    )
    return schema, components


def _object_schema(struct: type[msgspec.Struct]) -> dict[str, Any]:
    schema = _with_definitions_on_top(_inlined(*_schema_of(struct)))
    schema.pop("title", None)
    schema.setdefault("properties", {})
    schema.setdefault("required", [])
    return schema


def _inlined(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    """The schema without references, except where a type contains itself."""
    kept: dict[str, Any] = {}

    def walk(node: Any, inside: tuple[str, ...]) -> Any:
        if isinstance(node, list):
            return [walk(one, inside) for one in node]
        if not isinstance(node, dict):
            return node
        reference = node.get("$ref", "")
        name = reference.removeprefix("#/$defs/") if isinstance(reference, str) else ""
        if name in components:
            if name in inside:
                kept.setdefault(name, None)
                return node
            rest = {key: value for key, value in node.items() if key != "$ref"}
            return {**walk(components[name], (*inside, name)), **walk(rest, inside)}
        walked = {key: walk(value, inside) for key, value in node.items()}
        if "properties" in walked:
            walked.pop("title", None)
        values = walked.get("enum")
        if isinstance(values, list) and "type" not in walked:
            walked.pop("title", None)
            kinds = {_json_type(value) for value in values}
            if len(kinds) == 1:
                walked = {"type": kinds.pop(), **walked}
        return walked

    walked: dict[str, Any] = walk(schema, ())
    if kept:
        walked["$defs"] = {name: walk(components[name], (*kept,)) for name in kept}
    return walked


def _with_definitions_on_top(schema: dict[str, Any]) -> dict[str, Any]:
    """References are looked up at the top of a schema: what its parts brought along for theirs goes
    there, under another name where that one means something else."""
    top: dict[str, Any] = {}
    sources: dict[str, Any] = {}

    def lifted(node: Any, names: dict[str, str]) -> Any:
        if isinstance(node, list):
            return [lifted(one, names) for one in node]
        if not isinstance(node, dict):
            return node
        own = node.get("$defs", {})
        taken: dict[str, str] = {}
        for name in own:
            free = name
            while sources.setdefault(free, (own[name], own)) != (own[name], own):
                free += "_"
            taken[name] = free
        names = names | taken
        for name, definition in own.items():
            top[names[name]] = lifted(definition, names)
        found = {key: lifted(value, names) for key, value in node.items() if key != "$defs"}
        reference = found.get("$ref")
        if isinstance(reference, str):
            name = reference.removeprefix("#/$defs/")
            found["$ref"] = f"#/$defs/{names.get(name, name)}"
        return found

    found: dict[str, Any] = lifted(schema, {})
    return found | {"$defs": top} if top else found


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if value is None:
        return "null"
    return {int: "integer", float: "number", str: "string"}.get(type(value), "object")


def _custom_schema(kind: type) -> dict[str, Any]:
    if issubclass(kind, _Rebuilt):
        return kind.schema()
    pydantic = getattr(kind, "model_json_schema", None)
    if pydantic is not None:
        schema: dict[str, Any] = pydantic()
        return _inlined(schema, schema.pop("$defs", {}))
    raise NotImplementedError(f"{kind.__name__} has no JSON form")


def _decode_custom(kind: type, value: Any) -> Any:
    if issubclass(kind, _Rebuilt):
        return kind.decode(value)
    try:
        return kind.model_validate(value)  # type: ignore[attr-defined]
    except ValueError as error:
        errors = getattr(error, "errors", None)
        if errors is None:
            raise
        first = errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _allows_none(hint: Any) -> bool:
    if typing.get_origin(hint) is typing.Annotated:
        return _allows_none(typing.get_args(hint)[0])
    return hint is Any or hint is None or (_is_union(hint) and type(None) in typing.get_args(hint))


def _show(hint: Any) -> str:
    return hint.__name__ if inspect.isclass(hint) else str(hint).replace("typing.", "")


def _why(error: Exception) -> str:
    said = str(error).splitlines()[0]
    # What msgspec says of a class that it does not know is advice for us.
    return "" if said.startswith("Generating JSON schema for custom types") else f" ({said})"


def jsonable(value: Any) -> Any:
    """What a tool returned, as msgspec can write it: dataclasses, enums, pydantic and so on."""
    dump = getattr(value, "model_dump", None)
    if dump is not None and not inspect.isclass(value):
        return dump(mode="json")
    if isinstance(value, enum.Enum):
        return value.value
    raise NotImplementedError(f"a {type(value).__name__} has no JSON form")
