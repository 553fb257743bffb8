"""How many of the package's files one has to know to follow an image, a sweep or a training step.

Counted are the files of ``pcsr`` and ``baselines`` in which a function is called from when the work
on an image begins until its result is written, on the thread that does it; loading weights and what
is set up once are left out.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = tuple(str(ROOT / name) + "/" for name in ("pcsr", "baselines"))


def files_of(work: Callable[[], Any]) -> set[str]:
    """The package's files in which a function is called during the work."""
    found: set[str] = set()

    def called(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGES):
            found.add(str(Path(code.co_filename).relative_to(ROOT)))

    work()  # what is computed once, such as the FLOPs of a network, does not count
    sys.setprofile(called)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found
