"""The recorder: writes conversations down, and is noticed by nobody."""
