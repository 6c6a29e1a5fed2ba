"""The caller's sound on its way in: numbered frames to the transport of the session."""

from collections.abc import Callable

from voicebus.bus.messages.base import encode
from voicebus.bus.messages.sound import BYTES_PER_SAMPLE, AudioFormat, SoundIn, duration_ms
from voicebus.bus.sockets import Dealer, Frames, Sent, Sockets
from voicebus.client.errors import BadSound

LARGEST_FRAME_BYTES = 16 * 1024
QUEUED_FRAMES = 100
"""Two seconds of 20 ms frames wait for a transport that is away; what comes then is dropped."""


class Voice:
    """Sends frames, and finds the new transport when the session moves to one."""

    def __init__(
        self, sockets: Callable[[], Sockets], session_id: str, token: str, endpoint: str
    ) -> None:
        self._sockets = sockets
        self._session_id = session_id
        self.token = token
        """Whose numbers `after_n` counts."""
        self._endpoint = endpoint
        self._dealer: Dealer | None = None
        self.format: AudioFormat = "pcm16"
        self.sent = 0
        """The number of the last frame sent."""
        self._follows_command = False
        self.dropped_ms = 0
        """Sound that found the queue to the transport full, in milliseconds."""

    def send(self, sound: bytes) -> int:
        """The number of its last frame. Raises BadSound for half a sample."""
        width = BYTES_PER_SAMPLE[self.format]
        if len(sound) % width:
            raise BadSound(
                f"{len(sound)} bytes of sound are no whole number of samples: {self.format} has "
                f"{width} bytes a sample; split sound only between samples"
            )
        for start in range(0, len(sound), LARGEST_FRAME_BYTES):
            self._frame(sound[start : start + LARGEST_FRAME_BYTES])
        return self.sent

    def command_follows(self) -> int:
        """`after_n` of a command that is given now; what is sent next is heard after it."""
        self._follows_command = True
        return self.sent

    def move(self, endpoint: str) -> None:
        """The session speaks through another transport now; numbers go on."""
        if endpoint != self._endpoint:
            self.close()
            self._endpoint = endpoint

    def close(self) -> None:
        """Disconnect."""
        if self._dealer is not None:
            self._dealer.close()
            self._dealer = None

    def _frame(self, samples: bytes) -> None:
        if self._dealer is None:
            self._dealer = self._sockets().dealer(
                self._endpoint, _ignore, name="voice", queue=QUEUED_FRAMES
            )
        header = SoundIn(
            session_id=self._session_id,
            token=self.token,
            n=self.sent + 1,
            follows_command=self._follows_command,
        )
        if self._dealer.send([encode(header), samples]) is Sent.OK:
            self.sent += 1
            self._follows_command = False
        else:
            self.dropped_ms += duration_ms(len(samples), self.format)


def _ignore(frames: Frames) -> None:
    """Sound has no replies."""
