"""Finding tools in a user's project, and refusing what cannot be one."""

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from voicebus.services.tools import toolbox

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Writes files of a user's project; what was imported is forgotten afterwards."""
    modules, path = set(sys.modules), list(sys.path)

    def make(name: str, text: str) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
        return file

    yield make
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def refusal(*specs: str, path: Path | None = None) -> str:
    with pytest.raises(toolbox.ToolboxError) as refused:
        toolbox.load(specs, [path] if path else [])
    text = str(refused.value)
    assert "Traceback" not in text
    assert "\n" not in text
    return text


TWO = '''
    import os

    def one(a: int) -> int:
        """First."""
        return a

    def two() -> None:
        """Second."""

    def _private() -> None:
        """Not a tool."""
'''


def test_a_plain_modules_public_functions_are_its_tools(write: Write) -> None:
    file = write("plain_tools.py", TWO)

    assert sorted(toolbox.load([str(file)])) == ["one", "two"]


def test_once_something_is_marked_only_that_is_a_tool(write: Write) -> None:
    file = write(
        "marked_tools.py",
        '''
        from voicebus import tool

        @tool(name="renamed", effects="none")
        def one() -> None:
            """First."""

        def helper() -> None:
            """Not a tool."""
        ''',
    )

    found = toolbox.load([str(file)])

    assert list(found) == ["renamed"]
    assert found["renamed"].options.effects == "none"


def test_one_function_can_be_named(write: Write) -> None:
    file = write("some_tools.py", TWO)

    assert list(toolbox.load([f"{file}:two"])) == ["two"]


def test_a_users_project_may_have_packages_named_like_ours(write: Write, tmp_path: Path) -> None:
    write("services/__init__.py", "")
    write("services/booking.py", "NAME = 'mine'")
    write("config/__init__.py", "LIMIT = 7")
    write("bus/__init__.py", "")
    write(
        "assistant_tools.py",
        '''
        import bus
        from config import LIMIT
        from services.booking import NAME

        def who() -> str:
            """Tell."""
            return f"{NAME} {LIMIT}"
        ''',
    )

    found = toolbox.load(["assistant_tools"], [tmp_path])

    assert found["who"].target() == "mine 7"


def test_a_file_in_a_package_may_import_relatively(write: Write, tmp_path: Path) -> None:
    write("pkg_of_tools/__init__.py", "")
    write("pkg_of_tools/data.py", "VALUE = 5")
    file = write(
        "pkg_of_tools/weather.py",
        '''
        from .data import VALUE

        def value() -> int:
            """Tell."""
            return VALUE
        ''',
    )

    assert toolbox.load([str(file)])["value"].target() == 5


def test_a_file_named_like_a_module_that_is_loaded_gets_its_own_name(write: Write) -> None:
    file = write("json.py", TWO)

    assert sorted(toolbox.load([str(file)])) == ["one", "two"]
    assert sys.modules["json"].__file__ != str(file)


def test_objects_of_mojentics_kind_work_as_they_are(write: Write) -> None:
    file = write(
        "llm_tools.py",
        """
        class Adder:
            @property
            def descriptor(self):
                return {
                    "type": "function",
                    "function": {
                        "name": "add",
                        "description": "Add two numbers.",
                        "parameters": {
                            "type": "object",
                            "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
                            "required": ["a", "b"],
                        },
                    },
                }

            def run(self, a, b):
                return a + b

        adder = Adder()
        """,
    )

    for spec in (str(file), f"{file}:adder", f"{file}:Adder"):
        found = toolbox.load([spec])["add"]
        assert found.target(**found.signature.bind({"a": 1, "b": 2})) == 3


def test_an_object_of_mojentics_kind_without_a_schema_of_an_object_is_refused(write: Write) -> None:
    file = write(
        "listed_tools.py",
        """
        class Adder:
            descriptor = {"function": {"name": "add", "parameters": {"type": "array"}}}

            def run(self):
                return 1

        adder = Adder()
        """,
    )

    with pytest.raises(toolbox.ToolboxError, match='no JSON Schema with "type": "object"'):
        toolbox.load([str(file)])


def test_a_class_keeps_its_state_between_calls(write: Write) -> None:
    file = write(
        "stateful_tools.py",
        '''
        from voicebus import tool

        @tool(name="count")
        class Counter:
            """Count."""

            def __init__(self) -> None:
                self.number = 0

            def __call__(self, by: int) -> int:
                self.number += by
                return self.number
        ''',
    )

    found = toolbox.load([str(file)])["count"]

    assert [found.target(by=2), found.target(by=3)] == [2, 5]
    assert list(found.signature.parameters["properties"]) == ["by"]


def test_async_functions_are_known_as_such(write: Write) -> None:
    file = write("async_tools.py", 'async def one() -> None:\n    """First."""\n')

    assert toolbox.load([str(file)])["one"].is_async


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import os\nimport no_such_package_here\n", ["no_such_package_here", ":2", "install"]),
        ("def broken(:\n", ["SyntaxError", ":1"]),
        ("\n\n1 / 0\n", ["ZeroDivisionError: division by zero", ":3"]),
        ("import sys\nsys.exit(2)\n", ["sys.exit(2)", "__main__"]),
    ],
)
def test_a_module_that_cannot_be_imported_says_where_and_why(
    write: Write, text: str, said: list[str]
) -> None:
    file = write("broken_tools.py", text)

    found = refusal(str(file))

    assert str(file) in found
    for part in said:
        assert part in found


def test_the_place_named_is_the_users_even_when_the_error_is_deeper(write: Write) -> None:
    write("helper_of_tools.py", "import json\nVALUE = json.loads('{')\n")
    file = write("outer_tools.py", "import helper_of_tools\n")

    assert "helper_of_tools.py:2" in refusal(str(file))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("no_such_module_at_all", "no_such_module_at_all"),
        ("/no/such/file.py", "there is no file /no/such/file.py"),
        ("", "names no module"),
    ],
)
def test_what_is_not_there_is_named(spec: str, said: str) -> None:
    assert said in refusal(spec)


def test_a_module_that_is_not_installed_is_one_clear_line() -> None:
    assert refusal("no_such_module_at_all") == (
        "cannot import tools from 'no_such_module_at_all': No module named "
        f"'no_such_module_at_all'; install 'no_such_module_at_all' for {sys.executable}, name the "
        "folder that holds it in tools.path, or name the file (FILE.py)"
    )


@pytest.mark.parametrize("option", ["efects='none'", "effects='noen'"])
def test_a_wrong_option_of_a_tool_is_told_with_the_line_that_has_it(
    write: Write, option: str
) -> None:
    file = write("wrong_option.py", f"from voicebus import tool\n\n@tool({option})\ndef f(): ...\n")

    assert f"({file}:3)" in refusal(str(file))


def test_a_name_that_is_not_there_comes_with_those_that_are(write: Write) -> None:
    file = write("named_tools.py", TWO)

    assert "no 'three'" in refusal(f"{file}:three")
    assert "one, two" in refusal(f"{file}:three")


def test_what_cannot_be_called_is_no_tool(write: Write) -> None:
    file = write("value_tools.py", TWO + "\n    VALUE = 3\n")

    assert "nothing to call" in refusal(f"{file}:VALUE")


def test_a_module_without_functions_has_no_tools(write: Write) -> None:
    file = write("empty_tools.py", "import os\nVALUE = 3\n")

    assert "no tools in" in refusal(str(file))


def test_two_tools_of_one_name_are_both_named(write: Write) -> None:
    first, second = write("first_tools.py", TWO), write("second_tools.py", TWO)

    found = refusal(str(first), str(second))

    assert "two tools are named 'one'" in found
    assert "first_tools.py" in found
    assert "second_tools.py" in found


def test_whatever_is_named_twice_is_one_tool(write: Write) -> None:
    file = write(
        "twice_tools.py",
        """
        from voicebus import tool

        class Lookup:
            descriptor = {"function": {"name": "look", "description": "Look."}}

            def run(self): ...

        @tool
        class Counter:
            "Count."
            def __call__(self) -> int: return 1

        @tool
        def plain() -> int:
            "Plain."

        lookup = Lookup()
        """,
    )

    assert set(toolbox.load([str(file), str(file)])) == {"look", "Counter", "plain"}


def test_a_function_that_no_model_could_call_names_itself_and_its_file(write: Write) -> None:
    file = write("silent_tools.py", "def silent(a: int) -> None:\n    pass\n")

    found = refusal(str(file))

    assert "'silent'" in found
    assert "silent_tools.py" in found
    assert "no docstring" in found
