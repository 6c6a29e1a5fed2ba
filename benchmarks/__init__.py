"""Benchmarks: how fast Voicebus is, beside a bare WebSocket client and beside its peers.

`python -m voicebus.benchmarks --help`. All clients speak to the same loopback provider and are
measured by time stamps that travel inside the sound itself.
"""
