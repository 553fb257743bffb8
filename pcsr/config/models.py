"""Typed models of the configuration files; every default is here. Needs neither torch nor a GPU.

An *experiment* (``configs/experiments/<id>.yaml``) defines what is trained and how. A *suite*
(``configs/suites/<name>.yaml``) selects experiments, data and what is measured, and may override
parts of its experiments. ``configs/datasets.yaml`` defines where images come from. Unknown keys are
errors everywhere.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pcsr.config.base import Below, Config, Local, Name

TABLE = "table"  # the step after the training stages, for methods with a table
# Options that version 0.1 stored beside the names of backbone and method -> where they are now.
FLAT = {
    **dict.fromkeys(("classifier", "heads", "width", "widths"), "options"),
    "batch_norm": "backbone_options",
}
PUBLISHED = "released"  # the step that replaces training
# Far beyond these networks, so that the description in a weights file cannot exhaust the memory.
WIDEST, DEEPEST, MOST_BRANCHES = 1024, 32, 16

# Beyond these, a number is a mistake: knobs have reached their ends well before, and no image or
# training is that large.
KNOB_LIMIT = 1000.0
SCALE_LIMIT = 64.0
PATCH_LIMIT = 4096
THREADS_LIMIT = 1024  # starting many times as many fails and ends the process
COUNT_LIMIT = 10**9

LRBits = Literal["8bit", "float"]
Crop = Literal["tiles", "none"]
Bicubic = Literal["matlab", "matlab-uint8", "selfexsr"]
DEGRADATIONS = (
    "bicubic from HR to LR: matlab rounds at the end only, matlab-uint8 also between the passes, "
    "selfexsr like matlab-uint8 with border pixels replicated instead of mirrored"
)
MATLAB: Bicubic = "matlab"  # the default; omitted from results, stores and hashes, which predate it
Registered = Annotated[str, Field(pattern=r"^[\w.+:/-]{1,64}$")]  # errors print an unknown name
Knob = Annotated[float, Field(ge=-KNOB_LIMIT, le=KNOB_LIMIT)]
Count = Annotated[int, Field(ge=1, le=COUNT_LIMIT)]
Patch = Annotated[
    int, Field(ge=8, le=PATCH_LIMIT, description="side of a training crop in LR pixels")
]
LearningRate = Annotated[float, Field(le=1e30)]  # a loss that is not finite ends the run
Decay = Annotated[float, Field(ge=0, lt=1)]


class HeadConfig(Config):
    """A multilayer perceptron on pixels: ``depth`` hidden layers of ``width`` units, ReLU."""

    width: int = Field(ge=0, le=WIDEST, description="units per hidden layer; 0 if there is none")
    depth: int = Field(ge=0, le=DEEPEST, description="hidden layers; 0 is a linear map")

    @model_validator(mode="after")
    def _layers_have_units(self) -> "HeadConfig":
        if (self.width == 0) != (self.depth == 0):
            raise ValueError("width and depth are both 0 (a linear map), or neither is")
        return self


OTHER_URLS = "other hosts of the same file, tried in order if the first fails"
Width = Annotated[int, Field(ge=1, le=WIDEST, description="channels of the network or encoder")]


class WidthOptions(Config):
    """Options of a method with one network."""

    width: Width


class WidthsOptions(Config):
    """Options of a method with a network of several widths, or several networks."""

    widths: tuple[Width, ...] = Field(
        min_length=1,
        max_length=MOST_BRANCHES,
        description="channels of each branch, narrowest first",
    )

    @field_validator("widths")
    @classmethod
    def _rise(cls, widths: tuple[int, ...]) -> tuple[int, ...]:
        if list(widths) != sorted(set(widths)):
            raise ValueError("widths must rise: list them narrowest first")
        return widths


class ModelConfig(Config):
    """The model to build. Options default to the paper's values for the backbone and method.

    Options are validated by the method's and the backbone's own models when these are built, so
    that a dry run imports neither.
    """

    backbone: Registered = Field(description="name in the registry of backbones")
    method: Registered = Field(description="name in the registry of methods")
    scale: float = Field(default=4.0, gt=1.0, le=SCALE_LIMIT, description="HR size / LR size")
    options: dict[str, Any] = Field(default={}, description="the method's own options")
    backbone_options: dict[str, Any] = Field(default={}, description="the backbone's own options")

    @model_validator(mode="before")
    @classmethod
    def _nest(cls, values: Any) -> Any:
        """Nest the flat options of weights from version 0.1."""
        if not isinstance(values, dict):
            return values
        nested = {key: value for key, value in values.items() if key not in FLAT}
        for key, group in FLAT.items():
            value, given = values.get(key), nested.get(group, {})
            if value is None or (key, value) == ("batch_norm", True) or not isinstance(given, dict):
                continue
            if key in given:
                raise ValueError(f"'{key}' is given twice: also under '{group}'")
            nested[group] = {**given, key: value}
        return nested


class StageConfig(Config):
    """A training stage; the learning rate follows a cosine to ``learning_rate_end``."""

    iterations: Count
    learning_rate: LearningRate = Field(gt=0)
    learning_rate_end: LearningRate = Field(default=1e-7, ge=0)
    betas: tuple[Decay, Decay] = Field(default=(0.9, 0.99), description="Adam")
    batch: Count = Field(default=16, description="crops per step, over all processes")
    patch: Patch = 32
    lr: LRBits = Field(default="8bit", description="LR crops rounded to 8 bit, or left in float")
    crop_class: int | None = Field(
        default=None,
        ge=0,
        lt=255,
        description="train on this class of the suite's calibration, 0 the easiest; unset: on all",
    )
    precision: Literal["float32", "tf32", "bf16"] = Field(
        default="float32",
        description="of matrix products: float32 is reproducible; the others are faster on GPUs "
        "with tensor cores, bf16 also on some CPUs (the log warns if it is slower; tf32 has no "
        "effect there)",
    )
    freeze: tuple[str, ...] = Field(default=(), description="modules not to train, e.g. encoder")
    compile: bool = Field(
        default=False, description="compile the step, and on a single GPU capture it as CUDA graphs"
    )
    log_every: Count = Field(default=100, description="steps between log lines")
    validate_every: Count = Field(default=5000, description="steps between validations")
    save_every: Count = Field(default=1000, description="steps between resumable states")

    def identity(self) -> dict[str, Any]:
        """Return what the weights depend on: everything but the logging and saving intervals."""
        apart = {"log_every", "validate_every", "save_every"}
        if not self.freeze:  # states from before this key existed can be resumed
            apart.add("freeze")
        return self.model_dump(mode="json", exclude=apart)


class ExperimentConfig(Config):
    """A model and its training stages, in order."""

    model: ModelConfig
    seed: int = Field(default=0, ge=0, lt=2**63, description="of all random numbers")
    init: Name | None = Field(default=None, description="experiment whose network it starts from")
    stages: dict[Name, StageConfig] = Field(min_length=1)
    table: bool = Field(
        default=False, description="fill the method's PSNR table after training (ARM)"
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
        names = [None, *self.stages]
        return names[names.index(stage) - 1]

    def iterations_up_to(self, stage: str) -> int:
        """Return the total iterations of all stages up to and including ``stage``."""
        names = list(self.stages)
        return sum(self.stages[name].iterations for name in names[: names.index(stage) + 1])


class ProtocolConfig(Config):
    """How a test image is measured (docs/protocol.md)."""

    lr: LRBits = "8bit"
    degradation: Bicubic = Field(
        default=MATLAB, description=DEGRADATIONS, exclude_if=lambda name: name == MATLAB
    )
    crop: Crop = Field(default="tiles", description="crop LR to a whole number of 32x32 tiles")
    refine: bool = Field(default=True, description="smooth light pixels next to heavy ones")

    @property
    def takes_ready_lr(self) -> bool:
        """Whether ready-made LR images can be used: they are 8 bit and already degraded."""
        return self.lr == "8bit" and self.degradation == MATLAB

    def columns(self) -> dict[str, Any]:
        """Return the columns of results that state this protocol.

        ``lr`` also names the degradation where it is not MATLAB's: ``8bit selfexsr``.
        """
        lr = self.lr if self.degradation == MATLAB else f"{self.lr} {self.degradation}"
        return {"lr": lr, "crop": self.crop, "refine": self.refine}


class CalibrationConfig(Config):
    """How training crops are sorted into classes by the PSNR that a trained model reaches."""

    experiment: Name = Field(description="experiment whose final weights measure the crops")
    classes: int = Field(
        default=3, ge=2, le=255, description="classes of equal size, 0 the easiest"
    )
    patch: Patch = 32


class SuiteConfig(Config):
    """A set of experiments and what is measured on them."""

    renamed: ClassVar[dict[str, str]] = {
        "protocol": "now the first of a list: protocols: [{lr: float}]",
        "both_ways": "now a list of protocols, the suite's own first: "
        "protocols: [{lr: 8bit, refine: true}, {lr: float}, {refine: false}]",
    }

    suite: Name
    description: str
    experiments: tuple[Name, ...] = Field(min_length=1)
    weights: Literal["trained", "released", "shipped"] = Field(
        default="trained",
        description="train them, or use those of configs/released.yaml or of weights/",
    )
    released: tuple[Name, ...] = Field(
        default=(), description="experiments that use published weights in a suite that trains"
    )
    train_set: Name | None = None
    valid_set: Name | None = None
    valid_images: Count = Field(default=10, description="images per validation")
    test_sets: tuple[Name, ...] = Field(min_length=1)
    leave_out_absent: bool = Field(
        default=False,
        description="leave out, and report, weights and test sets that are not available",
    )
    knobs: dict[str, Annotated[tuple[Knob, ...], Field(min_length=1)]] = Field(
        default={}, description="method -> values of its knob; unset: the method's default sweep"
    )
    adaptive: bool = Field(default=True, description="also measure the adaptive decision (ADM)")
    protocols: tuple[ProtocolConfig, ...] = Field(
        default=(ProtocolConfig(),),
        min_length=1,
        description="how test images are measured: the suite's own way, then those that pages "
        "compare with it; omitted choices take their defaults",
    )
    timed_knobs: tuple[Knob, ...] = Field(
        default=(),
        description="values of PCSR's knob that are timed beside the original, on the first image",
    )
    calibration: CalibrationConfig | None = Field(
        default=None, description="classes of training crops, for stages with a crop_class"
    )
    threads: int = Field(default=1, ge=1, le=THREADS_LIMIT, description="CPU threads of one job")
    gpus: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="0: jobs run on the CPU; 1: each on one GPU; N: train each model on N GPUs",
    )
    overrides: dict[str, dict[str, Any]] = Field(
        default={}, description="experiment id, or '*' for all -> keys to merge over its file"
    )

    @field_validator("protocols")
    @classmethod
    def _differ(cls, protocols: tuple[ProtocolConfig, ...]) -> tuple[ProtocolConfig, ...]:
        if len(set(protocols)) < len(protocols):
            raise ValueError("two protocols are the same; leave one out")
        return protocols

    @model_validator(mode="after")
    def _training_has_images(self) -> "SuiteConfig":
        for_training = ("train_set", "valid_set", "calibration")
        given = [key for key in for_training if getattr(self, key) is not None]
        if self.weights == "trained" and not {"train_set", "valid_set"} <= set(given):
            raise ValueError("set train_set and valid_set, or use released or shipped weights")
        given += [key for key in ("overrides", "released") if getattr(self, key)]
        if self.weights != "trained" and given:
            raise ValueError(f"{self.weights} weights are not trained: drop {', '.join(given)}")
        return self

    @property
    def protocol(self) -> ProtocolConfig:
        """The suite's own protocol: figures, tables and claims use rows measured this way."""
        return self.protocols[0]


class WheelsSource(Config):
    """Photographs inside installed Python packages."""

    kind: Literal["wheels"]
    images: tuple[Below, ...] = Field(min_length=1, description="package/path/image")


class ArchiveSource(Config):
    """Images inside a zip or tar archive that is downloaded once and verified."""

    kind: Literal["archive"]
    url: str
    bytes: int | None = Field(default=None, ge=1)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    md5: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")
    members: str = Field(description="glob of the images inside the archive")
    mirror: Below | None = Field(
        default=None, description="folder of the images, or the archive, under PCSR_MIRROR"
    )
    other_urls: tuple[str, ...] = Field(default=(), description=OTHER_URLS)

    @model_validator(mode="after")
    def _one_checksum(self) -> "ArchiveSource":
        if (self.sha256 is None) == (self.md5 is None):
            raise ValueError("give either sha256 or md5")
        return self


class FolderSource(Config):
    """Images that the user provides in a folder."""

    kind: Literal["folder"]
    path: Local = Field(description="folder of HR images")
    lr_path: Local | None = Field(
        default=None, description="folder of ready-made LR images, same names"
    )
    mirror: Below | None = Field(default=None, description="folder of HR images under PCSR_MIRROR")
    get: str = Field(default="", description="where the user gets the images")


class DatasetConfig(Config):
    """Where a set of images comes from and how they are processed before they are packed."""

    source: WheelsSource | ArchiveSource | FolderSource = Field(discriminator="kind")
    expected: int | None = Field(default=None, ge=1, description="images in the complete set")
    tiles: Count | None = Field(
        default=None,
        description="tiles of 32x32 LR pixels at x4 in all images of the published set",
    )
    first: str | None = Field(default=None, description="name of the first image to use")
    last: str | None = Field(default=None, description="name of the last image to use")
    reductions: tuple[Annotated[float, Field(ge=1 / SCALE_LIMIT, le=1)], ...] = Field(
        default=(1.0,),
        min_length=1,
        description="scale factors of each image's bicubic copies; 1 is the image itself",
    )
    grey_to_rgb: bool = Field(default=False, description="repeat the channel of grey images")

    @model_validator(mode="after")
    def _ready_lr_as_is(self) -> "DatasetConfig":
        if getattr(self.source, "lr_path", None) is not None and self.reductions != (1.0,):
            raise ValueError("ready-made LR images (lr_path) do not fit reduced HR images")
        return self

    def identity(self) -> dict[str, Any]:
        """Return what the prepared images depend on: neither their origin nor the tile count."""
        origin = {"get", "mirror", "url", "other_urls"}
        return self.model_dump(mode="json", exclude={"source": origin, "tiles": True})


class DatasetsConfig(Config):
    """The table of data sets."""

    datasets: dict[Name, DatasetConfig]
