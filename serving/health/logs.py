"""One JSON object a line on standard output, and only when something changed."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_log = logging.getLogger("serving.health")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure() -> None:
    """Send our news and every library's warnings to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Json())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    _log.setLevel(logging.INFO)


def say(event: str, **facts: Any) -> None:
    """Log what happened."""
    _log.info(event, extra={"facts": facts})


def warn(event: str, **facts: Any) -> None:
    """Log what somebody should look at."""
    _log.warning(event, extra={"facts": facts})
