"""Which workers were given calls: known to the next dispatcher, also on a full disk."""

from pathlib import Path

import pytest

from voicebus.services.tools.dispatcher import MEMORY_BYTES, WorkerMemory

MANY = tuple(f"toolhost-0/{n:08x}" for n in range(500))


@pytest.mark.parametrize("names", [(), ("toolhost-0/1", "w/2"), MANY])
def test_what_was_written_is_read_by_the_next(tmp_path: Path, names: tuple[str, ...]) -> None:
    path = tmp_path / "workers.json"
    for before in (MANY, ("toolhost-0/12345678",), names):
        WorkerMemory(path).write(before)

    assert WorkerMemory(path).read() == names


def test_a_first_start_and_a_broken_file_know_nobody(tmp_path: Path) -> None:
    path = tmp_path / "workers.json"
    assert WorkerMemory(path).read() == ()
    path.write_bytes(b"[")

    assert WorkerMemory(path).read() == ()


def test_it_takes_no_more_room_than_it_has(tmp_path: Path) -> None:
    path = tmp_path / "workers.json"
    memory = WorkerMemory(path)
    memory.write(("w/1",))
    there = path.stat()

    memory.write(("w/1", "w/2"))
    memory.forget()

    now = path.stat()
    assert (now.st_ino, now.st_size) == (there.st_ino, MEMORY_BYTES)
    assert memory.read() == ()
