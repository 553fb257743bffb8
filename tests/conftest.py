"""Where the reference values and released weights are; without them, tests are skipped."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from served import served
from workspace import Workspace

from pcsr.config.models import DatasetConfig, WheelsSource
from pcsr.data.prepare import make_store
from pcsr.data.store import Store

# Kernels are interpreted where no GPU can run them; triton reads this when it is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to run if the reference values are required and missing."""
    if os.environ.get("PCSR_REQUIRE_SHARED") == "1" and not (SHARED / "golden").is_dir():
        raise pytest.UsageError(f"the reference values must be at {SHARED}, and are not")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked ``shared`` if the reference values are missing."""
    if (SHARED / "golden").is_dir():
        return
    leave = pytest.mark.skip(reason=f"no reference values at {SHARED}")
    for item in items:
        if item.get_closest_marker("shared"):
            item.add_marker(leave)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of golden values, released weights and photographs."""
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with (
        served(tmp_path_factory.mktemp("server")) as environment,
        pytest.MonkeyPatch.context() as m,
    ):
        for name, value in environment.items():
            m.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A checkout with the smallest data set prepared; tests add files under names of their own."""
    made = Workspace(tmp_path_factory.mktemp("workspace"))
    made.succeed("prepare", "embedded-smoke")
    return made


@pytest.fixture(scope="session")
def cat(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A packed store of one photograph."""
    folder = tmp_path_factory.mktemp("cat")
    source = WheelsSource(kind="wheels", images=("skimage/data/chelsea.png",))
    make_store("cat", DatasetConfig(source=source), folder)
    return Store.open(folder)
