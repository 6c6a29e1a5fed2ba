"""The dispatcher's decisions, as values: which worker runs which call, and how each call ends.

Pure: no clock, no socket, no log. `core.step(state, event)` is all of it.

    submit ──► queued ──► sent ──► started ──► ended ──► acknowledged by the session: forgotten
                 ▲          │         │          ▲
                 └──────────┴─────────┴──────────┘
                  the worker is lost: `loss` decides by the tool's effects
"""
