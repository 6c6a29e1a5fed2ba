"""Turns that clients have ended by `commit_audio`, until the provider confirms that it has them.

A connection that is lost before it has confirmed one takes the turn along. Where only commands end
turns, the transport writes its sound again on the next one; here its end is asked for again. Where
a turn detection does, the sound is gone, and the next one finds the ends by itself.
"""

from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.draft import Draft
from voicebus.services.session.core.state import Commit
from voicebus.services.session.core.turn_taking import client_ends_turns

CONFIRM_US = 10_000_000
"""A commit that is neither confirmed nor refused for so long is waited for no more."""
LIMIT = 32
"""Commits that are remembered; of more, the oldest are forgotten."""


def ask(d: Draft, cause: str | None, after_n: int | None, token: str | None) -> None:
    """Have the provider make a turn of what was said up to that sound."""
    event_id = d.ask(fx.CommitInput(), "commit_audio", cause=cause, after_n=after_n, token=token)
    asked = Commit(event_id=event_id, cause=cause, after_n=after_n, token=token, asked_us=d.now_us)
    d.s.commits = (*d.s.commits, asked)[-LIMIT:]


def confirmed(d: Draft) -> None:
    """The provider has made a turn: confirmations come in the order of the commits."""
    d.s.commits = d.s.commits[1:]


def refused(d: Draft, event: i.ProviderRefused) -> None:
    """It has not, and says so."""
    d.s.commits = tuple(one for one in d.s.commits if one.event_id != event.event_id)


def again(d: Draft) -> None:
    """Another connection is there, and has none of them."""
    unconfirmed, d.s.commits = d.s.commits, ()
    if client_ends_turns(d.s.config):
        for one in unconfirmed:
            ask(d, one.cause, one.after_n, one.token)


def expire(d: Draft) -> None:
    """Wait no longer. Without a connection nothing can be confirmed, and no time goes by."""
    if d.s.commits and d.s.phase == "ready":
        oldest_us = d.now_us - CONFIRM_US
        d.s.commits = tuple(one for one in d.s.commits if one.asked_us > oldest_us)


def deadlines(d: Draft) -> list[int]:
    """When expire() wants to be called."""
    if d.s.commits and d.s.phase == "ready":
        return [d.s.commits[0].asked_us + CONFIRM_US]
    return []
