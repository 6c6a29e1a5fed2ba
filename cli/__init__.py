"""The `voicebus` command: one module per verb, `main.py` holds them together."""
