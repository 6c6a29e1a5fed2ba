"""The pure middle of a conversation: `step(state, input) -> (state, effects)`.

No clock, no socket, no task, no chance, no log. Read `inputs.py` (what can happen), `effects.py`
(what shall be done), `state.py`, then `step.py`, which couples the small machines: `link`,
`responses`, `playback`, `calls`, `interruption`, `commands`.
"""
