"""Which weights and test sets are available on this machine, and downloads of published weights.

Availability is decided before any job runs and without network access: a mirror, if one is set,
replaces the network entirely. Needs no torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcsr.config.load import Study, parse
from pcsr.config.models import (
    ArchiveSource,
    DatasetConfig,
    ExperimentConfig,
    ModelConfig,
    WheelsSource,
)
from pcsr.config.released import ReleasedWeights
from pcsr.data.download import fetch, in_mirror, mirror_folder, name_of
from pcsr.errors import UserError, one_line
from pcsr.storage import content, files

RAW = Path("data/raw")
FOLDER = "released"  # of published weights, in RAW and in a mirror


def obtain(released: ReleasedWeights, raw: Path = RAW) -> Path:
    """Download published weights, or copy them from the mirror; return the checkpoint's path.

    With a mirror set nothing is downloaded.

    Raises:
        UserError: a file is not available, or is not the published one.
    """
    offline = mirror_folder() is not None
    files = [
        fetch(
            None if offline else file.url,
            raw / FOLDER / file.path,
            other_urls=() if offline else file.other_urls,
            sha256=file.sha256,
            git_blob=file.git_blob,
            copy=in_mirror(f"{FOLDER}/{file.path}"),
            get=released.get,
        )
        for file in released.files
    ]
    return files[0]


def weights(study: Study, experiment: str) -> str:
    """Return the path of the weights that a study evaluates for an experiment."""
    if study.suite.weights == "shipped":
        return files.shipped(experiment)
    return files.weights(study.suite.suite, experiment, study.final(experiment))


def initial_weights(study: Study, experiment: str, stage: str) -> str | None:
    """Return the path of the weights that a stage starts from, or None if it starts afresh."""
    setup = study.experiments[experiment]
    before = setup.stage_before(stage)
    if before is None:
        return weights(study, setup.init) if setup.init else None
    return files.weights(study.suite.suite, experiment, before)


@dataclass(frozen=True)
class Present:
    """What of a study can be measured here, and what cannot, as name -> reason."""

    experiments: dict[str, ExperimentConfig]
    test_sets: list[str]
    absent_weights: dict[str, str]
    absent_test_sets: dict[str, str]


def present(study: Study) -> Present:
    """Select what is available; nothing is left out unless the suite sets ``leave_out_absent``.

    Raises:
        UserError: no experiment or no test set is left; or the suite uses shipped weights and some
            are missing or belong to another model.
    """
    if study.suite.weights == "shipped":
        for name in study.experiments:
            _require_shipped(study, name)
    if not study.suite.leave_out_absent:
        return Present(study.experiments, list(study.suite.test_sets), {}, {})
    missing, test_sets = absent_weights(study), absent_test_sets(study)
    for name, setup in study.experiments.items():  # each comes after the one that it starts from
        if setup.init in missing:
            missing[name] = f"starts from {setup.init}, which is not available"
    experiments = {n: setup for n, setup in study.experiments.items() if n not in missing}
    left = [name for name in study.suite.test_sets if name not in test_sets]
    groups = (("weights", experiments, missing), ("test sets", left, test_sets))
    for what, any_left, absent in groups:
        if not any_left:
            first, reason = next(iter(absent.items()))
            raise UserError(
                f"suite {study.suite.suite}: none of its {what} are available here "
                f"({first}: {reason}); fix or unset PCSR_MIRROR, or fill {RAW} as data/README.md "
                "says."
            )
    return Present(experiments, left, missing, test_sets)


def _require_shipped(study: Study, experiment: str) -> None:
    """Refuse an experiment whose weights are not shipped or belong to another model."""
    path = Path(weights(study, experiment))
    description = files.sidecar(path)
    if not path.is_file() or not description.is_file():
        raise UserError(
            f"suite {study.suite.suite}: {path} does not exist: no weights of {experiment} are "
            "shipped. Drop it from experiments, or set weights: trained."
        )
    content.require_recorded(description)
    try:
        model = content.read_json(description)["model"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{description}: damaged, no description of weights ({one_line(error)}); get it again."
        ) from None
    shipped = _flat(parse(ModelConfig, model, f"{description}: model"))
    for key, value in _flat(study.experiments[experiment].model).items():
        if shipped.get(key) != value:
            raise UserError(
                f"configs/experiments/{experiment}.yaml: model.{key} is {value}, but {path} has "
                f"{shipped.get(key)}; set it back, or train: set weights: trained in the suite."
            )


def _flat(model: ModelConfig) -> dict[str, Any]:
    """Return the keys that a model sets explicitly, options as ``options.<name>``."""
    values = model.model_dump(mode="json", exclude_unset=True)
    for group in ("options", "backbone_options"):
        of_group = values.pop(group, {})
        values |= {f"{group}.{name}": value for name, value in of_group.items()}
    return values


def absent_weights(study: Study, raw: Path = RAW) -> dict[str, str]:
    """Return the experiments whose published weights are not available: name -> reason."""
    absent = {}
    for experiment, released in study.released.items():
        if Path(weights(study, experiment)).is_file():
            continue  # already converted
        named = {f"{FOLDER}/{file.path}": file.url for file in released.files}
        missing = [name for name, url in named.items() if not _can_be_had(name, raw, url)]
        if missing:
            both = mirror_folder() is not None
            where = f"neither PCSR_MIRROR nor {raw} has" if both else f"{raw} does not have"
            absent[experiment] = f"{where} {missing[0]}. {released.get}".strip()
    return absent


def absent_test_sets(study: Study, raw: Path = RAW) -> dict[str, str]:
    """Return the test sets of a study that are not available: name -> reason."""
    absent = {}
    for name in study.suite.test_sets:
        is_prepared = (Path(files.prepared(name)) / "manifest.json").is_file()
        if not is_prepared and (reason := _why_absent(study.datasets[name], raw)):
            absent[name] = reason
    return absent


def _why_absent(dataset: DatasetConfig, raw: Path) -> str:
    """Return why a data set's images are not available, or an empty string."""
    source = dataset.source
    if isinstance(source, WheelsSource):
        return ""
    if in_mirror(source.mirror):
        return ""
    if isinstance(source, ArchiveSource):
        archive = name_of(source.url)
        if _can_be_had(archive, raw, source.url):
            return ""
        return f"PCSR_MIRROR has neither {source.mirror} nor {archive}, {raw} has no {archive}"
    if Path(source.path).is_dir():
        return ""
    return f"{source.path} does not exist. {source.get}".strip()


def _can_be_had(name: str, raw: Path, url: str | None) -> bool:
    from_network = mirror_folder() is None and url is not None
    return (raw / name).is_file() or in_mirror(name) is not None or from_network
