"""Locks belong to processes; a file that is renamed is complete."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pcsr.errors import UserError
from pcsr.storage import files

HOLD = """
import sys
from pathlib import Path
from pcsr.storage import files
with files.locked(Path(sys.argv[1])):
    print("locked", flush=True)
    input()
"""


@contextmanager
def another(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that is making ``path``."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_the_lock_of_another_process_names_it_and_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "new" / "table.csv"
    acquire = files.FileLock.acquire
    with another(path) as process:
        with pytest.raises(UserError, match=f"table.csv: another process .*{process.pid} on .*-c"):
            files.locked(path, wait=False).__enter__()

        def kill_first(lock: files.FileLock, *, blocking: bool = True) -> object:
            if blocking:  # the second attempt, after the message
                process.kill()
                process.wait()
            return acquire(lock, blocking=blocking)

        monkeypatch.setattr(files.FileLock, "acquire", kill_first)
        with files.locked(path):
            pass
    (line,) = caplog.messages
    assert f"process {process.pid}" in line and line.endswith("is making it; waiting")
    assert (tmp_path / "new" / "table.csv.lock").read_text() == ""


def test_a_lock_touches_no_file_of_the_user(tmp_path: Path) -> None:
    mine = tmp_path / "table.csv.lock"
    mine.write_text("my own notes")
    with files.locked(tmp_path / "table.csv"):
        assert mine.read_text() == "my own notes"
    assert mine.read_text() == "my own notes"
    (tmp_path / "other.csv.lock").symlink_to(mine)
    with pytest.raises(OSError), files.locked(tmp_path / "other.csv"):
        pass
    assert mine.read_text() == "my own notes"


@pytest.mark.parametrize("number", files.NO_LOCKS)
def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    import filelock._unix

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(filelock._unix.fcntl, "flock", refuse)
    with files.locked(tmp_path / "table.csv"):
        pass
    assert "no locks on this file system" in caplog.messages[0]


def test_a_renamed_file_and_its_name_are_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, Path.replace

    def synced(file: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{file}').resolve().name}")
        sync(file)

    def renamed(source: Path, target: Path) -> Path:
        done.append("rename")
        return replace(source, target)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    with files.atomic(tmp_path / "table.csv") as temporary:
        temporary.write_text("whole")
    assert done == [f"sync {temporary.name}", "rename", f"sync {tmp_path.name}"]
