"""The version of the code that runs."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("voicebus")
except PackageNotFoundError:  # run from a tree that was never installed
    VERSION = "0"
