"""Paths of the suite's outputs, atomic writers, locks and provenance. Needs no torch or GPU."""

import fcntl
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pcsr.errors import UserError

log = logging.getLogger("pcsr")

TEMPORARY = ".pcsr-"  # how the names of temporary files begin
VERSIONED = ("torch", "numpy", "scikit-image", "pandas", "snakemake")


def prepared(dataset: str) -> str:
    """Return the folder of a prepared data set."""
    return f"data/prepared/{dataset}"


def weights(suite: str, experiment: str, stage: str) -> str:
    """Return the weights file of a training stage."""
    return f"results/{suite}/{experiment}/{stage}/weights.safetensors"


def shipped(experiment: str) -> str:
    """Return the file of weights that come with the suite."""
    return f"weights/{experiment}.safetensors"


def calibration(suite: str) -> str:
    """Return the file of training crop classes."""
    return f"results/{suite}/calibration/classes.safetensors"


def sweep(suite: str, experiment: str, test_set: str) -> str:
    """Return the CSV of a sweep, one row per image and operating point."""
    return f"results/{suite}/{experiment}/{test_set}/sweep.csv"


def report(suite: str, name: str) -> str:
    """Return a file of the suite's report: a table, a figure, the claims."""
    return f"reports/{suite}/{name}"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, and rename it to ``path`` on success.

    A reader sees either the old file or the complete new one. On any error, including a full disk,
    the temporary file is removed and ``path`` is unchanged.

    Raises:
        OSError: the file cannot be written; names ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = _temporary(path)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def _temporary(path: Path) -> tuple[int, Path]:
    """Make a locked temporary file beside ``path``, whose name is the suite's own.

    The system drops the lock with the process, so that what killed writers left can be told from
    what is being written.
    """
    while True:
        handle, name = tempfile.mkstemp(path.suffix, TEMPORARY, path.parent)
        with suppress(OSError):  # a file system without locks; leftovers stay there
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(handle).st_nlink:  # another process may have taken it for a leftover
            return handle, Path(name)
        os.close(handle)


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on making ``path``; it is released even if this process is killed.

    The lock is on ``<path>.lock``. Temporary files that killed writers left beside ``path`` are
    removed. On a file system without locks this only warns.

    Raises:
        UserError: another process holds the lock and ``wait`` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise UserError(
                    f"{path}: another process is making it; wait until it is done."
                ) from None
            log.warning("%s: another process is making it; waiting", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            log.warning("%s: no locks on this file system; start one process at a time", path)
        remove_leftovers(path.parent)
        yield


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files in a folder whose writers were killed."""
    for left in folder.glob(f"{TEMPORARY}*"):
        with suppress(OSError), left.open("rb") as file:  # OSError: it is being written
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink(missing_ok=True)


def refuse_overwriting(inputs: Iterable[Path | None], outputs: Iterable[Path | None]) -> None:
    """Refuse outputs that are inputs, under whatever name or link.

    Args:
        inputs: files, with the JSON beside them, and folders, with the files in them.
        outputs: all files to write, of which some may exist.

    Raises:
        UserError: names the first output that is an input.
    """
    read = {
        key
        for path in inputs
        if path is not None
        for file in (path.iterdir() if path.is_dir() else (path, sidecar(path)))
        if (key := _identity(file)) is not None
    }
    for path in outputs:
        if path is not None and _identity(path) in read:
            raise UserError(f"{path}: is an input and would be overwritten; give another output.")


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what a file is under all its names; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file.

    Raises:
        OSError: the file cannot be written; names ``path``.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def sidecar(path: Path) -> Path:
    """Return the JSON file beside ``path`` that records how it was made."""
    return path.with_suffix(".json")


def require_suffix(path: Path, suffix: str, option: str) -> None:
    """Refuse an output with another suffix; a .json file would also be its own sidecar.

    Raises:
        UserError: the suffix of ``path`` is not ``suffix``.
    """
    if path.suffix.lower() != suffix:
        raise UserError(f"{option} {path}: the file is written as {suffix}; give it that suffix.")


def provenance(**facts: Any) -> dict[str, Any]:
    """Return what is needed to reproduce a result: commit, versions, machine, and ``facts``."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        # Reports are results, so regenerating them must not mark the code as modified.
        "modified": bool(_git("status", "--porcelain", "--", ".", ":!reports")),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: _version(name) for name in VERSIONED},
        **facts,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Return git's output for this package's own checkout; None outside one."""
    here = Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(here), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
