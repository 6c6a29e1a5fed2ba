"""The gateway: the door for browsers and phones, by HTTP and WebSocket."""
