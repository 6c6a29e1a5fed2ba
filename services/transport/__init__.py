"""The transport service: the provider's WebSocket and the sound, in one process."""
