"""The recorder service's main."""

import asyncio
import os
import stat
from pathlib import Path
from typing import NoReturn

from voicebus.config.settings import RecorderSettings
from voicebus.services.recorder import files
from voicebus.services.recorder.recorder import Recorder
from voicebus.services.runtime import CannotStart, Runtime, run

NICE = 10
"""Whoever talks goes first."""


def prepare(folder: str) -> Path:
    """The folder of all recordings, which only its owner may enter. Raises CannotStart."""
    if not folder:
        raise CannotStart("[recorder] folder is not set: name the folder for the recordings")
    path = Path(folder).expanduser().absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except FileExistsError:
        raise CannotStart(f"{path} is a file: name a folder with [recorder] folder") from None
    except OSError as error:
        raise CannotStart(
            f"cannot make the folder {path}: {error.strerror}; name another [recorder] folder"
        ) from None
    if status.st_uid != os.geteuid():
        raise CannotStart(f"{path} belongs to user {status.st_uid}: name another [recorder] folder")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise CannotStart(
            f"others may enter {path} (mode {stat.S_IMODE(status.st_mode):04o}), and recordings "
            "hold what people said: name a new folder with [recorder] folder, or, if this one is "
            f"for recordings alone: chmod 700 {path}"
        )
    return path


def note(folder: Path, data_folder: str) -> None:
    """Have `voicebus forget` find the recordings. Raises CannotStart."""
    data = Path(data_folder).absolute()
    try:
        files.note_place(data, folder)
    except OSError as error:
        raise CannotStart(
            f"cannot write {data / files.PLACES}: {error.strerror}; without it `voicebus forget` "
            "would not find the recordings: make it writable"
        ) from None


async def serve(runtime: Runtime[RecorderSettings]) -> None:
    """Until told to stop."""
    folder = prepare(runtime.settings.folder)
    note(folder, runtime.cell.data)
    os.nice(NICE)
    recorder = Recorder(runtime, folder)
    await recorder.begin()
    looking = asyncio.create_task(recorder.look_for_ever())
    await recorder.joined()
    runtime.ready()
    stopping = asyncio.create_task(runtime.stopping.wait())
    await asyncio.wait({looking, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if looking.done():
        looking.result()
    looking.cancel()
    runtime.draining("writing what is there")
    await recorder.stop()


def main() -> NoReturn:
    """Run it as a process."""
    run(serve, RecorderSettings, role="recorder")
