"""Structured logs on standard error: JSON where nobody watches, readable where somebody does."""

from __future__ import annotations

import sys
from typing import Any

import structlog


def configure() -> None:
    """Set up structlog for a server process."""
    renderer: Any = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


log: Any = structlog.get_logger()
