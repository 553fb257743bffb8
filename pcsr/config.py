"""Typed configuration: the one home of every default. Needs neither torch nor a GPU.

An *experiment* (``configs/experiments/<id>.yaml``) says what is trained and how. A *suite*
(``configs/suites/<name>.yaml``) says which experiments run, on which data, and what is measured; it
may override parts of its experiments. ``configs/datasets.yaml`` says where pictures come from.
Unknown keys are refused everywhere.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pcsr.errors import UserError, did_you_mean, unknown_name

EXPERIMENTS = Path("configs/experiments")
DATASETS = Path("configs/datasets.yaml")
RELEASED = Path("configs/released.yaml")

TABLE = "table"  # the step after the training stages, where there is one
PUBLISHED = "released"  # the step that takes the place of training

LRBits = Literal["8bit", "float"]
Crop = Literal["tiles", "none"]
Choices = Annotated[str, Field(pattern=r"^(lr|crop|refine)(,(lr|crop|refine))*$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class Config(BaseModel):
    """Base of all configuration: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class HeadConfig(Config):
    """A multilayer perceptron on pixels: ``depth`` hidden layers of ``width`` units, ReLU."""

    width: int = Field(ge=0, description="units per hidden layer; 0 where there is none")
    depth: int = Field(ge=0, description="hidden layers; 0 is a linear map")

    @model_validator(mode="after")
    def _layers_have_units(self) -> "HeadConfig":
        if (self.width == 0) != (self.depth == 0):
            raise ValueError("width and depth are both 0 (a linear map), or neither is")
        return self


class ModelConfig(Config):
    """What is built. Every value left out takes the paper's value for the backbone and method."""

    backbone: str = Field(description="name in the catalog of backbones")
    method: str = Field(description="name in the catalog of methods")
    scale: float = Field(default=4.0, gt=1.0, description="HR size / LR size")
    width: int | None = Field(default=None, ge=1, description="channels of the network or encoder")
    widths: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        default=None, min_length=1, description="ClassSR, ARM: channels of each branch, rising"
    )
    heads: tuple[HeadConfig, ...] | None = Field(
        default=None, min_length=2, description="PCSR upsamplers, cheapest first"
    )
    classifier: HeadConfig | None = Field(default=None, description="PCSR pixel classifier")
    batch_norm: bool = Field(default=True, description="CARN: BatchNorm after the fusing conv1")

    @model_validator(mode="after")
    def _widths_rise(self) -> "ModelConfig":
        if self.widths is not None and list(self.widths) != sorted(set(self.widths)):
            raise ValueError("widths must rise: list them cheapest first")
        return self


class StageConfig(Config):
    """One training stage. Learning rate: cosine from ``learning_rate`` to ``learning_rate_end``."""

    iterations: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    learning_rate_end: float = Field(default=1e-7, ge=0)
    betas: tuple[float, float] = Field(default=(0.9, 0.99), description="Adam")
    batch: int = Field(default=16, ge=1, description="crops per step, over all processes together")
    patch: int = Field(default=32, ge=8, description="side of a training crop in LR pixels")
    lr: LRBits = Field(default="8bit", description="LR crops rounded to 8 bit, or kept in float")
    crop_class: int | None = Field(
        default=None,
        ge=0,
        description="train on this class of the suite's calibration, 0 the easiest; else on all",
    )
    precision: Literal["float32", "tf32", "bf16"] = Field(
        default="float32",
        description="of products: float32 gives the same weights again; the others are faster on "
        "GPUs with tensor cores (tf32 changes nothing on a CPU)",
    )
    compile: bool = Field(
        default=False, description="compile the step, and on a single GPU record it as CUDA graphs"
    )
    log_every: int = Field(default=100, ge=1, description="steps between lines of the log")
    validate_every: int = Field(default=5000, ge=1, description="steps between validations")
    save_every: int = Field(default=1000, ge=1, description="steps between resumable states")

    def identity(self) -> dict[str, Any]:
        """Return what the weights depend on: all but how often something is written down."""
        return self.model_dump(mode="json", exclude={"log_every", "validate_every", "save_every"})


class ExperimentConfig(Config):
    """A model and its training stages, in order."""

    model: ModelConfig
    seed: int = Field(default=0, ge=0)
    stages: dict[Name, StageConfig] = Field(min_length=1)
    table: bool = Field(
        default=False, description="after training, fill the method's PSNR table (ARM)"
    )

    @model_validator(mode="after")
    def _steps_are_no_stages(self) -> "ExperimentConfig":
        for step in (TABLE, PUBLISHED):
            if step in self.stages:
                raise ValueError(f"a training stage cannot be called '{step}'")
        return self

    @property
    def last_stage(self) -> str:
        """Name of the last training stage."""
        return list(self.stages)[-1]

    @property
    def final(self) -> str:
        """Name of the step whose weights are evaluated: the last stage, or the table after it."""
        return TABLE if self.table else self.last_stage

    def stage_before(self, stage: str) -> str | None:
        """Return the stage that ``stage`` starts from, or None for the first."""
        names = list(self.stages)
        position = names.index(stage)
        return names[position - 1] if position else None

    def iterations_up_to(self, stage: str) -> int:
        """Return the iterations of all stages up to and with ``stage``."""
        names = list(self.stages)
        return sum(self.stages[name].iterations for name in names[: names.index(stage) + 1])


class ProtocolConfig(Config):
    """How a test picture is measured (docs/protocol.md)."""

    lr: LRBits = "8bit"
    crop: Crop = Field(default="tiles", description="crop LR to a whole number of 32x32 tiles")
    refine: bool = Field(default=True, description="smooth cheap pixels beside expensive ones")

    def also(self, both_ways: Iterable[str]) -> list["ProtocolConfig"]:
        """Return this protocol, and those that differ from it in the given choices.

        Args:
            both_ways: ``"lr"`` adds the other LR; ``"lr,refine"`` adds every combination of both.

        Raises:
            UserError: a choice has another name than ``lr``, ``crop``, ``refine``.
        """
        other: dict[str, Any] = {
            "lr": "float" if self.lr == "8bit" else "8bit",
            "crop": "none" if self.crop == "tiles" else "tiles",
            "refine": not self.refine,
        }
        protocols = [self]
        for together in both_ways:
            combined = [self]
            for choice in dict.fromkeys(together.split(",")):
                if choice not in other:
                    raise unknown_name("choice", choice, other, "both ways")
                switched = {choice: other[choice]}
                combined += [protocol.model_copy(update=switched) for protocol in combined]
            protocols += [protocol for protocol in combined if protocol not in protocols]
        return protocols


class CalibrationConfig(Config):
    """How training crops are sorted into classes: by the PSNR that a trained model gives them."""

    experiment: str = Field(description="whose final weights measure the crops")
    classes: int = Field(
        default=3, ge=2, le=255, description="classes of equal size, 0 the easiest"
    )
    patch: int = Field(default=32, ge=8, description="side of a training crop in LR pixels")


class SuiteConfig(Config):
    """A set of experiments and what is measured on them."""

    suite: Name
    description: str
    experiments: tuple[str, ...] = Field(min_length=1)
    weights: Literal["trained", "released", "shipped"] = Field(
        default="trained",
        description="train them, take those of configs/released.yaml, or those in weights/",
    )
    train_set: str | None = None
    valid_set: str | None = None
    valid_images: int = Field(default=10, ge=1, description="pictures used by a validation")
    test_sets: tuple[str, ...] = Field(min_length=1)
    leave_out_absent: bool = Field(
        default=False,
        description="leave out, and say so, weights and test sets that cannot be had here",
    )
    knobs: dict[str, Annotated[tuple[float, ...], Field(min_length=1)]] = Field(
        default={}, description="method -> values of its knob; its own choice where left out"
    )
    adaptive: bool = Field(default=True, description="also measure the adaptive decision (ADM)")
    protocol: ProtocolConfig = ProtocolConfig()
    both_ways: tuple[Choices, ...] = Field(
        default=(),
        description="choices of the protocol that are also measured the other way; those joined by "
        "a comma in all combinations",
    )
    calibration: CalibrationConfig | None = Field(
        default=None, description="classes of training crops, for stages with a crop_class"
    )
    threads: int = Field(default=1, ge=1, description="CPU threads of one job")
    gpus: int = Field(
        default=0,
        ge=0,
        description="0: jobs run on the CPU; 1: on a GPU each; more: so many train one model",
    )
    overrides: dict[str, dict[str, Any]] = Field(
        default={}, description="experiment id, or '*' for all -> keys merged over its file"
    )

    @model_validator(mode="after")
    def _training_has_pictures(self) -> "SuiteConfig":
        for_training = ("train_set", "valid_set", "calibration")
        given = [key for key in for_training if getattr(self, key) is not None]
        if self.weights == "trained" and not {"train_set", "valid_set"} <= set(given):
            raise ValueError("name train_set and valid_set, or take released or shipped weights")
        given += ["overrides"] * bool(self.overrides)
        if self.weights != "trained" and given:
            raise ValueError(f"{self.weights} weights are not trained: drop {', '.join(given)}")
        return self


class WheelsSource(Config):
    """Photographs carried inside installed Python packages."""

    kind: Literal["wheels"]
    images: tuple[str, ...] = Field(min_length=1, description="package/path/picture")


class ArchiveSource(Config):
    """Pictures inside a zip or tar archive that is downloaded once and checked."""

    kind: Literal["archive"]
    url: str
    bytes: int | None = Field(default=None, ge=1)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    md5: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")
    members: str = Field(description="glob of the pictures inside the archive")
    mirror: str | None = Field(
        default=None, description="folder of the pictures, or the archive, under PCSR_MIRROR"
    )

    @model_validator(mode="after")
    def _one_checksum(self) -> "ArchiveSource":
        if (self.sha256 is None) == (self.md5 is None):
            raise ValueError("give either sha256 or md5")
        return self


class FolderSource(Config):
    """Pictures that the user puts into a folder."""

    kind: Literal["folder"]
    path: str = Field(description="folder of HR pictures")
    lr_path: str | None = Field(default=None, description="folder of ready LR pictures, same names")
    mirror: str | None = Field(default=None, description="folder of HR pictures under PCSR_MIRROR")
    get: str = Field(default="", description="where the user gets the pictures")


class DatasetConfig(Config):
    """Where a set of pictures comes from and what is done to them before they are packed."""

    source: WheelsSource | ArchiveSource | FolderSource = Field(discriminator="kind")
    expected: int | None = Field(default=None, ge=1, description="pictures in the complete set")
    first: str | None = Field(default=None, description="first picture name that is taken")
    last: str | None = Field(default=None, description="last picture name that is taken")
    reductions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(1.0,), min_length=1, description="bicubic copies of each picture; 1 is itself"
    )
    grey_to_rgb: bool = Field(default=False, description="repeat a grey picture's channel")

    @model_validator(mode="after")
    def _ready_lr_as_is(self) -> "DatasetConfig":
        if getattr(self.source, "lr_path", None) is not None and self.reductions != (1.0,):
            raise ValueError("ready LR pictures (lr_path) do not fit reduced HR pictures")
        return self

    def identity(self) -> dict[str, Any]:
        """Return what the prepared pictures depend on: all but the ways to get them."""
        return self.model_dump(mode="json", exclude={"source": {"get", "mirror", "url"}})


class DatasetsConfig(Config):
    """The table of data sets."""

    datasets: dict[Name, DatasetConfig]


class ReleasedFile(Config):
    """A published file."""

    path: str = Field(
        pattern=r"^[\w-][\w.-]*(/[\w-][\w.-]*)*$",
        description="where it is below `released` in PCSR_MIRROR or data/raw",
    )
    url: str | None = Field(default=None, description="where it is downloaded from, if it can be")
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


class ReleasedWeights(Config):
    """Weights that the authors of a paper published."""

    files: tuple[ReleasedFile, ...] = Field(
        min_length=1, description="the checkpoint, and what must stand beside it"
    )
    get: str = Field(default="", description="where the user gets files that have no url")

    def identity(self) -> dict[str, Any]:
        """Return what the weights depend on: all but the ways to get them."""
        return self.model_dump(mode="json", exclude={"get": True, "files": {"__all__": {"url"}}})


class ReleasedConfig(Config):
    """The table of published weights, by experiment."""

    released: dict[Name, ReleasedWeights]


@dataclass(frozen=True)
class Study:
    """A suite with its experiments and data sets read, merged and checked."""

    suite: SuiteConfig
    experiments: dict[str, ExperimentConfig]
    datasets: dict[str, DatasetConfig]
    released: dict[str, ReleasedWeights]

    def final(self, experiment: str) -> str:
        """Name of the step whose weights are evaluated."""
        published = self.suite.weights == "released"
        return PUBLISHED if published else self.experiments[experiment].final


ConfigT = TypeVar("ConfigT", bound=Config)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UserError: the file is missing, is not YAML, or does not hold a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        beside = [p.stem for p in path.parent.glob("*.yaml")]
        raise UserError(f"{path}: no such file. {did_you_mean(path.stem, beside)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a readable YAML file.") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not valid YAML ({reason}); mend that line.") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: must hold a mapping of keys to values.")
    return values


def parse(model: type[ConfigT], values: Mapping[str, Any], where: str) -> ConfigT:
    """Validate ``values`` against ``model``; ``where`` names their origin in the error.

    Raises:
        UserError: names the origin, the key, what is wrong, and a close key for an unknown one.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
    first = problems[0]
    key = ".".join(
        str(part) for part in first["loc"] if part not in ("wheels", "archive", "folder")
    )
    if first["type"] == "extra_forbidden":
        message = f"unknown key. {did_you_mean(str(first['loc'][-1]), _keys_beside(model, first))}"
    else:
        given = "" if first["type"] == "missing" else f", got {first['input']!r:.60}"
        message = f"{first['msg']}{given}."
    more = f" ({len(problems) - 1} more problems)" if len(problems) > 1 else ""
    raise UserError(f"{where}: {key or 'file'}: {message}{more}")


def _keys_beside(model: type[Config], problem: Mapping[str, Any]) -> list[str]:
    """Return the keys that the mapping around an unknown key may have."""
    schema = model.model_json_schema()
    node: dict[str, Any] = schema
    for part in problem["loc"][:-1]:
        node = _resolve(schema, node)
        if "discriminator" in node:  # pydantic puts the kind itself into the location
            node = {"$ref": node["discriminator"]["mapping"][part]}
        else:
            named = list(node.get("patternProperties", {}).values())
            others = node.get("additionalProperties", named[0] if named else {})
            node = node.get("properties", {}).get(part, others)
    return list(_resolve(schema, node).get("properties", {}))


def _resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    for choice in node.get("anyOf", []):
        if "$ref" in choice:
            node = choice
    if "$ref" in node:
        found: dict[str, Any] = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
        return found
    return node


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge ``over`` into ``base``, mappings key by key.

    A key ``'*'`` in ``over`` stands for every key of ``base``; a key that is named wins over it.
    """
    merged = dict(base)
    layers = [dict.fromkeys(base, over["*"])] if "*" in over else []
    for layer in (*layers, {key: value for key, value in over.items() if key != "*"}):
        for key, value in layer.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
            merged[key] = merge(merged[key], value) if both else value
    return merged


def load_datasets(path: Path = DATASETS) -> dict[str, DatasetConfig]:
    """Read the table of data sets."""
    return parse(DatasetsConfig, read_yaml(path), str(path)).datasets


def dataset(name: str, datasets: Mapping[str, DatasetConfig], where: str = "") -> DatasetConfig:
    """Return the data set called ``name``, or raise a UserError that lists the names."""
    if name not in datasets:
        raise unknown_name("data set", name, datasets, where)
    return datasets[name]


def load_released(path: Path = RELEASED) -> dict[str, ReleasedWeights]:
    """Read the table of published weights."""
    return parse(ReleasedConfig, read_yaml(path), str(path)).released


def released(name: str, table: Mapping[str, ReleasedWeights], where: str = "") -> ReleasedWeights:
    """Return the published weights of an experiment, or raise a UserError that lists the names."""
    if name not in table:
        raise unknown_name("experiment", name, table, where or str(RELEASED))
    return table[name]


def load_experiment(name: str, overrides: Sequence[Mapping[str, Any]] = ()) -> ExperimentConfig:
    """Read ``configs/experiments/<name>.yaml`` and merge a suite's overrides over it, in order."""
    path = EXPERIMENTS / f"{name}.yaml"
    values = read_yaml(path)
    for over in overrides:
        values = merge(values, over)
    where = f"{path} with the suite's overrides" if any(overrides) else str(path)
    return parse(ExperimentConfig, values, where)


def load_study(path: Path) -> Study:
    """Read a suite file with everything it names, and check that all names exist.

    Raises:
        UserError: names the file and key that is wrong, and a close name where there is one.
    """
    suite = parse(SuiteConfig, read_yaml(path), str(path))
    available = [p.stem for p in EXPERIMENTS.glob("*.yaml")]
    for name in suite.experiments:
        if name not in available:
            raise unknown_name("experiment", name, available, f"{path}: experiments")
    for name in suite.overrides:
        if name != "*" and name not in suite.experiments:
            raise unknown_name("experiment", name, suite.experiments, f"{path}: overrides")
    table = load_datasets()
    sets = {"train_set": suite.train_set, "valid_set": suite.valid_set}
    used = {key: (name,) for key, name in sets.items() if name is not None}
    for key, names in {**used, "test_sets": suite.test_sets}.items():
        for name in names:
            dataset(name, table, f"{path}: {key}")
    experiments = {
        name: load_experiment(name, [suite.overrides.get(key, {}) for key in ("*", name)])
        for name in suite.experiments
    }
    published: dict[str, ReleasedWeights] = {}
    if suite.weights == "released":
        known = load_released()
        where = f"{path}: experiments: {RELEASED}"
        published = {name: released(name, known, where) for name in experiments}
    elif suite.weights == "trained":
        _check_calibration(path, suite, experiments)
    return Study(suite, experiments, table, published)


def _check_calibration(
    path: Path, suite: SuiteConfig, experiments: Mapping[str, ExperimentConfig]
) -> None:
    """Check that stages and calibration agree: classes, patch, and who needs whom."""
    calibration = suite.calibration
    if calibration is not None:
        where = f"{path}: calibration.experiment"
        if calibration.experiment not in experiments:
            raise unknown_name("experiment", calibration.experiment, experiments, where)
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
                    f"{where}.crop_class: {stage.crop_class} is no class of {path}'s calibration, "
                    f"which has 0 to {calibration.classes - 1}."
                )
            if stage.patch != calibration.patch:
                raise UserError(
                    f"{where}.patch: {stage.patch}, but {path}'s calibration.patch is "
                    f"{calibration.patch}; classes hold for crops of one size."
                )


def fingerprint(*parts: Any) -> str:
    """Return 12 hex digits that change when, and only when, the given configuration changes."""

    def plain(part: Config) -> dict[str, Any]:
        return part.model_dump(mode="json")

    text = json.dumps(parts, sort_keys=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def schemas() -> dict[str, str]:
    """Return the JSON schemas of the configuration files, by name of file in configs/schema."""
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
