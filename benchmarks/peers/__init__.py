"""The peers: each in an environment of its own, as its documentation recommends it."""
