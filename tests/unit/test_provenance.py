"""Provenance names the commit of the suite's own checkout, and executes nothing of a repository."""

import os
import subprocess
from pathlib import Path

import pytest

from pcsr.storage import provenance


def git(folder: Path, *arguments: str) -> str:
    named = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", *named, "-C", str(folder), *arguments],
        check=True,
        capture_output=True,
        text=True,
        env=own,
    )
    return done.stdout.strip()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A checkout that holds the package."""
    root = tmp_path / "own"
    for name in ("pcsr/__init__.py", "reports/quick/table.md", "data/größe 1.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "link").symlink_to("pcsr")
    (root / ".gitignore").write_text("/results\n")
    git(root, "init")
    git(root, "add", ".")
    git(root, "commit", "-m", "all of it")
    return root


def test_what_counts_as_a_change(own: Path) -> None:
    commit = git(own, "rev-parse", "HEAD")
    assert provenance.checkout(own) == (commit, False)
    for name, content in {
        "reports/quick/table.md": "made again",
        "reports/new.md": "a report",
        "results/sweep.csv": "ignored",
    }.items():
        (own / name).parent.mkdir(exist_ok=True)
        (own / name).write_text(content)
        assert provenance.checkout(own) == (commit, False), name
    for name, counts in {
        "new.py": True,
        "onnx/__init__.py": True,
        "pcsr/methods/new.py": True,
        "baselines/table.csv": True,
        "configs/suites/mine.yaml": True,
        "workflow/rules/mine.smk": True,
        "profiles/mine/config.yaml": True,
        "go.sh": False,
        "train.log": False,
        "notes/largest/try.py": False,
        "data/raw/photograph.png": False,
        "weights/mine.safetensors": False,
        "tests/unit/test_new.py": False,
        "my pcsr/notes.txt": False,
    }.items():
        added = own / name
        added.parent.mkdir(parents=True, exist_ok=True)
        added.write_text("a new file")
        assert provenance.checkout(own) == (commit, counts), name
        git(own, "add", name)  # whether or not it is in the index
        assert provenance.checkout(own) == (commit, counts), name
        git(own, "rm", "--cached", name)
        added.unlink()
    for name in ("pcsr/__init__.py", "data/größe 1.txt", "link"):
        kept = (own / name).read_bytes() if name != "link" else b""
        (own / name).unlink()
        assert provenance.checkout(own) == (commit, True), name
        if name != "link":
            (own / name).write_text("edited")
            assert provenance.checkout(own) == (commit, True), name
            (own / name).write_bytes(kept)
            assert provenance.checkout(own) == (commit, False), name


def test_the_commit_of_another_repository_is_not_ours(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = (None, False)
    packages = own / "lib/site-packages"
    (packages / "pcsr").mkdir(parents=True)
    (packages / "pcsr/__init__.py").write_text("installed")
    assert provenance.checkout(packages) == nothing  # inside, whether tracked or not
    git(own, "add", ".")
    git(own, "commit", "-m", "with its environment")
    assert provenance.checkout(packages) == nothing
    plain = tmp_path / "plain/pcsr"
    plain.mkdir(parents=True)
    (plain / "__init__.py").write_text("unpacked")
    assert provenance.checkout(plain.parent) == nothing  # no repository
    git(plain.parent, "init")
    assert provenance.checkout(plain.parent) == nothing  # no commit
    (plain.parent / "notes").write_text("mine")
    git(plain.parent, "add", "notes")
    git(plain.parent, "commit", "-m", "without the package")
    assert provenance.checkout(plain.parent) == nothing
    # Variables that git sets for its hooks, and that people export.
    monkeypatch.setenv("GIT_DIR", str(own / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(plain.parent))
    assert provenance.checkout(plain.parent) == nothing
    monkeypatch.setenv("GIT_DIR", str(plain.parent / ".git"))
    assert provenance.checkout(own)[0] == git(own, "rev-parse", "HEAD")
    monkeypatch.setenv("PATH", str(tmp_path))  # git is not installed
    assert provenance.checkout(own) == nothing


def test_a_worktree_is_a_checkout(own: Path, tmp_path: Path) -> None:
    git(own, "worktree", "add", str(tmp_path / "beside"))
    assert provenance.checkout(tmp_path / "beside") == (git(own, "rev-parse", "HEAD"), False)


def test_nothing_that_a_repository_names_is_executed(own: Path, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {proof}\ncat\n")
    script.chmod(0o755)
    commit = git(own, "rev-parse", "HEAD")
    (own / ".gitattributes").write_text("* filter=evil diff=evil merge=evil\n")
    for hook in ("post-index-change", "reference-transaction", "fsmonitor-watchman"):
        (own / ".git/hooks").mkdir(exist_ok=True)
        (own / ".git/hooks" / hook).symlink_to(script)
    keys = ("core.fsmonitor", "core.pager", "core.sshCommand", "core.editor", "diff.external")
    filters = ("filter.evil.clean", "filter.evil.smudge", "filter.evil.process")
    for key in (*keys, *filters, "diff.evil.command", "diff.evil.textconv", "alias.ls-tree"):
        git(own, "config", key, f"!{script}" if key.startswith("alias") else str(script))
    git(own, "config", "core.hooksPath", str(own / ".git/hooks"))
    (own / "pcsr/new.py").write_text("a new file")
    os.utime(own / "pcsr/__init__.py", (0, 0))  # `git status` would read it again
    before = (own / ".git/index").read_bytes()
    assert provenance.checkout(own) == (commit, True)
    assert not proof.exists()
    assert (own / ".git/index").read_bytes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_checkout_of_another_user_is_known(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = git(own, "rev-parse", "HEAD")
    for path in (own, own / ".git"):
        os.chown(path, 12345, 12345)
    safe = (*provenance.GIT[:-1], f"safe.directory={own}")
    assert provenance.checkout(own) == (None, False)  # it is not the folder that this code is from
    monkeypatch.setattr(provenance, "GIT", safe)
    assert provenance.checkout(own) == (commit, False)
