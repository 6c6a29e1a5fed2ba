"""The session process: normalises what providers say, decides, publishes, broadcasts cancels."""
