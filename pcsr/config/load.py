"""Load configuration files: merge a suite's overrides, validate, report errors clearly.

Names are looked up in the folder that a command runs in, which may be a user's own, and then among
the files of the suite. Needs neither torch nor a GPU.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from cyclopts import Parameter
from pydantic import ValidationError

from pcsr.config import yaml_file
from pcsr.config.models import (
    PUBLISHED,
    Config,
    DatasetConfig,
    DatasetsConfig,
    ExperimentConfig,
    SuiteConfig,
)
from pcsr.config.released import ReleasedConfig, ReleasedWeights
from pcsr.errors import UserError, did_you_mean, require_name, unknown_name
from pcsr.storage import content, files

EXPERIMENTS = Path("configs/experiments")
DATASETS = Path("configs/datasets.yaml")
RELEASED = Path("configs/released.yaml")


@dataclass(frozen=True)
class Study:
    """A suite with its experiments and data sets, loaded, merged and validated."""

    suite: SuiteConfig
    experiments: dict[str, ExperimentConfig]
    datasets: dict[str, DatasetConfig]
    released: dict[str, ReleasedWeights]

    def final(self, experiment: str) -> str:
        """Name of the step whose weights are evaluated."""
        return PUBLISHED if experiment in self.released else self.experiments[experiment].final


ConfigT = TypeVar("ConfigT", bound=Config)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UserError: the file is missing or too large, is not YAML or of a kind that ``yaml_file``
            refuses, or does not hold a mapping.
    """
    try:
        text = content.read_bytes(path, yaml_file.MAX_BYTES).decode("utf-8-sig")
        values = yaml_file.parse(text)
    except FileNotFoundError:
        known = did_you_mean(path.stem, _names_in(path.parent))
        raise UserError(f"{path}: no such file. {known}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a readable YAML file.") from None
    except yaml.YAMLError as error:
        reason = yaml_file.reason(error)
        raise UserError(f"{path}: not valid YAML ({reason}); fix that line.") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: must hold a mapping of keys to values.")
    return values


def parse(model: type[ConfigT], values: Mapping[str, Any], where: str) -> ConfigT:
    """Validate ``values`` against ``model``; errors begin with ``where``, the origin of the values.

    Raises:
        UserError: names the origin, the key and the problem, and suggests a key for an unknown one.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
    first = problems[0]
    key = ".".join(
        str(part) for part in first["loc"] if part not in ("wheels", "archive", "folder")
    )
    if key in model.renamed:
        message = f"{model.renamed[key]}."
    elif first["type"] == "extra_forbidden":
        message = f"unknown key. {did_you_mean(str(first['loc'][-1]), _keys_beside(model, first))}"
    else:
        given = "" if first["type"] == "missing" else f", got {first['input']!r:.60}"
        message = f"{first['msg']}{given}."
    more = f" ({len(problems) - 1} more problems)" if len(problems) > 1 else ""
    raise UserError(f"{where}: {key or 'file'}: {message}{more}")


def _keys_beside(model: type[Config], problem: Mapping[str, Any]) -> list[str]:
    """Return the valid keys of the mapping that holds an unknown key."""
    schema = model.model_json_schema()
    node: dict[str, Any] = schema
    for part in problem["loc"][:-1]:
        node = _resolve(schema, node)
        if "discriminator" in node:  # pydantic puts the kind itself into the location
            node = {"$ref": node["discriminator"]["mapping"][part]}
        elif isinstance(part, int):
            node = node["items"]
        else:
            named = list(node.get("patternProperties", {}).values())
            others = node.get("additionalProperties", named[0] if named else {})
            node = node.get("properties", {}).get(part, others)
    return list(_resolve(schema, node).get("properties", {}))


def _resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    for alternative in node.get("anyOf", []):
        if "$ref" in alternative:
            node = alternative
    if "$ref" in node:
        found: dict[str, Any] = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
        return found
    return node


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge ``over`` into ``base``, mappings key by key.

    A key ``'*'`` in ``over`` applies to every key of ``base``; an explicit key takes precedence.
    """
    merged = dict(base)
    layers = [dict.fromkeys(base, over["*"])] if "*" in over else []
    for layer in (*layers, {key: value for key, value in over.items() if key != "*"}):
        for key, value in layer.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
            merged[key] = merge(merged[key], value) if both else value
    return merged


def load_datasets() -> dict[str, DatasetConfig]:
    """Read the tables of data sets, the suite's and the user's; on a clash the user's counts."""
    tables = [parse(DatasetsConfig, read_yaml(p), str(p)) for p in files.find_all(DATASETS)]
    return {name: config for table in tables for name, config in table.datasets.items()}


def load_released() -> dict[str, ReleasedWeights]:
    """Read the tables of published weights, the suite's and the user's, which takes precedence."""
    tables = [parse(ReleasedConfig, read_yaml(p), str(p)) for p in files.find_all(RELEASED)]
    return {name: weights for table in tables for name, weights in table.released.items()}


def _names_in(folder: Path) -> list[str]:
    """Return the names of the YAML files that ``files.find`` finds in a folder."""
    shipped = [files.SHIPPED / folder] if files.project_above() is None else []
    return sorted({path.stem for some in (folder, *shipped) for path in some.glob("*.yaml")})


def load_experiment(name: str, overrides: Sequence[Mapping[str, Any]] = ()) -> ExperimentConfig:
    """Read ``configs/experiments/<name>.yaml`` and merge a suite's overrides over it, in order."""
    path = files.find(EXPERIMENTS / f"{name}.yaml")
    values = read_yaml(path)
    for over in overrides:
        values = merge(values, over)
    where = f"{path} with the suite's overrides" if any(overrides) else str(path)
    return parse(ExperimentConfig, values, where)


def load_study(path: Path) -> Study:
    """Load a suite file and everything it refers to, and check that all names exist.

    Raises:
        UserError: names the file and the offending key, and suggests a close name.
    """
    path = files.find(path)
    suite = parse(SuiteConfig, read_yaml(path), str(path))
    known = _names_in(EXPERIMENTS)
    for name in suite.experiments:
        if name not in known:
            error = unknown_name("experiment", name, known, f"{path}: experiments")
            raise UserError(f"{error}{_elsewhere(path, EXPERIMENTS / f'{name}.yaml')}")
    for name in suite.overrides:
        if name != "*":
            require_name("experiment", name, suite.experiments, f"{path}: overrides")
    table = load_datasets()
    test_sets = [("test_sets", test_set) for test_set in suite.test_sets]
    for key, used in [("train_set", suite.train_set), ("valid_set", suite.valid_set), *test_sets]:
        if used is not None:
            require_name("data set", used, table, f"{path}: {key}")
    experiments = {
        name: load_experiment(name, [suite.overrides.get(key, {}) for key in ("*", name)])
        for name in suite.experiments
    }
    if suite.weights == "trained":
        _check_calibration(path, suite, experiments)
        _check_init(path, experiments)
    return Study(suite, experiments, table, _published(path, suite))


def _elsewhere(suite: Path, missing: Path) -> str:
    """Point to a missing file beside the suite, in a folder that the command does not run in."""
    folders = [folder for folder in suite.parents if (folder / missing).is_file()]
    return f" {folders[0]} has it: run the command there." if folders else ""


def _published(path: Path, suite: SuiteConfig) -> dict[str, ReleasedWeights]:
    """Return the published weights of a suite, by experiment."""
    everything = suite.weights == "released"
    key, names = ("experiments", suite.experiments) if everything else ("released", suite.released)
    for name in names:
        require_name("experiment", name, suite.experiments, f"{path}: {key}")
    releases = load_released() if names else {}
    for name in names:
        require_name("experiment", name, releases, f"{path}: {key}: {RELEASED}")
    return {name: releases[name] for name in names}


def _check_init(path: Path, experiments: Mapping[str, ExperimentConfig]) -> None:
    """Check that each ``init`` has the same backbone and is listed before the experiment."""
    before: list[str] = []
    for name, experiment in experiments.items():
        if experiment.init is not None:
            where = f"configs/experiments/{name}.yaml: init"
            listed = f"{where}: {path} has to list it before {name}"
            require_name("experiment", experiment.init, before, listed)
            backbones = experiment.model.backbone, experiments[experiment.init].model.backbone
            if len(set(backbones)) > 1:
                raise UserError(
                    f"{where}: {experiment.init} has the backbone {backbones[1]}, but {name} has "
                    f"{backbones[0]}; start from one of the same backbone."
                )
        before.append(name)


def _check_calibration(
    path: Path, suite: SuiteConfig, experiments: Mapping[str, ExperimentConfig]
) -> None:
    """Check that stages and calibration agree on classes, patch and scale, without a cycle."""
    calibration = suite.calibration
    if calibration is not None:
        where = f"{path}: calibration.experiment"
        require_name("experiment", calibration.experiment, experiments, where)
        measuring = experiments[calibration.experiment]
        scale = measuring.model.scale
        if any(stage.crop_class is not None for stage in measuring.stages.values()):
            raise UserError(f"{where}: {calibration.experiment} itself needs the calibration.")
    for name, experiment in experiments.items():
        for stage_name, stage in experiment.stages.items():
            if stage.crop_class is None:
                continue
            where = f"configs/experiments/{name}.yaml: stages.{stage_name}"
            if calibration is None:
                raise UserError(f"{where}.crop_class: {path} has no calibration; add one.")
            if experiment.model.scale != scale:
                raise UserError(
                    f"configs/experiments/{name}.yaml: model.scale: {experiment.model.scale:g}, "
                    f"but {calibration.experiment}, which calibrates its crops, has x{scale:g}."
                )
            if stage.crop_class >= calibration.classes:
                raise UserError(
                    f"{where}.crop_class: {stage.crop_class} is not a class of {path}'s "
                    f"calibration, which has 0 to {calibration.classes - 1}."
                )
            if stage.patch != calibration.patch:
                raise UserError(
                    f"{where}.patch: {stage.patch}, but {path}'s calibration.patch is "
                    f"{calibration.patch}; classes apply to crops of one size."
                )


def fingerprint(*parts: Any) -> str:
    """Return 12 hex digits that change if and only if the given configuration changes."""
    text = json.dumps(parts, sort_keys=True, default=lambda part: part.model_dump(mode="json"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write_schemas(
    *, out: Annotated[Path, Parameter(help="folder to write")] = Path("configs/schema")
) -> None:
    """Write the JSON schemas of the configuration files from their typed models.

    Example: `pcsr schema --out configs/schema`.
    """
    texts = {out / name: text for name, text in schemas().items()}
    files.check_outputs((), texts)
    for path, text in texts.items():
        files.write_text(path, text)


def schemas() -> dict[str, str]:
    """Return the JSON schemas of the configuration files, by file name in configs/schema."""
    models: dict[str, type[Config]] = {
        "suite": SuiteConfig,
        "experiment": ExperimentConfig,
        "datasets": DatasetsConfig,
        "released": ReleasedConfig,
    }
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}

    def text(model: type[Config]) -> str:
        return json.dumps(dialect | model.model_json_schema(), indent=2, sort_keys=True) + "\n"

    return {f"{name}.schema.json": text(model) for name, model in models.items()}
