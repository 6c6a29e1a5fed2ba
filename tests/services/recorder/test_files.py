import os
import stat
import wave
from pathlib import Path

import pytest

from voicebus.services.recorder import account as accounts
from voicebus.services.recorder import files, wav
from voicebus.services.recorder.account import Account
from voicebus.services.recorder.files import Files
from voicebus.services.recorder.timeline import Chunk, Mute

STEREO = b"\1\0\2\0" * 100
EVENT = b'{"kind":"user_transcript","seq":%d}\n'


def _sound(folder: Path) -> bytes:
    with wave.open(str(folder / "sound.wav")) as file:
        assert file.getparams()[:3] == (2, 2, 24_000)
        return bytes(file.readframes(file.getnframes()))


def test_everything_is_there_and_is_its_owner_s_alone(tmp_path: Path) -> None:
    one = Files(tmp_path / "s0")
    found = one.open()
    account = accounts.written(Account(session_id="s0", began_at_us=1))
    saved = one.save(24_000, Chunk(0, STEREO), [], EVENT % 1 + EVENT % 2, account)
    one.close()

    assert found == files.Found(None, None, 0, 0)
    assert saved == files.Saved(sound=True, events=True, why=None)
    assert _sound(one.folder) == STEREO
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in one.folder.iterdir()}
    assert modes == dict.fromkeys(("sound.wav", "events.jsonl", "recording.json"), 0o600)
    assert stat.S_IMODE(one.folder.stat().st_mode) == 0o700


def test_every_folder_that_was_written_to_is_noted_once_beside_the_journal(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert files.places(data) == []

    for folder in (tmp_path / "a", tmp_path / "b \u00e4", tmp_path / "a"):
        files.note_place(data, folder)

    assert files.places(data) == [tmp_path / "a", tmp_path / "b \u00e4"]
    assert stat.S_IMODE((data / files.PLACES).stat().st_mode) == 0o600


def test_the_file_is_valid_after_every_write_and_a_hole_is_silence(tmp_path: Path) -> None:
    one = Files(tmp_path / "s0")
    one.open()
    one.save(24_000, Chunk(0, STEREO), [], b"", None)
    assert _sound(one.folder) == STEREO
    one.save(24_000, Chunk(150, STEREO), [Mute(90, 160)], b"", None)

    assert _sound(one.folder) == (
        STEREO[:360] + b"\1\0\0\0" * 10 + bytes(200) + b"\1\0\0\0" * 10 + STEREO[:360]
    )
    one.close()


def test_what_a_killed_recorder_left_is_put_right(tmp_path: Path) -> None:
    one = Files(tmp_path / "s0")
    one.open()
    account = Account(session_id="s0", began_at_us=1, rate_hz=24_000)
    one.save(24_000, Chunk(0, STEREO), [], EVENT % 1, accounts.written(account))
    one.close()
    with (one.folder / "sound.wav").open("ab") as file:
        file.write(STEREO + b"\1")  # killed before the head was written
    with (one.folder / "events.jsonl").open("ab") as file:
        file.write(EVENT % 2 + b'{"kind":"ha')

    again = Files(one.folder)
    found = again.open()
    again.save(None, None, [], EVENT % 3, None)
    again.close()

    assert found == files.Found(account, 24_000, 200, 2)
    assert _sound(one.folder) == STEREO * 2
    lines = (one.folder / "events.jsonl").read_bytes()
    assert lines == EVENT % 1 + EVENT % 2 + EVENT % 3


def test_where_nobody_spoke_there_is_a_file_without_sound(tmp_path: Path) -> None:
    one = Files(tmp_path / "s0")
    one.open()
    one.close()
    assert _sound(one.folder) == b""

    again = Files(one.folder)
    assert again.open().rate_hz is None
    again.save(8_000, Chunk(0, STEREO), [], b"", None)
    again.close()

    with wave.open(str(one.folder / "sound.wav")) as file:
        assert (file.getframerate(), file.readframes(1000)) == (8_000, STEREO)


def test_the_last_event_is_found_also_behind_a_line_that_says_gone(tmp_path: Path) -> None:
    one = Files(tmp_path / "s0")
    one.open()
    one.save(None, None, [], EVENT % 1 + b'{"kind":"gone","from":2,"to":9}\n', None)
    one.close()

    assert Files(one.folder).open().last_seq == 9


def test_the_last_event_is_found_also_when_it_is_very_long(tmp_path: Path) -> None:
    one = Files(tmp_path / "s0")
    one.open()
    long = b'{"text":"' + b"x" * 300_000 + b'","seq":2}\n'
    one.save(None, None, [], EVENT % 1 + long, None)
    one.close()

    assert Files(one.folder).open().last_seq == 2


def test_a_recording_that_ended_is_left_alone(tmp_path: Path) -> None:
    one = Files(tmp_path / "s0")
    one.open()
    account = Account(session_id="s0", began_at_us=1, events=7)
    accounts.end(account, 2, "client")
    one.save(24_000, Chunk(0, STEREO), [], EVENT % 7, accounts.written(account))
    one.close()
    before = (one.folder / "sound.wav").stat().st_mtime_ns

    found = Files(one.folder).open()

    assert found.account == account
    assert (one.folder / "sound.wav").stat().st_mtime_ns == before


def test_sound_gives_way_to_others_where_the_disk_is_nearly_full(tmp_path: Path) -> None:
    one = Files(tmp_path / "s0", keep_free_bytes=1 << 60)
    one.open()
    saved = one.save(24_000, Chunk(0, STEREO), [], EVENT % 1, None)
    one.close()

    assert (saved.sound, saved.events) == (False, True)
    assert "keep_free_mb leaves" in (saved.why or "")
    assert (one.folder / "events.jsonl").read_bytes() == EVENT % 1
    assert _sound(one.folder) == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_told_and_leaves_whole_lines(tmp_path: Path) -> None:
    folder = tmp_path / "s0"
    folder.mkdir()
    (folder / "sound.wav").symlink_to("/dev/full")
    one = Files(folder)
    one.open()
    saved = one.save(24_000, Chunk(0, STEREO), [], EVENT % 1, None)
    one.close()

    assert (saved.sound, saved.events) == (False, True)
    assert "No space left on device" in (saved.why or "")
    assert str(tmp_path) in (saved.why or "")


def test_a_recording_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    one = Files(tmp_path / "s0")
    one.open()
    one.close()
    (one.folder / "notes.txt").write_text("mine")

    with pytest.raises(OSError, match="not empty"):
        files.delete(one.folder)
    assert os.listdir(one.folder) == ["notes.txt"]
    assert wav.HEAD_BYTES == 44
