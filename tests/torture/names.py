"""Hostile names in every place where a user, or a file of somebody else's, can name something."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
import yaml
from hostile.names import MARKUP_TOKENS, NAMES, READER, Tags, scripts_are_own
from PIL import Image
from safetensors.torch import save_file
from workspace import Workspace

from pcsr import escape
from pcsr.errors import UserError
from pcsr.report import tidy
from pcsr.weights import checkpoint
from torture.commands import PLAIN, SHIPPED, here
from torture.harness import Attempt, Case, Kind

Place = Callable[[str, Path], None]
NEVER = {"img", "iframe", "svg", "a", "link", "object", "embed", "b"}


def refused(*arguments: object) -> None:
    with suppress(UserError):
        here(*arguments)
        raise AssertionError(f"accepted: {arguments}")


def a_file_called(path: str) -> Path | None:
    """Write a small image; returns nothing where the system has no such name."""
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(values).save(target, "PNG")
    except (OSError, ValueError):  # too long, a zero byte, half a character
        return None
    return target


def of_an_image(name: str, folder: Path) -> None:
    source = a_file_called(f"images/{name}.png")
    if source is None or source.name.startswith("."):
        return
    here("upscale", source.parent, "out", "--weights", SHIPPED, *PLAIN)
    assert [path.name for path in Path("out").iterdir()] == [source.name]
    fast = ("--crop", "none", "--knob", "0", *PLAIN)
    here("sweep", "--weights", SHIPPED, "--images", source.parent, "--out", "u.csv", *fast)
    here("collect", "--sweeps", "u.csv", "--out", "all.csv")
    assert set(tidy.load(Path("all.csv"))["image"]) == {escape.printable(source.stem)}


def of_results(name: str, folder: Path) -> None:
    """In the folders of a sweep, which are its suite, experiment and test set."""
    target = Path(f"results/{name}/{name}/{name}/sweep.csv")
    try:
        shutil.copytree(folder / "swept", target.parent)
    except (OSError, ValueError):
        return
    here("collect", "--sweeps", target, "--out", "all.csv")
    for command in ("table", "fairness", "leaderboard"):  # nothing is published of such a test set
        here(command, "all.csv", "--out", f"{command}.md")
        page, tags = READER.parse(Path(f"{command}.md").read_text(encoding="utf-8")), Tags()
        assert not {part.type for token in page for part in token.children or []} & MARKUP_TOKENS
        html = Path(f"{command}.html").read_text(encoding="utf-8")
        tags.feed(html)
        assert not tags.tags & NEVER, tags.tags
        assert scripts_are_own(html)
    test_set = tidy.load(Path("all.csv"))["test_set"].iloc[0]
    here("figure", "all.csv", "--test-set", test_set, "--backbone", "fsrcnn", "--out", "f.png")


def of_an_output(name: str, folder: Path) -> None:
    here("upscale", folder / "one.png", f"out/{name}.png", "--weights", SHIPPED, *PLAIN)
    assert len([path for path in Path().rglob("*.png") if path.is_file()]) == 1


def of_a_log(name: str, folder: Path) -> None:
    here("prepare", "embedded-smoke", "--out", "store", "--log", f"out/{name}")


def of_a_suite(name: str, folder: Path) -> None:
    values = yaml.safe_load((folder / "configs/suites/smoke.yaml").read_text())
    try:
        Path("configs/suites").mkdir(parents=True)
        path = Path(f"configs/suites/{name}.yaml")
        path.write_text(yaml.safe_dump({**values, "suite": name}), encoding="utf-8")
    except (OSError, ValueError):
        return
    here("check", path)


def of_a_data_set(name: str, folder: Path) -> None:
    Path("configs").mkdir()
    data = {"datasets": {name: {"source": {"kind": "folder", "path": name}}}}
    Path("configs/datasets.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    here("prepare", name)


def of_weights(name: str, folder: Path) -> None:
    """In what other people's weights say of themselves."""
    tensors, facts = checkpoint.load(SHIPPED)
    for where in ("released", "model"):
        about = {**facts, where: name if where == "released" else {"backbone": name}}
        checkpoint.save(Path(f"{where}.safetensors"), tensors, about)
    here("upscale", folder / "one.png", "out.png", "--weights", "released.safetensors", *PLAIN)
    try:
        save_file({name or "x": torch.zeros(1)}, "other.safetensors")
    except ValueError:  # the format's names are UTF-8
        return
    for file in ("other.safetensors", "model.safetensors"):
        refused("upscale", folder / "one.png", "x.png", "--weights", file, *PLAIN)


def of_anything(name: str, folder: Path) -> None:
    """As an argument that names something which is not there."""
    suite = folder / "configs/suites/smoke.yaml"
    for arguments in (
        ("check", name),
        ("prepare", name),
        ("train", name, "train", "--suite", suite, "--out", "w.safetensors"),
        ("train", "fsrcnn-original", name, "--suite", suite, "--out", "w.safetensors"),
        ("sweep", "--weights", name, "--images", "x", "--out", "u.csv"),
        ("sweep", "--weights", SHIPPED, "--images", name, "--out", "u.csv", "--device", name),
        ("upscale", name, "out.png", "--weights", SHIPPED, "--ext", name),
        ("fetch-released", name),
        ("table", name, "--out", "t.md"),
    ):
        refused(*arguments)


PLACES: tuple[Place, ...] = (
    *(of_an_image, of_results, of_an_output, of_a_log, of_a_suite, of_a_data_set, of_weights),
    of_anything,
)


@contextmanager
def attempts(folder: Path) -> Iterator[Attempt]:
    """Give each name in each place, and then joined ones."""
    Workspace(folder / "workspace")
    os.chdir(folder / "workspace")
    a_file_called("images/one.png")
    shutil.copy("images/one.png", "one.png")
    fast = ("--crop", "none", "--knob", "0", *PLAIN)
    here("sweep", "--weights", SHIPPED, "--images", "images", "--out", "swept/sweep.csv", *fast)

    def attempt(case: Case) -> None:
        of, which = divmod(case.number, len(PLACES))
        names = [NAMES[of % len(NAMES)]]
        if of >= len(NAMES):
            names += case.random.choice(NAMES, 2).tolist()
        case_folder = folder / "case"
        case_folder.mkdir()
        os.chdir(case_folder)
        try:
            PLACES[which]("".join(names), folder / "workspace")
        finally:
            os.chdir(folder)
            made = [path.name for path in case_folder.rglob("proof*")]
            shutil.rmtree(case_folder)
            assert not made, "executed something"

    yield attempt


KIND = Kind(count=len(PLACES) * len(NAMES), attempts=attempts, starts=True)
