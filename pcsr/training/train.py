"""The training command: validate a stage of an experiment, assemble it and run it."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pcsr import distributed, geometry, registry, runtime
from pcsr.config.load import load_study
from pcsr.config.models import ExperimentConfig
from pcsr.config.options import Device, LogFile, Processes, Suite
from pcsr.data.store import Store
from pcsr.data.test_images import open_images
from pcsr.errors import UserError, require_name
from pcsr.evaluation import measure
from pcsr.methods.tiled import Tabulated
from pcsr.storage import files, provenance
from pcsr.training import crop_classes
from pcsr.training import run as training
from pcsr.weights import checkpoint
from pcsr.weights.load import fill_network


def train(
    experiment: Annotated[str, Parameter(help="an experiment of the suite")],
    stage: Annotated[str, Parameter(help="one of the experiment's stages")],
    /,
    *,
    suite: Suite,
    out: Annotated[Path, Parameter(help="weights file to write")],
    init: Annotated[
        Path | None,
        Parameter(help="weights of the previous stage, or of the experiment's init"),
    ] = None,
    calibration: Annotated[
        Path | None, Parameter(help="classes of crops, for a stage with a crop_class")
    ] = None,
    device: Device = "auto",
    processes: Annotated[
        int,
        Processes,
        Parameter(help="processes to train with, each on its own GPU; 0 means 1"),
    ] = 1,
    log_file: LogFile = None,
) -> None:
    """Train one stage of one experiment; an interrupted run is resumed.

    Training is the same with any number of processes, and may be resumed with another number.

    Example: `pcsr train fsrcnn-pcsr stage0 --suite configs/suites/train-quick.yaml --out
    w.safetensors`.
    """
    distributed.share_among(processes, device)
    files.require_suffix(out, ".safetensors", "--out")
    files.check_outputs((suite, init, calibration), (out, files.sidecar(out), log_file))
    study = load_study(suite)
    registry.check_names(study)
    require_name("experiment", experiment, study.experiments, str(suite))
    setup = study.experiments[experiment]
    where = f"configs/experiments/{experiment}.yaml"
    if study.suite.train_set is None or study.suite.valid_set is None:
        raise UserError(
            f"{suite}: weights: {study.suite.weights} ones are not trained; use a suite that "
            "trains, such as configs/suites/train-quick.yaml."
        )
    require_name("stage", stage, setup.stages, where)
    crop_class = setup.stages[stage].crop_class
    _require_files(setup, experiment, stage, init, calibration)
    picked = runtime.pick_device(device)
    runtime.set_up(setup.seed, study.suite.threads)
    method = registry.build(setup.model, f"{where}: model")
    stages = {one.name: one for one in method.stages}
    if list(setup.stages) != list(stages):
        raise UserError(
            f"{where}: stages: {setup.model.method} is trained in {', '.join(stages)}; list these, "
            "in this order."
        )
    has_table = isinstance(method, Tabulated)
    if setup.table != has_table:
        need = "needs table; set it to true" if has_table else "keeps no table; drop it"
        raise UserError(f"{where}: table: {setup.model.method} {need}.")
    if init is not None and setup.stage_before(stage):
        checkpoint.fill(method, checkpoint.load(init)[0], str(init))
    elif init is not None:
        fill_network(method, init)
    store = Store.open(Path(files.prepared(study.suite.train_set)))
    scale = setup.model.scale
    only = None
    if calibration is not None and crop_class is not None:
        patch = setup.stages[stage].patch
        size = geometry.hr_size((patch, patch), scale)[0]
        only = crop_classes.crops_of_class(calibration, crop_class, store, size)
    valid = open_images(Path(files.prepared(study.suite.valid_set)))
    protocol = study.suite.protocol.model_copy(update={"lr": setup.stages[stage].lr})
    count = min(len(valid), study.suite.valid_images)
    pairs = [measure.make_pair(valid[i], scale, protocol) for i in range(count)]

    def validate() -> dict[str, float]:
        return measure.validate(method, stages[stage], pairs, scale, protocol.refine)

    with distributed.processes(picked) as (rank, world):
        runtime.setup_logging(log_file if rank == 0 else None, quiet=rank > 0)
        facts = {
            "model": method.config.model_dump(mode="json"),
            "experiment": experiment,
            "stage": stage,
            "iterations": setup.iterations_up_to(stage),
            "initial_weights": checkpoint.digest(init) if init else None,
            "calibration": checkpoint.digest(calibration) if calibration else None,
            "provenance": provenance.record(
                stages={name: s.model_dump(mode="json") for name, s in setup.stages.items()},
                seed=setup.seed,
                data={study.suite.train_set: store.digest},
                device=runtime.describe(picked),
                processes=world,
                threads=study.suite.threads,
            ),
        }
        run = training.Run(
            method, stages[stage], setup.stages[stage], setup.seed, store, out, picked, facts, only
        )
        training.train(run, validate)


def _require_files(
    setup: ExperimentConfig,
    experiment: str,
    stage: str,
    init: Path | None,
    calibration: Path | None,
) -> None:
    """Require the weights and crop classes that a stage needs, and refuse those it does not."""
    before = setup.stage_before(stage)
    source = f"stage '{before}'" if before else setup.init
    if (source is None) != (init is None):
        need = f"starts from {source}: give its weights as" if source else "starts afresh: drop"
        raise UserError(f"{experiment}: stage '{stage}' {need} --init.")
    on_all = setup.stages[stage].crop_class is None
    if on_all == (calibration is not None):
        need = "trains on all crops: drop" if on_all else "trains on one class: give"
        raise UserError(f"{experiment}: stage '{stage}' {need} --calibration.")
