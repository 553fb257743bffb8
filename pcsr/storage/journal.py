"""Journals of unfinished jobs: a line per result, so that a job resumes; damage is noticed."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pcsr.errors import log
from pcsr.storage import files


class Journal:
    """Values in a text file: the job's identity, then per value a checksum and its JSON.

    A checksum also covers the lines before it, so reading stops at a line that was changed,
    removed, repeated or moved. Values of a job with another identity, a line, are not read.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self._identity = identity
        self._last = identity

    def read(self) -> list[Any]:
        """Return the values up to the first damaged one; none if another job wrote them."""
        found = self.path.read_bytes() if self.path.exists() else b""
        # What follows the last newline was only partly written.
        identity, *lines = found.decode(errors="replace").split("\n")[:-1] or [""]
        if identity != self._identity:
            return []
        values: list[Any] = []
        self._last = identity
        for line in lines:
            checksum, _, text = line.partition(" ")
            if checksum != self._next(text):
                lost = len(lines) - len(values)
                log.warning("%s: damaged or altered; %d steps are done again", self.path, lost)
                break
            self._last = checksum
            values.append(json.loads(text))
        return values

    def restart(self, values: Iterable[Any] = ()) -> None:
        """Rewrite the file with these values only."""
        self._last = self._identity
        lines = [self._identity, *(self._line(value) for value in values), ""]
        files.write_text(self.path, "\n".join(lines))

    def append(self, value: Any) -> None:
        """Add a value.

        Raises:
            OSError: the file cannot be written; names it.
        """
        files.append_line(self.path, self._line(value))

    def remove(self) -> None:
        """Remove the file, because the job is done."""
        self.path.unlink(missing_ok=True)

    def _line(self, value: Any) -> str:
        text = json.dumps(value)
        self._last = self._next(text)
        return f"{self._last} {text}"

    def _next(self, text: str) -> str:
        """Return the checksum of the line that follows the last one."""
        return hashlib.sha256(f"{self._last} {text}".encode(errors="replace")).hexdigest()[:16]
