"""The client programs that are measured here: Voicebus's, and a bare WebSocket client."""
