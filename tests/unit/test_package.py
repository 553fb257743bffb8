"""Without extras the package does what users of weights need, and imports nothing more."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from pcsr import cli, shipped
from pcsr.config.load import load_experiment
from pcsr.errors import UserError
from pcsr.storage import files

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Runs a command in an environment that lacks modules, and says what it imported.
LACKING = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
from pcsr.cli import main
try:
    main()
finally:
    print(*sys.modules)
"""
LATER = ("torch._dynamo", "torch._inductor", "sympy", "triton", "rich.console")


def required(requirement: str, found: set[str]) -> set[str]:
    """Names of the distributions that one requires, directly or not, as far as installed."""
    parsed = Requirement(requirement)
    name = canonicalize_name(parsed.name)
    marker = parsed.marker
    if name not in found and (marker is None or marker.evaluate({"extra": ""})):
        found.add(name)
        try:
            for other in metadata.requires(name) or ():
                required(other, found)
        except metadata.PackageNotFoundError:
            pass
    return found


def absent_without_extras() -> set[str]:
    """Installed modules that the core dependencies do not bring."""
    core: set[str] = set()
    for requirement in PROJECT["dependencies"]:
        required(requirement, core)
    modules = metadata.packages_distributions()
    absent = {m for m, names in modules.items() if not {*map(canonicalize_name, names)} & core}
    return absent - {"pcsr"}


def lacking(absent: set[str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LACKING.format(absent=absent), *arguments],
        cwd=folder,
        env={**os.environ, "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_upscaling_needs_no_extra_and_imports_nothing_in_vain(tmp_path: Path) -> None:
    """From an empty folder, weights by name, and the image that comes with the package."""
    absent = absent_without_extras()
    assert {"snakemake", "jupyter", "pandas", "matplotlib", "tensorboard", "fvcore"} <= absent
    assert lacking(absent, tmp_path, "sample").returncode == 0
    options = ("--weights", "carn-pcsr", "--threads", "1")
    done = lacking(absent, tmp_path, "upscale", "sample.png", "x4.png", *options)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "sample.png") as lr, Image.open(tmp_path / "x4.png") as sr:
        assert sr.size == (4 * lr.width, 4 * lr.height)
    said = r"1/1 x4\.png: 225x150 -> 900x600, k = 0, [\d.]+ % heavy, [\d.]+ GFLOPs, [\d.]+ s\n"
    assert re.search(said, done.stderr)
    imported = set(done.stdout.split())
    assert "torch" in imported
    assert not imported & set(LATER)


@pytest.mark.parametrize(
    ("extra", "arguments"),
    [
        ("report", ("table", "results.csv", "--out", "points.md")),
        ("suite", ("check", "configs/suites/quick.yaml")),
        ("suite", ("prepare", "embedded-smoke")),
        ("export", ("export", "fsrcnn-pcsr", "x.onnx")),
    ],
)
def test_a_command_without_its_extra_says_which(
    extra: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    done = lacking(absent_without_extras(), tmp_path, *arguments)
    assert done.returncode == 2
    assert re.fullmatch(
        rf"error: pcsr {arguments[0]}: needs the package \w+; install it with: "
        rf"pip install 'pcsr-suite\[{extra}\]'\n",
        done.stderr,
    )
    assert not any(tmp_path.iterdir())


def test_completion_knows_the_commands_that_can_run(tmp_path: Path) -> None:
    options = ("--shell", "bash", "--output", str(tmp_path / "pcsr.bash"))
    (tmp_path / ".bashrc").touch()
    lacked = lacking(absent_without_extras(), tmp_path, "--install-completion", *options)
    assert lacked.returncode == 0, lacked.stderr
    script = (tmp_path / "pcsr.bash").read_text()
    assert "upscale" in script and "--max-memory" in script
    assert "leaderboard" not in script


def test_the_sample_takes_no_files_place(tmp_path: Path) -> None:
    mine = tmp_path / "mine.png"
    mine.write_text("mine")
    with pytest.raises(UserError, match=r"mine\.png: exists already"):
        shipped.sample(mine)
    assert mine.read_text() == "mine"
    assert shipped.sample(tmp_path / "cat.png").endswith("cat_x4.png --weights carn-pcsr")
    said = shipped.sample(tmp_path / "my cat.png")
    assert shlex.split(said)[-3:] == [f"{tmp_path}/my cat_x4.png", "--weights", "carn-pcsr"]
    with pytest.raises(UserError, match=r"cannot be written \("):
        shipped.sample(mine / "cat.png")
    assert (Path(shipped.where()) / "Snakefile").is_file()


def test_names_are_looked_up_in_ones_own_folder_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "configs/experiments/fsrcnn-pcsr.yaml"
    monkeypatch.chdir(tmp_path)
    assert files.find(name) == ROOT / name
    with pytest.raises(UserError, match=r"fsrcnn-pcs.yaml: no such file. Did you mean 'fsrcnn-pc"):
        load_experiment("fsrcnn-pcs")
    own = tmp_path / name
    own.parent.mkdir(parents=True)
    own.touch()
    assert files.find(name) == Path(name)
    assert files.weights_file("carn-pcsr") == ROOT / "weights/carn-pcsr.safetensors"
    Path("carn-pcsr").touch()
    assert files.weights_file("carn-pcsr") == Path("carn-pcsr")
    # A folder within a project is a mistake, not a folder of one's own.
    (tmp_path / files.PROJECT).touch()
    (tmp_path / "reports").mkdir()
    monkeypatch.chdir(tmp_path / "reports")
    assert files.find(name) == Path(name) and files.project_above() == tmp_path


def test_the_extras_are_those_of_the_project() -> None:
    """Each module of a message is brought by its extra, and each package has its modules."""
    modules = metadata.packages_distributions()
    for extra, names in cli.EXTRAS.items():
        listed = {
            canonicalize_name(Requirement(r).name) for r in PROJECT["optional-dependencies"][extra]
        }
        bring = {canonicalize_name(d) for name in names for d in modules[name]}
        assert bring == listed - {cli.DISTRIBUTION}
    assert PROJECT["name"] == cli.DISTRIBUTION


@pytest.mark.parametrize("folder", ["pcsr", "baselines", "benchmarks", "tests", "workflow"])
def test_nothing_is_imported_that_an_installed_package_lacks(folder: str) -> None:
    """`baselines` and `benchmarks` are importable by these names in a checkout alone."""
    at_the_top = re.compile(r"^\s*(?:from|import) (?:baselines|benchmarks)\b", re.MULTILINE)
    sources = [path for kind in ("*.py", "*.smk") for path in (ROOT / folder).rglob(kind)]
    assert sources
    assert not [str(path) for path in sources if at_the_top.search(path.read_text("utf-8"))]


def test_the_package_is_one_and_typed() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert wheel["targets"]["wheel"] == {"packages": ["pcsr"]}
    assert (ROOT / "pcsr/py.typed").is_file()
    # Links, so that a checkout has each file once, in the folder where readers look for it.
    for name in ("baselines", "benchmarks", "shipped/configs", "shipped/weights"):
        assert (ROOT / "pcsr" / name).samefile(ROOT / Path(name).name)
