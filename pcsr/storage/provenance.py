"""Provenance: which commit, versions and machine made a result."""

import hashlib
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pcsr.storage.files import ROOT

VERSIONED = ("pcsr-suite", "torch", "numpy", "scikit-image", "pandas", "snakemake")
# These options keep git from executing what the repository's configuration names, and from writing.
# The folder's owner is trusted, because this package is executed from that folder.
GIT = (
    *("git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"),
    *("-c", f"safe.directory={ROOT}"),
)
GIT_SECONDS = 60  # then the commit is unknown
# Where a file outside the commit can change results: the suite's folders, and modules beside them,
# which Python would import in place of an optional package of that name.
SOURCES = (
    *("pcsr", "baselines", "benchmarks", "configs", "workflow", "profiles"),
    *(":(glob)*.py", ":(glob)*/__init__.py"),
)


def record(**facts: Any) -> dict[str, Any]:
    """Return what is needed to reproduce a result: commit, versions, machine, and ``facts``."""
    commit, modified = checkout(ROOT)
    return {
        "commit": commit,
        "modified": modified,
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: _version(name) for name in VERSIONED},
        **({"packages": packages} if (packages := _registering()) else {}),
        **facts,
    }


def _registering() -> dict[str, str]:
    """Return the version of each other package that registers methods, backbones or metrics."""
    groups = [f"pcsr.{kind}" for kind in ("methods", "backbones", "metrics")]
    found = [entry.dist for group in groups for entry in metadata.entry_points(group=group)]
    return {one.name: one.version for one in found if one is not None}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def checkout(root: Path) -> tuple[str | None, bool]:
    """Return the commit of the suite's own checkout, and whether anything behind results changed.

    Every file of the commit counts, except reports, which are results. Other files count only where
    the suite or Python looks for any (``SOURCES``): notes, logs and scripts change no number.

    Returns:
        (None, False) unless ``root`` is the top of a repository whose commit holds this package: an
        archive unpacked, or a package installed, inside another repository has no commit there.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top.rstrip("\n")).resolve() != root:
        return None, False
    listed = _git(root, "ls-tree", "-r", "-z", "--full-tree", "HEAD") or ""
    entries = (entry.partition("\t") for entry in listed.split("\0") if entry)
    blobs = {path: head.split() for head, _, path in entries}
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None or "pcsr/__init__.py" not in blobs:
        return None, False
    # `git status` would run the filters that a repository's configuration names.
    every = ("--cached", "--others", "--exclude-standard")
    found = _git(root, "ls-files", "-z", *every, "--", *SOURCES) or ""
    added = set(found.split("\0")) - {"", *blobs}
    changed = any(
        _differs(root / path, mode, digest)
        for path, (mode, kind, digest) in blobs.items()
        if kind == "blob" and not path.startswith("reports/")
    )
    return commit.strip(), changed or bool(added)


def _differs(path: Path, mode: str, digest: str) -> bool:
    """Tell whether a file differs from its object in git."""
    link = mode == "120000"
    if link != path.is_symlink() or not (link or path.is_file()):
        return True
    content = os.fsencode(path.readlink()) if link else path.read_bytes()
    kind = "sha1" if len(digest) == 40 else "sha256"
    return hashlib.new(kind, b"blob %d\0" % len(content) + content).hexdigest() != digest


def _git(root: Path, *arguments: str) -> str | None:
    """Return git's output in a folder; None if git fails, is slow or is not installed."""
    # GIT_DIR and the like would name another repository, and an absent object must not be fetched.
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            [*GIT, "-C", str(root), *arguments],
            env={**own, "GIT_NO_LAZY_FETCH": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding=sys.getfilesystemencoding(),
            errors=sys.getfilesystemencodeerrors(),
            timeout=GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
