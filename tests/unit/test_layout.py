"""Folders that can be read at a glance, and files that can be read in a sitting."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pcsr", "baselines", "benchmarks")
MOST_NAMES = 12
MOST_LINES = 400
CODE = {".py", ".js", ".css", ".j2"}


def written(package: str) -> list[Path]:
    return [path for path in (ROOT / package).rglob("*") if path.suffix in CODE]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_folder_has_few_names(package: str) -> None:
    """Modules and folders; ``pcsr`` itself is the list of folders and of what all of them use."""
    folders: dict[Path, set[str]] = {}
    for path in written(package):
        for inner in (path, *path.parents):
            if inner == ROOT / package:
                break
            folders.setdefault(inner.parent, set()).add(inner.name)
    folders.pop(ROOT / "pcsr", None)
    assert folders
    many = {
        str(folder.relative_to(ROOT)): len(names - {"__init__.py"})
        for folder, names in folders.items()
        if len(names - {"__init__.py"}) > MOST_NAMES
    }
    assert not many


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_is_long(package: str) -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in written(package)}
    assert lines
    assert not {str(path): count for path, count in lines.items() if count > MOST_LINES}


def test_links_lead_somewhere() -> None:
    """Snakemake takes a page whose rule lacks an input for a source, and leaves the rule out."""
    folders = ("configs", "leaderboard", "weights", "workflow", "pcsr/shipped")
    links = [path for name in folders for path in (ROOT / name).rglob("*") if path.is_symlink()]
    assert links
    assert not [str(path) for path in links if not path.exists()]
