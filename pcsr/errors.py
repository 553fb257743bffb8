"""What is written for the user: the one exception, and the log."""

import difflib
import logging
from collections.abc import Collection, Iterable

# One logger for the suite; ``runtime.setup_logging`` says where it goes. It is here because every
# layer may import this module, and this module needs neither torch nor the rest of the suite.
log = logging.getLogger("pcsr")


class UserError(Exception):
    """A mistake the user can fix.

    The message is one or two sentences: which file or key, what is wrong, and how to fix it. The
    command line prints it without a traceback and exits with status 2.
    """


def one_line(reason: object, longest: int = 160) -> str:
    """Return an error or another program's text as part of a message.

    It becomes one line without control characters, which a terminal would interpret.
    """
    text = "".join(c if c.isprintable() else " " for c in str(reason))
    text = " ".join(text.split()) or type(reason).__name__
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


class MemoryLimitError(UserError):
    """Even the smallest tiles of an image exceed the memory limit.

    Attributes:
        needed: bytes that would suffice, in addition to what is already in use.
    """

    def __init__(self, needed: float, left: float) -> None:
        super().__init__(
            f"the smallest tiles of the image need {needed / 2**20:.0f} MiB in addition to what is "
            f"already in use, and {max(left, 0) / 2**20:.0f} MiB are left; give more memory."
        )
        self.needed = needed


def did_you_mean(name: str, available: Iterable[str]) -> str:
    """Return ``Did you mean 'x'? `` (or nothing) followed by the available names."""
    names = sorted(available)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}Available: {', '.join(names) or 'none'}."


def require_name(kind: str, name: str, available: Collection[str], where: str = "") -> None:
    """Refuse a name that is not available; arguments are those of ``unknown_name``."""
    if name not in available:
        raise unknown_name(kind, name, available, where)


def unknown_name(kind: str, name: str, available: Iterable[str], where: str = "") -> UserError:
    """Return the error for a name that is not of a ``kind``, e.g. ``"backbone"``.

    The message begins with ``where``, the file or key that holds the name.
    """
    prefix = f"{where}: " if where else ""
    return UserError(f"{prefix}unknown {kind} '{name}'. {did_you_mean(name, available)}")
