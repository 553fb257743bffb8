"""Paths of data sets and weights, atomic writers and locks. Needs no torch or GPU."""

import errno
import fcntl
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pcsr.errors import UserError, log

TEMPORARY = ".pcsr-"  # how the names of temporary files begin
ROOT = Path(__file__).resolve().parents[2]
PROJECT = "configs/datasets.yaml"  # what a checkout, or a copy of its configuration, has
# Configuration, weights and workflow of the suite: links in a checkout, copies in an installed one.
SHIPPED = Path(__file__).resolve().parents[1] / "shipped"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of file systems without locks
HOLDER = "pcsr, process "  # a lock file that begins otherwise is not written to


def prepared(dataset: str) -> str:
    """Return the folder of a prepared data set."""
    return f"data/prepared/{dataset}"


def weights(suite: str, experiment: str, stage: str) -> str:
    """Return the weights file of a training stage."""
    return f"results/{suite}/{experiment}/{stage}/weights.safetensors"


def shipped(experiment: str) -> str:
    """Return the file of weights that come with the suite."""
    return str(find(f"weights/{experiment}.safetensors"))


def weights_file(name: str) -> Path:
    """Return the weights file that a user means: a path, or the name of shipped weights."""
    known = not Path(name).exists() and name in shipped_names()
    return (SHIPPED / "weights" / f"{name}.safetensors").resolve() if known else Path(name)


def shipped_names() -> list[str]:
    """Return the names of the weights that come with the suite."""
    return [file.stem for file in (SHIPPED / "weights").glob("*.safetensors")]


def find(path: str | Path) -> Path:
    """Return the file in the user's own folder, the current one, or else the suite's."""
    theirs = SHIPPED / path
    absent = not Path(path).exists() and theirs.exists() and project_above() is None
    return theirs.resolve() if absent else Path(path)


def find_all(path: Path) -> list[Path]:
    """Return the suite's file, and the user's own, in the current folder, if it is another."""
    theirs = SHIPPED / path
    if not path.exists():
        return [find(path)]
    return [path] if theirs.samefile(path) else [theirs.resolve(), path]


def project_above() -> Path | None:
    """Return the project around the current folder, unless that is itself a folder to work in.

    Commands given in it probably mean paths of the project, but paths are relative to this folder.
    """
    if Path("configs").is_dir():
        return None
    above = (folder for folder in Path.cwd().parents if (folder / PROJECT).is_file())
    return next(above, None)


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
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        rename(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def _temporary(path: Path) -> tuple[int, Path]:
    """Make a locked temporary file beside ``path``, under a name only the suite uses.

    The system drops the lock with the process, which tells files that killed writers left from
    files being written.
    """
    while True:
        handle, name = tempfile.mkstemp(path.suffix, TEMPORARY, path.parent)
        with suppress(OSError):  # a file system without locks; leftovers stay there
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(handle).st_nlink:  # another process may have taken it for a leftover
            return handle, Path(name)
        os.close(handle)


def rename(source: Path, target: Path) -> None:
    """Rename a file within its folder, so that a power cut leaves the old or the whole new one."""
    with source.open("rb+") as file:
        os.fsync(file.fileno())
    source.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot sync a folder
            os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def locked(path: Path, wait: bool = True, work: str = "making it") -> Iterator[None]:
    """Hold an exclusive lock on making ``path``; it is released even if this process is killed.

    The lock is on ``<path>.lock``, which says who holds it. Temporary files that killed writers
    left beside ``path`` are removed. On a file system without locks this only warns.

    Args:
        path: what is made; it need not exist.
        wait: whether to wait for another process that holds the lock.
        work: what the holder of the lock does, for the message to processes that wait for it.

    Raises:
        UserError: another process holds the lock and ``wait`` is False.
        OSError: the lock file cannot be opened, for example because it is a link.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f"{path.name}.lock")
    # No soft lock where the system has none: it would outlive a killed process.
    lock = FileLock(file, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        busy = f"{path}: {_holder(file)} is {work}"
        if not wait:
            raise UserError(f"{busy}; wait until it is done.") from None
        log.warning("%s; waiting", busy)
        lock.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.warning("%s: no locks on this file system; start one process at a time", path)
    try:
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
        _sign(file, f"{HOLDER}{os.getpid()} on {platform.node()}: {command:.200}")
        remove_leftovers(path.parent)
        yield
    finally:
        _sign(file, "")
        lock.release()


def _sign(lock: Path, text: str) -> None:
    """Write into a lock file, unless it is a user's file that happens to have its name."""
    with suppress(OSError, UnicodeError):  # e.g. a full disk; the text is only informative
        if not lock.stat().st_size or lock.read_text(encoding="utf-8").startswith(HOLDER):
            lock.write_text(text, encoding="utf-8")


def _holder(lock: Path) -> str:
    """Return who holds a lock, as far as its file says."""
    text = ""
    with suppress(OSError, UnicodeError):
        text = lock.read_text(encoding="utf-8")
    return f"another process ({text})" if text.startswith(HOLDER) else "another process"


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files in a folder whose writers were killed."""
    for left in folder.glob(f"{TEMPORARY}*"):
        with suppress(OSError), left.open("rb") as file:  # OSError: it is being written
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink(missing_ok=True)


def check_outputs(inputs: Iterable[Path | None], outputs: Iterable[Path | None]) -> None:
    """Refuse outputs that are inputs, under whatever name or link, or that cannot be written.

    Commands call this first, because they write only after a long computation.

    Args:
        inputs: files, with the JSON beside them, and folders, with the files in them.
        outputs: all files to write, of which some may exist.

    Raises:
        UserError: an output is an input, would be written twice, is a folder, or cannot be created
            in its folder; names the first.
    """
    read = {
        _identity(file)
        for path in filter(None, inputs)
        for file in (path.iterdir() if path.is_dir() else (path, sidecar(path)))
    } - {None}
    places: set[str] = set()
    for path in filter(None, outputs):
        if _identity(path) in read:
            raise UserError(f"{path}: is an input and would be overwritten; give another output.")
        place = os.path.realpath(path)
        if place in places:
            raise UserError(f"{path}: would be written twice; give another output.")
        if obstacle := _obstacle(path):
            raise UserError(f"{path}: cannot be written ({obstacle}); give another output.")
        places.add(place)


def _obstacle(path: Path) -> str:
    """Return why a file cannot be written, or ""; a full disk is noticed only when writing."""
    try:
        if path.is_dir():
            return "it is a folder"
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir():
            return f"{folder} is not a folder"
    except OSError as error:  # a name that is too long, for one
        return error.strerror or str(error)
    # Most outputs replace the old file, which needs the folder; a log is appended to the file.
    usable = os.access(folder, os.W_OK | os.X_OK) or os.access(path, os.W_OK)
    return "" if usable else f"nothing may be written in {folder}"


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what identifies a file under all its names; None if it does not exist."""
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
