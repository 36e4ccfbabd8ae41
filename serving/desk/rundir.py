"""A directory for the logs and configuration of one run, removed when the run was good."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Self


class RunDirectory:
    """A fresh directory under the system's temporary one; kept if `keep` is set by the end."""

    def __init__(self, prefix: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        self.keep = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # An exception names these logs.
        if kind is None and not self.keep:
            shutil.rmtree(self.path, ignore_errors=True)
