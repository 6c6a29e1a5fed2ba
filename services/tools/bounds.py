"""What a tool's own words about itself may be, wherever it is written."""

import re

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""What providers accept as the name of a function."""
DESCRIPTION_LIMIT = 1024
"""Providers refuse a session whose tool descriptions are longer."""
LONGEST_S = 604_800
"""A week: no tool takes longer, and beyond it lie numbers that no clock can be set to."""
