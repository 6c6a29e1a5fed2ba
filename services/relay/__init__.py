"""The relay: the door for programs elsewhere, with keys, permissions and limits."""
