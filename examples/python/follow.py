"""Follow one session from Python without Voicebus's own client: pyzmq and docs/protocol.md.

python follow.py RUN_FOLDER SESSION_ID [EVENT_TO_LOSE]
"""

import json
import sys
import uuid

import zmq

QUIET = 6  # polls of half a second without a word: a session process says something each second


class Follower:
    """Every event of a session once, in order: what is missing is asked for again."""

    def __init__(self, run: str, session: str, lose: int) -> None:
        self.session = session
        self.lose = lose  # as a full queue would
        self.last = 0  # everything up to here was shown
        self.newest = 0  # known to exist
        self.incs: set[str] = set()  # of the publisher, heard so far
        self.asked_again = 0
        self.request: str | None = None  # the id of the replay under way
        self.over = False
        context = zmq.Context()
        home = session.split("-")[0].removeprefix("s")
        if not home.isdecimal():
            sys.exit(f"{session} is no session id")
        self.events = context.socket(zmq.SUB)
        self.events.setsockopt(zmq.SNDHWM, 0)  # subscriptions are messages, too
        self.events.setsockopt(zmq.LINGER, 0)
        self.events.subscribe(f"event/{session}/")  # before connecting
        self.home = f"ipc://{run}/session-{home}"
        self.events.connect(f"{self.home}.events")
        self.commands = context.socket(zmq.DEALER)
        self.commands.setsockopt(zmq.LINGER, 0)
        self.commands.connect(f"{self.home}.commands")

    def run(self) -> None:
        """Until the session is closed."""
        poller = zmq.Poller()
        poller.register(self.events, zmq.POLLIN)
        poller.register(self.commands, zmq.POLLIN)
        silent = 0
        while not self.over:
            ready = dict(poller.poll(500))
            silent = 0 if ready else silent + 1
            if silent == QUIET:
                advice = "is voicebus up, and is that its run folder? still waiting"
                print(f"nothing answers at {self.home}.events: {advice}", file=sys.stderr)
            if self.events in ready:
                frames = self.events.recv_multipart()
                self.came(json.loads(frames[1]), live=True)
            if self.commands in ready:
                self.answered(json.loads(self.commands.recv_multipart()[-1]))
            if not ready and self.request:
                self.ask(self.request)  # no answer yet: again, with the same id

    def came(self, event: dict, *, live: bool) -> None:
        """An event, live or again."""
        data, inc = event["data"], event["inc"]
        is_new = inc not in self.incs
        self.incs.add(inc)
        if event["kind"] == "welcome":  # our subscription is active from here on
            print("following", self.session, flush=True)
            self.hear(data["heads"].get(self.session, 0), is_new)
        elif event["kind"] == "head":  # each second: shows a lost tail
            self.hear(data["seq"], is_new)
        elif event.get("seq") is None:
            return
        elif live and event["seq"] == self.lose:
            self.lose = 0
            return
        else:
            self.newest = max(self.newest, event["seq"])
            # Else it is a repetition, or something before it is missing.
            if event["seq"] == self.last + 1:
                self.last += 1
                self.asked_again += not live
                self.show(event["kind"], data)
        if live:
            # A welcome tells of live sessions only: one that is over has its events all the same.
            self.look(anyway=event["kind"] == "welcome")

    def hear(self, head: int, is_new: bool) -> None:
        """The publisher says how far it is."""
        if is_new and 0 < head < self.last:
            # It has just come: the one before lost its journal, and what follows is new under
            # numbers used before.
            self.last = self.newest = head
        self.newest = max(self.newest, head)

    def look(self, *, anyway: bool = False) -> None:
        """Is something missing? Asked for page by page."""
        if (anyway or self.newest > self.last) and not self.request and not self.over:
            if self.newest > self.last > 0:
                print(f"events {self.last + 1} to {self.newest} are missing: asking for them")
            self.ask(str(uuid.uuid4()))

    def ask(self, request: str) -> None:
        """For a page of what is missing."""
        self.request = request
        what = {"from": self.last + 1, "limit": 200}
        command = {"v": 1, "id": request, "command": "replay", "session_id": self.session}
        self.commands.send_json({**command, "data": what})

    def answered(self, reply: dict) -> None:
        """By the owner of the events."""
        if reply["id"] != self.request:
            return  # the answer to a repetition
        self.request = None
        if reply["ok"]:
            for event in reply["data"]["events"]:
                self.came(event, live=False)
            self.hear(reply["data"]["next"] or 0, is_new=False)
            self.look()
        elif reply["error"]["retry"]:
            self.ask(str(uuid.uuid4()))
        else:
            sys.exit(f"the session says: {reply['error']['message']}")

    def show(self, kind: str, data: dict) -> None:
        """What is said, and the end."""
        if kind == "user_transcript":
            print("caller:", data["text"], flush=True)
        elif kind in ("assistant_transcript", "assistant_text"):
            print("assistant:", data["text"], flush=True)
        elif kind == "session_closed":
            self.over = True
            told = f"{self.asked_again} of them asked for again"
            print(f"complete: {self.last} events, {told}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: follow.py RUN_FOLDER SESSION_ID [EVENT_TO_LOSE]")
    Follower(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0).run()
