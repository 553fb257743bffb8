"""Atomic writers, what killed ones leave behind, and outputs that cannot be written."""

import subprocess
import sys
from pathlib import Path

import pytest

from pcsr.config.load import write_schemas
from pcsr.errors import UserError
from pcsr.storage import files
from pcsr.weights import available
from pcsr.weights.convert import fetch_released

KILLED = """
import os, signal, sys
from pathlib import Path
from pcsr.storage import files
with files.atomic(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_only_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    theirs = {".u.csv.swp", ".u.csv.lock", ".u.csv.part", ".~lock.u.csv#", "pcsr-notes.txt"}
    for name in theirs:
        (tmp_path / name).touch()
    target = tmp_path / "u.csv"
    subprocess.run([sys.executable, "-c", KILLED, target], check=False)
    (left,) = names(tmp_path) - theirs
    assert left.startswith(files.TEMPORARY)
    with files.atomic(tmp_path / "v.csv") as being_written:
        files.remove_leftovers(tmp_path)
        assert names(tmp_path) == theirs | {being_written.name}
        with files.locked(target):
            assert being_written.exists()
        being_written.write_text("whole")
    assert names(tmp_path) == theirs | {"u.csv.lock", "v.csv"}
    assert (tmp_path / "v.csv").read_text() == "whole"


def test_names_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / f"{'x' * 251}.csv"
    files.write_text(path, "text")
    assert names(tmp_path) == {path.name}


def test_outputs_are_known_under_all_names(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    real = folder / "u.csv"
    for path in (real, folder / "u.json", tmp_path / "other.csv"):
        path.touch()
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "folder").symlink_to(folder)
    (tmp_path / "hard.csv").hardlink_to(real)
    same = [real, tmp_path / "link", tmp_path / "folder/u.csv", tmp_path / "hard.csv"]
    same += [folder / "../in/u.csv", folder / "u.json"]
    for given in (real, tmp_path / "link", folder, tmp_path / "folder"):
        for output in same:
            if given == tmp_path / "link" and output.suffix == ".json":
                continue  # the JSON beside a link is another
            with pytest.raises(UserError, match="is an input and would be overwritten"):
                files.check_outputs([None, given], [None, tmp_path / "new", output])
    files.check_outputs([folder, tmp_path / "gone"], [tmp_path / "other.csv", folder / "new"])


def test_what_cannot_be_written_is_known_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "folder.csv")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    impossible = ["folder.csv", "link.csv", "file/u.csv", "file/new/u.csv", f"{'x' * 300}.csv"]
    impossible += [f"{'x' * 300}/u.csv"]
    for name in impossible:
        with pytest.raises(UserError, match=r"cannot be written \("):
            files.check_outputs([], [tmp_path / name])
    for twice in ("u.csv", "new/../u.csv", "./u.csv"):
        with pytest.raises(UserError, match="would be written twice"):
            files.check_outputs([], [tmp_path / "u.csv", tmp_path / twice])
    possible = ["file", "new/deep/u.csv", "loop.csv", "dangling"]
    files.check_outputs([], [tmp_path / name for name in possible])
    files.check_outputs([], [Path("/dev/null"), Path("u.csv")])
    # Root may write everywhere.
    monkeypatch.setattr("os.access", lambda path, mode: path == tmp_path / "file")
    files.check_outputs([], [tmp_path / "file"])
    with pytest.raises(UserError, match=f"nothing may be written in {tmp_path}"):
        files.check_outputs([], [tmp_path / "new/u.csv"])


def test_nothing_is_downloaded_for_an_output_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(available, "obtain", lambda *_: pytest.fail("was downloaded"))
    (tmp_path / "w.json").mkdir()
    with pytest.raises(UserError, match=r"w\.json: cannot be written \(it is a folder\)"):
        fetch_released("carn-pcsr", out=tmp_path / "w.safetensors")


def test_schemas_are_written_all_or_none(tmp_path: Path) -> None:
    (tmp_path / "suite.schema.json").mkdir()
    with pytest.raises(UserError, match=r"suite\.schema\.json: cannot be written"):
        write_schemas(out=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
