"""What only programs elsewhere meet: they come through the relay, which may say no."""

from voicebus.bus.messages.base import Message


class SubscriptionRefused(Message, frozen=True, kw_only=True):
    """A subscription that the relay does not allow. It comes on the very string subscribed,
    followed by `refused/<client>`, so that your filter lets it pass."""

    v: int = 1
    kind: str = "subscription_refused"
    client: str
    """The name that your key has at the relay."""
    topic: str
    """What you subscribed to."""
    code: str = "not_allowed"
    """`not_allowed`, or `busy` when you have too many subscriptions."""
    message: str
    """Who, what, which limit, and what to do."""
    at_us: int = 0
