"""OpenAI Realtime (and who speaks its dialect): sound in frames, sound into frames, dialling.

The beta's names are understood, too: Azure's preview and some proxies still use them.
"""

import msgspec

from voicebus.services.transport.media.address import Address, address
from voicebus.services.transport.media.pieces import (
    InputCommitted,
    Malformed,
    Piece,
    SoundDelta,
    SoundDone,
    SpeechStarted,
)

_DELTAS = ("response.output_audio.delta", "response.audio.delta")
_DONES = ("response.output_audio.done", "response.audio.done")
_SPEECH = "input_audio_buffer.speech_started"
_COMMITTED = "input_audio_buffer.committed"


class _Sound(msgspec.Struct):
    """msgspec decodes the base64 itself, strictly and three times as fast as in two steps."""

    type: str
    delta: bytes = b""
    response_id: str = ""
    item_id: str = ""
    content_index: int = 0


class _Append(msgspec.Struct):
    type: str
    audio: bytes


_sound = msgspec.json.Decoder(_Sound)
_encoder = msgspec.json.Encoder()


class OpenAI:
    """The piece of this vendor."""

    def __init__(self, name: str = "openai", intent: str | None = None) -> None:
        """`intent` transcription: sessions that only write down; they are dialled without model."""
        self.name = name
        self._intent = intent

    def look(self, text: str) -> Piece | None:
        """What the frame holds for the media plane, or None: then it is the session's alone.

        A quote inside a JSON string is escaped, so that no transcript can look like one of the
        types searched for; most frames are told apart without being parsed.
        """
        if (
            'audio.delta"' in text
            or 'audio.done"' in text
            or 'speech_started"' in text
            or 'buffer.committed"' in text
        ):
            return self._parse(text)
        return None

    def _parse(self, text: str) -> Piece | None:
        try:
            frame = _sound.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            is_sound = any(f'"{name}"' in text for name in _DELTAS)
            return Malformed(str(error)) if is_sound else None
        if frame.type in _DELTAS:
            if not frame.response_id or not frame.item_id:
                return Malformed("sound without response_id or item_id")
            return SoundDelta(frame.response_id, frame.item_id, frame.content_index, frame.delta)
        if frame.type in _DONES:
            return SoundDone(frame.response_id, frame.item_id, frame.content_index)
        if frame.type == _SPEECH:
            return SpeechStarted(frame.item_id)
        if frame.type == _COMMITTED:
            return InputCommitted()
        return None

    def wrap(self, sound: bytes) -> bytes:
        """The caller's sound as a frame to send."""
        return _encoder.encode(_Append("input_audio_buffer.append", sound))

    def address(self, url: str, model: str | None) -> Address:
        """Where to dial. Raises BadAddress."""
        query = {"intent": self._intent} if self._intent else {"model": model} if model else {}
        return address(url, query)

    def headers(self, key: str | None) -> dict[str, str]:
        """What the handshake carries: the key goes here and nowhere else."""
        return {"Authorization": f"Bearer {key}"} if key else {}
