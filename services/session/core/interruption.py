"""The one place where the machines are coupled: an interruption touches all of them.

sound      silence at once at the players, then truncate to what was heard
responses  cancel by id what is active, unless the provider has cancelled it itself
calls      stop those whose tools may be stopped; decide by policy what the model is told
epoch      raised, so that late and repeated cancels are harmless
"""

from collections.abc import Sequence
from typing import Literal

from voicebus.bus.messages.events import Interrupted
from voicebus.services.session.core import calls, playback, responses
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core.draft import Draft
from voicebus.services.session.core.turn_taking import provider_interrupts, provider_responds


def barge_in(d: Draft) -> None:
    """The caller began to speak. Twice is as good as once; with nothing to stop it is nothing."""
    if not provider_interrupts(d.s.config):
        return
    if provider_responds(d.s.config):
        # The provider had not begun it when the caller did, and will answer the caller instead.
        responses.unwant(d)
    _interrupt(d, "barge_in", None)


def cancelled_by_provider(d: Draft, response_id: str) -> None:
    """The turn detection cancelled a response and did not say before that it heard somebody."""
    response = d.s.responses.get(response_id)
    if response is None or not response.active or response.interrupted:
        return
    later: list[str] = []
    if response.overtaken:
        # Told late: what has begun since then answers the caller already.
        known = list(d.s.responses)
        later = known[known.index(response_id) + 1 :]
    _interrupt(d, "barge_in", None, spared=later)


def manual(d: Draft, command_id: str, *, expected: bool = False) -> None:
    """A client asks for silence. `expected`: something that was to be answered will not be."""
    dropped = responses.drop_queue(d)
    stopped = _interrupt(d, "manual", command_id, expected=dropped or expected)
    d.answer(command_id, {"interrupted": stopped}, proven=stopped)


def _interrupt(
    d: Draft,
    reason: Literal["barge_in", "manual"],
    cause: str | None,
    *,
    expected: bool = False,
    spared: Sequence[str] = (),
) -> bool:
    unheard = playback.unheard(d)
    batches = calls.uninterrupted(d)
    if spared:
        unheard = [key for key in unheard if d.s.playback[key].response_id not in spared]
        batches = [batch for batch in batches if batch.response_id not in spared]
    audible = [d.s.playback[key].response_id for key in unheard]
    active = [
        key
        for key, response in d.s.responses.items()
        if response.active
        and not response.interrupted
        and (not response.out_of_band or key in audible)
        and key not in spared
    ]
    targets = list(dict.fromkeys(audible + active))
    if not targets and not batches and not expected:
        return False
    stoppable = calls.stoppable(d, batches)
    d.s.epoch += 1
    if targets:
        d.do(fx.Flush(tuple(targets), reason))
    if stoppable:
        d.do(fx.Broadcast("interrupt", d.s.epoch, tuple(stoppable), reason))
    for target in targets:
        responses.interrupt(d, target)
    for response_id in active:
        # The provider has stopped its own response; a cancel of ours could hit the next one.
        if reason == "manual" or responses.is_out_of_band(d, response_id):
            responses.cancel(d, response_id)
    d.publish(
        Interrupted(
            turn_id=targets[-1] if targets else None,
            reason=reason,
            responses=targets,
            calls=stoppable,
        ),
        cause,
    )
    playback.interrupted(d, unheard)
    calls.interrupted(d, batches, stoppable, reason)
    return True
