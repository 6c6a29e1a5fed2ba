"""The health listener: brings quiet dead children back at once, tells frozen from busy."""
