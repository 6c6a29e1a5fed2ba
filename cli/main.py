"""The verbs of `voicebus`, and how each of them ends: an exit code and, if need be, a sentence."""

import functools
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, NoReturn

import typer

from voicebus.bus.endpoints import BadRunFolder
from voicebus.cli import hiding
from voicebus.cli.problems import Problem
from voicebus.config.loader import BadSettings


class Verb(NamedTuple):
    """A command: a function of the same name in a module of the same name."""

    name: str
    help: str
    """In the list of all verbs; a verb's own help is the docstring of its function."""


VERBS = (
    Verb("demo", "Show all of it without a key: question, tool, interruption."),
    Verb("up", "Start all processes; return when each of them is ready."),
    Verb("down", "Stop all processes in order; leave nothing behind."),
    Verb("status", "Show name, state and pid of each process."),
    Verb("top", "Show what each process does, every second."),
    Verb("talk", "Hold a conversation with text or sound; print each event."),
    Verb("tail", "Print events as they come, of one session or of all."),
    Verb("restart", "Restart roles one after the other while calls go on."),
    Verb("audit", "Prove from the journal that nothing was lost or repeated."),
    Verb("replay", "Decide a recorded conversation again; show what would differ."),
    Verb("forget", "Leave no word of a conversation behind."),
    Verb("keys", "Make and list keys of programs elsewhere, and their rights."),
    Verb("chaos", "Kill and freeze processes while conversations go on; report."),
    Verb("soak", "Hold conversations for an hour; see whether memory grows."),
    Verb("schema", "Print the protocol's schemas, as a session process has them."),
    Verb("endpoints", "Print the address of each socket."),
    Verb("bench", "Measure what this machine can do: sessions, sound, CPU."),
    Verb("worker", "Check whether a worker in any language keeps the protocol."),
    Verb("doctor", "Check what is needed, and say how to get what is missing."),
)


def build(arguments: list[str]) -> typer.Typer:
    """The application. Only the verb that is asked for is imported: `--help` is quick, and a
    broken verb breaks no other."""
    app = typer.Typer(
        name="voicebus",
        help=(
            "Realtime voice conversations with AI models, as supervised processes on a ZeroMQ bus."
        ),
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_voicebus)
    wanted = next((word for word in arguments if not word.startswith("-")), None)
    for verb in VERBS:
        target = _load(verb) if verb.name == wanted else _not_loaded
        app.command(verb.name, short_help=verb.help)(target)
    return app


def _print_version(asked: bool) -> None:
    if asked:
        print(f"voicebus {importlib.metadata.version('voicebus')}")
        raise typer.Exit


def _voicebus(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Only holds the options that belong to no verb."""


def _load(verb: Verb) -> Callable[..., Any]:
    module = importlib.import_module(f"voicebus.cli.{verb.name}")
    return _ending_well(verb.name, getattr(module, verb.name))


def _not_loaded() -> None:
    raise AssertionError("only the verb that was asked for runs")


def _ending_well(verb: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """What the user can set right gets a sentence on standard error and exit code 1 (2 for a
    wrong setting), never a traceback."""

    @functools.wraps(function)
    def ended(*arguments: Any, **options: Any) -> Any:
        try:
            result = function(*arguments, **options)
            sys.stdout.flush()
        except (BadSettings, BadRunFolder) as error:
            _end(verb, str(error), 2)
        except Problem as error:
            _end(verb, str(error), error.exit_code)
        except KeyboardInterrupt:
            _end(verb, "stopped", 130)
        except BrokenPipeError:
            # Whoever read our output has read enough (`voicebus tail | head`).
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        return result

    return ended


def _end(verb: str, text: str, code: int) -> NoReturn:
    sys.stderr.write(f"voicebus {verb}: {text}\n")
    sys.exit(code)


def run(arguments: list[str] | None = None) -> NoReturn:
    """Run one verb and end the process."""
    # What tools run beside us: `demo` stays while they do.
    hiding.hide("OPENAI_API_KEY")
    words = sys.argv[1:] if arguments is None else arguments
    build(words)(words, prog_name="voicebus")
    sys.exit(0)
