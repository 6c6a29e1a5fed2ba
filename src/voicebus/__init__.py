"""Voicebus: realtime voice conversations as supervised processes on a ZeroMQ bus."""
