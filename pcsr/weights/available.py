"""What weights and test sets can be had on this machine, and how published weights get here.

Whether something is there is decided before any job runs, without asking the network: a mirror, if
one is set, stands for all of it. Needs no torch.
"""

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from pcsr import files
from pcsr.config.load import Study, parse
from pcsr.config.models import (
    ArchiveSource,
    DatasetConfig,
    ExperimentConfig,
    ModelConfig,
    ReleasedWeights,
    WheelsSource,
)
from pcsr.data.download import fetch, mirror_folder
from pcsr.errors import UserError

RAW = Path("data/raw")
FOLDER = "released"  # of published weights, in RAW and in a mirror


def obtain(released: ReleasedWeights, raw: Path = RAW) -> Path:
    """Download published weights, or take them from the mirror, and return the checkpoint's path.

    With a mirror set nothing is downloaded.

    Raises:
        UserError: a file cannot be had, or is not the published one.
    """
    mirror = mirror_folder()
    files = [
        fetch(
            file.url if mirror is None else None,
            raw / FOLDER / file.path,
            sha256=file.sha256,
            mirror=mirror,
            mirror_name=f"{FOLDER}/{file.path}",
            get=released.get,
        )
        for file in released.files
    ]
    return files[0]


def weights(study: Study, experiment: str) -> str:
    """Return the file of the weights that are measured."""
    if study.suite.weights == "shipped":
        return files.shipped(experiment)
    return files.weights(study.suite.suite, experiment, study.final(experiment))


@dataclass(frozen=True)
class Present:
    """What of a study can be measured here, and name -> reason of what cannot."""

    experiments: dict[str, ExperimentConfig]
    test_sets: list[str]
    absent_weights: dict[str, str]
    absent_test_sets: dict[str, str]


def present(study: Study) -> Present:
    """Leave out what cannot be had, if the suite wants that.

    Raises:
        UserError: no experiment or no test set is left, or weights are not shipped, or those of
            another model are.
    """
    if study.suite.weights == "shipped":
        for name in study.experiments:
            _require_shipped(study, name)
    if not study.suite.leave_out_absent:
        return Present(study.experiments, list(study.suite.test_sets), {}, {})
    missing, test_sets = absent_weights(study), absent_test_sets(study)
    kept = {name: setup for name, setup in study.experiments.items() if name not in missing}
    left = [name for name in study.suite.test_sets if name not in test_sets]
    for what, any_left, absent in (("weights", kept, missing), ("test sets", left, test_sets)):
        if not any_left:
            first, reason = next(iter(absent.items()))
            raise UserError(
                f"suite {study.suite.suite}: none of its {what} can be had here ({first}: "
                f"{reason}); fix or unset PCSR_MIRROR, or fill {RAW} as data/README.md says."
            )
    return Present(kept, left, missing, test_sets)


def _require_shipped(study: Study, experiment: str) -> None:
    """Refuse what cannot be measured with shipped weights."""
    path = Path(weights(study, experiment))
    description = files.sidecar(path)
    if not path.is_file() or not description.is_file():
        raise UserError(
            f"suite {study.suite.suite}: {path} does not exist: no weights of {experiment} are "
            "shipped. Drop it from experiments, or set weights: trained."
        )
    known = json.loads(description.read_text(encoding="utf-8"))["model"]
    shipped = _flat(parse(ModelConfig, known, str(description)))
    for key, value in _flat(study.experiments[experiment].model).items():
        if shipped.get(key) != value:
            raise UserError(
                f"configs/experiments/{experiment}.yaml: model.{key} is {value}, but {path} has "
                f"{shipped.get(key)}; set it back, or train: set weights: trained in the suite."
            )


def _flat(model: ModelConfig) -> dict[str, Any]:
    """Return what is set of a model, options under ``options.<name>``."""
    values = model.model_dump(mode="json", exclude_unset=True)
    for group in ("options", "backbone_options"):
        of_group = values.pop(group, {})
        values |= {f"{group}.{name}": value for name, value in of_group.items()}
    return values


def absent_weights(study: Study, raw: Path = RAW) -> dict[str, str]:
    """Return the experiments of a study whose published weights cannot be had, and why."""
    absent = {}
    for experiment, released in study.released.items():
        if Path(weights(study, experiment)).is_file():
            continue  # they are converted already
        for file in released.files:
            name = f"{FOLDER}/{file.path}"
            if not _can_be_had(name, raw / name, file.url):
                absent[experiment] = f"{_nowhere(name, raw)}. {released.get}".strip()
                break
    return absent


def absent_test_sets(study: Study, raw: Path = RAW) -> dict[str, str]:
    """Return the test sets of a study that cannot be had, and why."""
    absent = {}
    for name in study.suite.test_sets:
        is_prepared = (Path(files.prepared(name)) / "manifest.json").is_file()
        if not is_prepared and (reason := _why_absent(study.datasets[name], raw)):
            absent[name] = reason
    return absent


def _why_absent(dataset: DatasetConfig, raw: Path) -> str:
    """Say what is missing of a data set's images, or nothing."""
    source = dataset.source
    if isinstance(source, WheelsSource):
        return ""
    mirror = mirror_folder()
    if mirror and source.mirror and (mirror / source.mirror).exists():
        return ""
    if isinstance(source, ArchiveSource):
        archive = PurePosixPath(urlsplit(source.url).path).name
        if _can_be_had(archive, raw / archive, source.url):
            return ""
        return f"PCSR_MIRROR has neither {source.mirror} nor {archive}, {raw} has no {archive}"
    if Path(source.path).is_dir():
        return ""
    return f"{source.path} does not exist. {source.get}".strip()


def _nowhere(name: str, raw: Path) -> str:
    if mirror_folder() is None:
        return f"{raw} does not have {name}"
    return f"neither PCSR_MIRROR nor {raw} has {name}"


def _can_be_had(name: str, own: Path, url: str | None) -> bool:
    mirror = mirror_folder()
    return own.is_file() or ((mirror / name).is_file() if mirror else url is not None)
