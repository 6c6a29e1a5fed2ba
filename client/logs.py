"""The client's log: Python's own logging under `voicebus.client`, so that the program that uses us
decides where it goes. Structlog's default would be standard output, which belongs to that program.
"""

import logging

import structlog

log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
    logging.getLogger("voicebus.client"),
    processors=[
        structlog.stdlib.filter_by_level,
        structlog.processors.format_exc_info,
        structlog.processors.KeyValueRenderer(key_order=["event"], drop_missing=True),
    ],
    wrapper_class=structlog.stdlib.BoundLogger,
)
