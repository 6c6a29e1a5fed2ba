"""What a tool's own words may be, about itself and its calls, wherever it is written."""

import re

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""What providers accept as the name of a function."""
DESCRIPTION_LIMIT = 1024
"""Providers refuse a session whose tool descriptions are longer."""
PROGRESS_LIMIT = 500
"""Characters of a word on how far a call is."""
LONGEST_S = 604_800
"""A week: no tool takes longer, and beyond it lie numbers that no clock can be set to."""
