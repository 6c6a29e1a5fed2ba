"""Finds the tools of a user's modules and files, and refuses clearly what cannot be one."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from voicebus.services.tools import api, schema
from voicebus.services.tools.api import MARK, Options
from voicebus.services.tools.bounds import NAME

_INSTALLED = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))


class ToolboxError(Exception):
    """Tools that cannot be offered. The text says which, where, why and what to do."""


@dataclass(frozen=True)
class Tool:
    """One tool, ready to be called."""

    name: str
    signature: schema.Signature
    options: Options
    target: Callable[..., Any]
    is_async: bool
    source: str
    """Where it came from, for messages."""
    origin: Any
    """What stands there: named twice, it is still one tool."""


def load(specs: Iterable[str], search_path: Iterable[str | Path] = ()) -> dict[str, Tool]:
    """The tools of `MODULE`, `FILE.py` and `MODULE_OR_FILE:NAME`, by name.

    `search_path` is put before `sys.path`, as Python does for a script's folder. A module's tools
    are what it marked with `@tool`; if it marked nothing, its own public functions. Raises
    ToolboxError.
    """
    for folder in reversed([str(Path(one).resolve()) for one in search_path]):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    importlib.invalidate_caches()
    found: dict[str, Tool] = {}
    for spec in specs:
        for one in _load(spec):
            other = found.get(one.name)
            if other is not None and other.origin is not one.origin:
                raise ToolboxError(
                    f"two tools are named '{one.name}': {other.source} and {one.source}; "
                    'rename one, or give it another name with @tool(name="...")'
                )
            found[one.name] = one
    return found


def _load(spec: str) -> list[Tool]:
    place, name = _split(spec)
    module = _import(place, spec)
    if not name:
        chosen = _tools_of(module)
        if not chosen:
            raise ToolboxError(
                f"no tools in '{spec}': it has neither functions marked with @tool "
                "nor public functions of its own"
            )
        return [_tool(label, target, spec) for label, target in chosen]
    target: Any = module
    for part in name.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            names = ", ".join(label for label, _ in _tools_of(module)) or "none"
            raise ToolboxError(f"no '{name}' in '{place}'; the tools it has: {names}") from None
    if not callable(target) and not _is_llm_tool(target):
        raise ToolboxError(
            f"'{spec}' is a {type(target).__name__}, not a function: nothing to call"
        )
    return [_tool(name.rsplit(".", 1)[-1], target, place)]


def _split(spec: str) -> tuple[str, str]:
    place, colon, name = spec.rpartition(":")
    if colon and (name.replace(".", "").isidentifier()):
        return place, name
    return spec, ""


# --- importing --------------------------------------------------------------------------------


def _import(place: str, spec: str) -> ModuleType:
    if not place.strip():
        raise ToolboxError(f"'{spec}' names no module: expected MODULE, FILE.py or either:NAME")
    is_file = place.endswith(".py") or "/" in place
    if is_file:
        path = Path(place).expanduser().resolve()
        if not path.is_file():
            raise ToolboxError(f"cannot import tools from '{spec}': there is no file {path}")
        name, root = _module_name(path)
        if str(root) not in sys.path:
            sys.path.insert(0, str(root))
        return _guarded(lambda: _import_file(name, path), spec)
    return _guarded(lambda: importlib.import_module(place), spec)


def _module_name(path: Path) -> tuple[str, Path]:
    """The dotted name as the file's own package sees it, and the folder to search."""
    parts = [path.stem]
    folder = path.parent
    while (folder / "__init__.py").exists() and folder.parent != folder:
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts), folder


def _import_file(name: str, path: Path) -> ModuleType:
    loaded = sys.modules.get(name)
    if loaded is not None and _same_file(loaded, path):
        return loaded
    if "." in name:
        module = importlib.import_module(name)
        if _same_file(module, path):
            return module
    if loaded is not None or "." in name or name in sys.stdlib_module_names:
        # Another module has that name already (json.py, tools.py): give this one its own.
        name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        if name in sys.modules:
            return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _same_file(module: ModuleType, path: Path) -> bool:
    where = getattr(module, "__file__", None)
    return where is not None and Path(where).resolve() == path


def _guarded(load: Callable[[], ModuleType], spec: str) -> ModuleType:
    try:
        return load()
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # a module may well call sys.exit() when imported
        raise ToolboxError(f"cannot import tools from '{spec}': {_why(error)}") from None


def _why(error: BaseException) -> str:
    where = _place_of(error)
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SyntaxError):
        said = f"SyntaxError: {error.msg}"
    advice = "correct it, or take it out of the list of tool modules"
    if isinstance(error, SystemExit):
        said = f"it called sys.exit({error.code!r}) while it was imported"
        advice = 'keep what it runs under `if __name__ == "__main__":`'
    elif isinstance(error, ModuleNotFoundError) and error.name:
        said = str(error)
        advice = (
            f"install '{error.name}' for {sys.executable}, name the folder that holds it "
            "in tools.path, or name the file (FILE.py)"
        )
    return f"{said}{where}; {advice}"


def _place_of(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}:{error.lineno or 0})"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in (__file__, api.__file__, importlib.__file__)
        and not frame.filename.startswith(("<frozen", "<string>"))
    ]
    # The user's own line helps more than the library's that it led to.
    own = [frame for frame in frames if not frame.filename.startswith(_INSTALLED)]
    for frame in (own or frames)[-1:]:
        return f" ({frame.filename}:{frame.lineno})"
    return ""


# --- choosing ---------------------------------------------------------------------------------


def _tools_of(module: ModuleType) -> list[tuple[str, Any]]:
    members = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    marked = [(name, value) for name, value in members.items() if _is_marked(value)]
    marked += [
        (name, value)
        for name, value in members.items()
        if _is_llm_tool(value) and not inspect.isclass(value) and not _is_marked(value)
    ]
    if marked:
        return marked
    own = [
        (name, value)
        for name, value in members.items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    ]
    if own:
        return own
    return [
        (name, value)
        for name, value in members.items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and _is_llm_tool(value)
    ]


def _is_marked(value: Any) -> bool:
    # Not by getattr alone: mocks and proxies have every attribute.
    return isinstance(getattr(value, MARK, None), Options)


def _is_llm_tool(value: Any) -> bool:
    """Mojentic's LLMTool, by its shape: a descriptor and run()."""
    if inspect.ismodule(value):
        return False
    kind = value if inspect.isclass(value) else type(value)
    return hasattr(kind, "descriptor") and callable(getattr(kind, "run", None))


def _tool(label: str, target: Any, source: str) -> Tool:
    options: Options = getattr(target, MARK, Options())
    origin = target
    where = f"{source}:{label}"
    try:
        if _is_llm_tool(target):
            return _llm_tool(target, options, where)
        name = options.name or label
        if inspect.isclass(target):
            target = _instance(target)
        if not NAME.fullmatch(name):
            raise schema.SchemaError("a tool's name is 1 to 64 letters, digits, _ or -")
        signature = schema.describe(target, options.description)
    except schema.SchemaError as error:
        raise ToolboxError(f"'{label}' ({where}) cannot be a tool: {error}") from None
    return Tool(name, signature, options, target, _is_async(target), where, origin)


def _instance(kind: type) -> Any:
    # One per loading process: runners are forked from it, so each has its own from there on.
    try:
        made = kind()
    except Exception as error:
        raise schema.SchemaError(
            f"{kind.__name__}() raised {type(error).__name__}: {error}; "
            "a class that is a tool is made without arguments"
        ) from None
    if not callable(made):
        raise schema.SchemaError("the class has no __call__")
    if not made.__doc__ and not type(made).__call__.__doc__:
        raise schema.SchemaError("neither the class nor its __call__ has a docstring")
    return made


def _llm_tool(target: Any, options: Options, where: str) -> Tool:
    made = _instance_of_llm_tool(target) if inspect.isclass(target) else target
    try:
        function = made.descriptor["function"]
        name, text = function["name"], function.get("description", "")
        parameters = function.get("parameters") or {"type": "object", "properties": {}}
    except (KeyError, TypeError, AttributeError) as error:
        raise schema.SchemaError(
            f"its descriptor has no {error}; expected "
            '{"type": "function", "function": {"name", "description", "parameters"}}'
        ) from None
    if not NAME.fullmatch(str(name)):
        raise schema.SchemaError(f"its name {name!r} is not 1 to 64 letters, digits, _ or -")
    takes = inspect.signature(made.run).parameters
    context = "ctx" if "ctx" in takes else None
    if parameters.get("type") != "object":
        raise schema.SchemaError('its parameters are no JSON Schema with "type": "object"')
    signature = schema.unchecked(text, parameters, context=context)
    return Tool(name, signature, options, made.run, _is_async(made.run), where, target)


def _instance_of_llm_tool(kind: type) -> Any:
    try:
        return kind()
    except Exception as error:
        raise schema.SchemaError(
            f"{kind.__name__}() raised {type(error).__name__}: {error}; "
            "make it yourself and name the object (MODULE:NAME)"
        ) from None


def _is_async(target: Any) -> bool:
    return inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(
        getattr(type(target), "__call__", None)  # noqa: B004 - the method is wanted
    )
