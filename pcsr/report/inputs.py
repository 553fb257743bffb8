"""Page of what a suite was measured with: weights, images, and what was not available."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pandas as pd
from pydantic import Field

from pcsr import escape
from pcsr.config.base import Facts
from pcsr.config.load import Study, load_study
from pcsr.config.options import MarkdownOut, Suite
from pcsr.data.store import MANIFEST
from pcsr.report import pages
from pcsr.report.tables import markdown
from pcsr.report.tidy import read_facts
from pcsr.storage import files
from pcsr.weights import available
from pcsr.weights.available import Present


class Source(Facts):
    """The published file that weights were converted from."""

    file: str
    sha256: str


class WeightsFacts(Facts):
    """What the page shows of the JSON beside a weights file."""

    released: str | None = Field(default=None, description="what a file was recognised as")
    iterations: int | None = None
    curve: dict[str, tuple[tuple[int, float], ...]] | None = Field(
        default=None, description="of shipped weights: stage -> (step, validation PSNR)"
    )
    source: Source | None = None


class ImageName(Facts):
    """One image of a prepared data set."""

    name: str


class ManifestFacts(Facts):
    """What the page shows of a prepared data set's manifest."""

    origin: str
    expected: int | None
    complete: bool
    images: tuple[ImageName, ...] = Field(min_length=1)


def inputs(*, suite: Suite, out: MarkdownOut) -> None:
    """List the weights and images that a suite was measured with, and what was not available.

    Example: `pcsr inputs --suite configs/suites/quick.yaml --out inputs.md`.
    """
    files.check_outputs([suite], pages.written(out))
    study = load_study(suite)
    pages.write(inputs_markdown(study, available.present(study)), out)


def inputs_markdown(study: Study, present: Present) -> str:
    """Return the page, from the JSON beside the weights and the manifests of the images.

    Raises:
        UserError: weights or images do not exist yet; names the file.
    """
    suite = study.suite.suite
    used, sets = [], []
    for name in present.experiments:
        path = Path(available.weights(study, name))
        used.append(_weights(name, read_facts(WeightsFacts, files.sidecar(path))))
    for name in present.test_sets:
        path = Path(files.prepared(name)) / MANIFEST
        sets.append(_test_set(name, read_facts(ManifestFacts, path)))
    for name, why in present.absent_weights.items():
        used.append({"Experiment": name, "State": f"not run: {why}"})
    for name, why in present.absent_test_sets.items():
        sets.append({"Test set": name, "State": f"not run: {why}"})
    return f"""# Inputs of suite {escape.markdown(suite)}

## Weights

{markdown(pd.DataFrame(used).fillna("-"))}
## Test sets

{markdown(pd.DataFrame(sets).fillna("-"), ["Images", "Of"])}
Whatever was not available was left out, and its claims read "not run". A set with fewer images than
the published one is partial: its means are not comparable with published means. If more of its
images are available now, remove its folder under data/prepared and run again.
"""


def _weights(experiment: str, facts: WeightsFacts) -> dict[str, str]:
    how = "trained" if facts.curve is None else "shipped, trained for"
    trained = f"{how} {facts.iterations or 0:,} steps"
    row = {"Experiment": experiment, "State": facts.released or trained}
    if facts.source:
        row |= {"File": facts.source.file, "sha256": facts.source.sha256[:16]}
    return row


def _test_set(name: str, facts: ManifestFacts) -> dict[str, str]:
    return {
        "Test set": name,
        "State": "complete" if facts.complete else "partial",
        "Images": str(len(facts.images)),
        "Of": str(facts.expected or len(facts.images)),
        "Which": ranges([image.name for image in facts.images]),
        "From": facts.origin,
    }


def ranges(names: Sequence[str]) -> str:
    """Join consecutive names to ranges: ``img_001 to img_025, img_030``."""
    runs = [[names[0]]]
    for before, name in pairwise(names):
        if _follows(before, name):
            runs[-1].append(name)
        else:
            runs.append([name])
    return ", ".join(" to ".join(dict.fromkeys((run[0], run[-1]))) for run in runs)


def _follows(before: str, name: str) -> bool:
    """Tell whether two names differ only by a number at the end that is one more."""
    parts = [re.fullmatch(r"(.*?)(\d+)", one) for one in (before, name)]
    if None in parts:
        return False
    (stem, number), (other, following) = (part.groups() for part in parts if part)
    return stem == other and int(following) == int(number) + 1
