# The checked configuration, and the lists of files that rules make from it. No torch here.
import os
import re
from contextlib import ExitStack
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version, validate

from pcsr import escape, registry
from pcsr.storage import files
from pcsr.config.load import fingerprint, load_study, read_yaml
from pcsr.config.models import MATLAB
from pcsr.config.published import load_claims
from pcsr.errors import UserError
from pcsr.weights import available

min_version("9.14")


report: "../report/workflow.rst"


# The jobs read the suite from its file, so nothing else may configure it. A workflow that uses this
# one as a module, with a configuration of its own, names the file: `suite_file`.
# A Path, because Snakemake does not compare paths among parameters: a moved checkout reruns nothing.
# Relative, because the command line is kept with the weights, wherever the checkout lies.
if "suite_file" in config:
    SUITE_FILE = Path(config["suite_file"])
elif workflow.configfiles:
    SUITE_FILE = Path(os.path.relpath(workflow.configfiles[0]))
else:
    SUITE_FILE = files.find("configs/suites/quick.yaml")

try:
    study = load_study(SUITE_FILE)
    suite_values = read_yaml(files.find(SUITE_FILE))
    if config and config not in (suite_values, {"suite_file": str(SUITE_FILE)}):
        raise UserError(
            f"{SUITE_FILE}: the suite is changed on the command line (--config, or several "
            "--configfile); put the changes into a suite file of your own."
        )
    registry.check_names(study)
    present = available.present(study)
    published = load_claims()
except UserError as error:
    raise WorkflowError(escape.printable(str(error))) from None

validate(suite_values, "../../configs/schema/suite.schema.json", set_default=False)

suite = study.suite
protocol = suite.protocol
experiments, test_sets = present.experiments, present.test_sets
backbones = sorted({setup.model.backbone for setup in experiments.values()})


# Two runs in one folder would delete each other's outputs. Snakemake's own lock, which the profiles
# switch off, is left behind by a killed run; the system releases this one with the process. It is
# taken when the first job starts: dry runs and reports, and the jobs themselves, need none.
running = ExitStack()


onstart:
    try:
        if workflow.executor_plugin.name == "slurm":
            require_job_states(workflow.executor_settings)
        running.enter_context(
            files.locked(
                Path(".snakemake/workflow"),
                wait=False,
                work="running the workflow in this folder",
            )
        )
    except UserError as error:
        raise WorkflowError(str(error)) from None


wildcard_constraints:
    suite=suite.suite,
    experiment="|".join(experiments),
    test_set="|".join(test_sets),
    backbone="|".join(map(re.escape, backbones)),
    stage="|".join({stage for setup in experiments.values() for stage in setup.stages}),


def manifest(dataset):
    return f"{files.prepared(dataset)}/manifest.json"


def weights(experiment):
    return available.weights(study, experiment)


def dataset_fingerprint(wildcards):
    return fingerprint(study.datasets[wildcards.dataset].identity())


def released_fingerprint(wildcards):
    name = wildcards.experiment
    return fingerprint(study.released[name].identity(), study.experiments[name].model)


def stage_before(wildcards):
    before = available.initial_weights(study, wildcards.experiment, wildcards.stage)
    return [before] if before else []


def init_option(wildcards):
    before = stage_before(wildcards)
    return ["--init", *before] if before else []


def classes_of_crops(wildcards):
    stage = study.experiments[wildcards.experiment].stages[wildcards.stage]
    if stage.crop_class is None:
        return []
    return [f"results/{suite.suite}/calibration/classes.safetensors"]


def calibration_option(wildcards):
    classes = classes_of_crops(wildcards)
    return ["--calibration", *classes] if classes else []


def measuring_weights(wildcards):
    return weights(suite.calibration.experiment)


def calibration_options(wildcards):
    calibration = suite.calibration
    return ["--patch", calibration.patch, "--classes", calibration.classes]


def trained_weights(wildcards):
    trained = study.experiments[wildcards.experiment].last_stage
    return files.weights(suite.suite, wildcards.experiment, trained)


def knob_options(wildcards):
    method = study.experiments[wildcards.experiment].model.method
    knobs = suite.knobs.get(method, ())
    return (["--knob", *knobs] if knobs else []) + ["--adaptive"] * suite.adaptive


def stage_fingerprint(wildcards):
    setup = study.experiments[wildcards.experiment]
    stage = setup.stages[wildcards.stage].identity()
    return fingerprint(setup.model, stage, setup.seed, suite.train_set)


def train_images(wildcards, input):
    return Path(input.train_set).parent


def valid_images(wildcards, input):
    return Path(input.valid_set).parent


def test_images(wildcards, input):
    return Path(input.test_set).parent


def last_weights(wildcards):
    return weights(wildcards.experiment)


def sweeps():
    return [
        f"results/{suite.suite}/{experiment}/{test_set}/sweep.csv"
        for experiment in experiments
        for test_set in test_sets
    ]


def originals(experiment):
    """Originals of the same backbone and scale, to compare an experiment with."""
    model = experiments[experiment].model
    return [
        name
        for name, setup in experiments.items()
        if setup.model.method == "original"
        and (setup.model.backbone, setup.model.scale) == (model.backbone, model.scale)
    ]


def original_weights(wildcards):
    return weights(originals(wildcards.experiment)[0])


def compared():
    """Experiments that can be set beside an original."""
    return [
        name
        for name, setup in experiments.items()
        if setup.model.method != "original" and originals(name)
    ]


def curved():
    """Backbones to draw: those with a curve; static networks are points in each of their figures."""
    adaptive = {
        setup.model.backbone
        for setup in experiments.values()
        if setup.model.method != "original"
    }
    return sorted(adaptive) or backbones


def timed():
    """Experiments that can be timed beside an original, and the originals."""
    return (
        [name for name in experiments if originals(name)] if suite.timed_knobs else []
    )


def times():
    return [f"results/{suite.suite}/times.json"] if timed() else []


def times_option(wildcards):
    return ["--times", *times()] if times() else []


def measured_by_others(suffix):
    """Results from others for this suite, contributed by pull request."""
    return sorted(map(str, Path("leaderboard", suite.suite).glob(f"*{suffix}")))


def leaderboard_options(wildcards):
    found = {
        "--added": measured_by_others(".csv"),
        "--times": measured_by_others(".json"),
    }
    return [
        word for option in found if found[option] for word in (option, *found[option])
    ]


def claimed():
    """Whether any published number belongs to what the suite measures."""
    return any(
        published.covers(setup.model.backbone, setup.model.method, test_set)
        for setup in experiments.values()
        for test_set in test_sets
    )


def explored_weights():
    """Weights to show on the suite's page: of each backbone the first PCSR, and its original."""
    first = {}
    for name in compared():
        model = experiments[name].model
        if model.method == "pcsr":
            first.setdefault((model.backbone, model.scale), name)
    scales = {scale for _, scale in first}  # a page has one
    return [
        weights(shown)
        for (_, scale), name in first.items()
        if scale == min(scales)
        for shown in (originals(name)[0], name)
    ]


def report_files():
    tables = [
        "inputs.md",
        "operating_points.md",
        "fairness.md",
        "leaderboard.md",
    ]
    tables += ["claims.md"] if claimed() else []
    figures = [f"{t}/{b}-psnr-flops.png" for t in test_sets for b in curved()]
    images = [
        f"{test_sets[0]}/{experiment}-{kind}.png"
        for experiment in compared()
        for kind in ("routing", "comparison")
    ]
    tables += ["index.html"] if explored_weights() else []
    reports = [f"reports/{suite.suite}/{name}" for name in (*tables, *figures, *images)]
    return [*reports, f"results/{suite.suite}/summary.txt"]


DEVICE = "cuda" if suite.gpus else "cpu"
ONE_GPU = min(suite.gpus, 1)
# All cores of this machine. On a cluster there is no such number, and the job, which reads this file
# again, must get the same value.
HERE = None if workflow.remote_exec else workflow.resource_settings.cores
CORES = HERE or suite.threads
# Lists of arguments, not strings with spaces: the rules quote each argument (`:q`), because names and
# paths may contain what a shell would run.
PROTOCOL_OPTIONS = ["--lr", protocol.lr, "--crop", protocol.crop]
PROTOCOL_OPTIONS += ["--refine" if protocol.refine else "--no-refine"]
# Only if it is not the default, because changed arguments would measure everything again.
if protocol.degradation != MATLAB:
    PROTOCOL_OPTIONS += ["--degradation", protocol.degradation]
OTHER_PROTOCOLS = [
    ",".join(
        f"{key}={value}".lower()
        for key, value in other
        if value != getattr(protocol, key)
    )
    for other in suite.protocols[1:]
]
ALSO_OPTIONS = ["--also", *OTHER_PROTOCOLS] if OTHER_PROTOCOLS else []
