"""Settings: typed, read once in a service's main, handed down as arguments."""
