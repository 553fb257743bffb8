"""Check what a user has written, a suite or an experiment, before anything is trained."""

from collections import defaultdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pcsr import registry
from pcsr.config.load import EXPERIMENTS, load_experiment, load_study
from pcsr.config.options import WeightsOrNone
from pcsr.errors import UserError, one_line
from pcsr.weights import available

# What a method that breaks a promise may raise.
FAILURES = (UserError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)


def check(
    target: Annotated[str, Parameter(help="suite file, or the name of an experiment")],
    /,
    *,
    weights: WeightsOrNone = None,
) -> list[str]:
    """Check a suite and everything it names, or that an experiment's method keeps the contract.

    Checking a suite runs nothing. The method of an experiment, which may come from another package,
    is tested for what every method promises: the routed work gives the composed image, claimed
    FLOPs are the executed ones, each stage trains its part. Weights are fresh unless `--weights` is
    given; fresh ones may route all units to one branch.

    Example: `pcsr check configs/suites/quick.yaml`, `pcsr check fsrcnn-pcsr`.
    """
    path = Path(target)
    by_name = path.suffix not in (".yaml", ".yml") and len(path.parts) == 1
    if not by_name and path.parent != EXPERIMENTS:
        if weights is not None:
            raise UserError("--weights: goes with an experiment; drop it.")
        study = load_study(path)
        registry.check_names(study)
        found = available.present(study)
        experiments, test_sets = ", ".join(found.experiments), ", ".join(found.test_sets)
        return [f"{path}: nothing is wrong. Experiments: {experiments}. Test sets: {test_sets}."]
    return check_experiment(path.stem if path.suffix else target, weights)


def check_experiment(name: str, weights: Path | None = None) -> list[str]:
    """Test an experiment's method against the contract; return a line per promise.

    Raises:
        UserError: the experiment does not exist or cannot be built, or promises are broken.
    """
    import torch  # noqa: PLC0415 - a suite is checked without it

    from pcsr.training.contract import PROMISES, branches_tried, enliven  # noqa: PLC0415
    from pcsr.weights.load import load_method  # noqa: PLC0415

    setup = load_experiment(name)
    where = f"configs/experiments/{name}.yaml"
    torch.manual_seed(setup.seed)
    method = enliven(registry.build(setup.model, f"{where}: model").eval())
    if weights is not None:
        method, _ = load_method(weights)
        for key in ("backbone", "method", "scale"):
            found = getattr(method.config, key)
            if found != getattr(setup.model, key):
                raise UserError(
                    f"--weights {weights}: is no {name}: its {key} is {found}; give weights of "
                    "this experiment."
                )
    own = [stage.name for stage in method.stages]
    if list(setup.stages) != own:
        raise UserError(f"{where}: stages: {setup.model.method} has {', '.join(own)}, in order.")
    kept, broken = [], defaultdict(list)
    with torch.no_grad():
        for promise, holds in PROMISES.items():
            try:
                holds(method)
                kept.append(f"{name}: {promise}")
            except FAILURES as error:
                broken[one_line(error).rstrip(".")].append(promise)
        if broken:
            said = (f"NOT {', '.join(names)}: {why}." for why, names in broken.items())
            of_all = f"{len(kept)} of {len(PROMISES)} promises are kept."
            raise UserError(f"{name}: {' '.join(said)} {of_all}")
        tried = len(branches_tried(method))
    hint = "" if tried == method.branches else "; give --weights that use the others"
    return [*kept, f"{name}: {tried} of {method.branches} branches were tried{hint}"]
