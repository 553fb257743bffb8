"""A small copy of a checkout to run the command line in: real configuration, real photographs."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import copytree
from typing import Any

import yaml
from served import SCRIPTS

ROOT = Path(__file__).resolve().parent.parent


class Workspace:
    """A folder with the repository's configuration and workflow, and what a test adds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("configs", "workflow", "profiles", "weights"):
            copytree(ROOT / name, folder / name)
        (folder / "Snakefile").write_bytes((ROOT / "Snakefile").read_bytes())

    def path(self, name: str) -> Path:
        return self.folder / name

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "pcsr", *map(str, arguments)]

    def workflow(self, *arguments: str | Path) -> list[str]:
        script = Path(sys.executable).with_name("snakemake")
        return [str(script), *map(str, arguments)]

    def environment(self, **changes: str) -> dict[str, str]:
        """The test's own environment without a mirror, and the installed scripts on the path."""
        own = {k: v for k, v in os.environ.items() if k != "PCSR_MIRROR"}
        scripts = str(Path(sys.executable).parent)
        return {**own, "PATH": f"{scripts}{os.pathsep}{own['PATH']}", **changes}

    def served(self, **changes: str) -> dict[str, str]:
        """``environment``, in which ``pcsr`` runs in a process that has imported torch already."""
        own = self.environment()
        return {**own, "PATH": f"{own[SCRIPTS]}{os.pathsep}{own['PATH']}", **changes}

    def start(self, command: Sequence[str], **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def pcsr(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever that is."""
        return subprocess.run(
            ["pcsr", *map(str, arguments)],
            cwd=self.folder,
            env=self.served(**environment),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def snakemake(
        self, *arguments: str | Path, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the workflow to its end, whatever that is; all it says is in ``stdout``."""
        return subprocess.run(
            self.workflow(*arguments),
            cwd=self.folder,
            env=self.served(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def succeed(self, *arguments: str | Path, **environment: str) -> str:
        """Run a command that must succeed; returns what it printed."""
        done = self.pcsr(*arguments, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def refuse(self, *arguments: str | Path, **environment: str) -> str:
        """Run a command that must fail with one clear line; returns the line."""
        done = self.pcsr(*arguments, **environment)
        assert done.returncode in (1, 2), (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, done.stderr
        return errors[0]

    def suite(self, name: str, **changes: Any) -> Path:
        """Write a suite of one FSRCNN-PCSR on the smallest data, with changes."""
        stages: Mapping[str, Any] = {
            "iterations": 30,
            "batch": 4,
            "patch": 8,
            "log_every": 1,
            "validate_every": 15,
            "save_every": 5,
        }
        values = {
            "suite": name,
            "description": "a test",
            "experiments": ["fsrcnn-pcsr"],
            "train_set": "embedded-smoke",
            "valid_set": "embedded-smoke",
            "valid_images": 1,
            "test_sets": ["embedded-smoke"],
            "knobs": {"pcsr": [0.0, 1.0]},
            "overrides": {"*": {"stages": {"*": stages}}},
            **changes,
        }
        path = self.path(f"configs/suites/{name}.yaml")
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return path

    def journal(self, folder: Path) -> list[dict[str, float]]:
        """Lines of the only training log in a folder."""
        (path,) = folder.glob("train-*.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()]


def lines_of(folder: Path) -> int:
    """How many lines the training logs in a folder have."""
    return sum(path.read_text().count("\n") for path in folder.glob("train-*.jsonl"))


class Runs:
    """Pickles to something that would run a command when it is loaded."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.proof}",)
