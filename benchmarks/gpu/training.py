"""Time training on a GPU: a reference loop, and the suite's in all precisions, compiled or not.

Every stage is written as soon as it is measured. Run again, the script resumes; it starts no stage
after its time is over. A page with the projected time of each recipe is written beside the JSON.

Example: python benchmarks/gpu/training.py --data data/prepared/photos2k-train --out
reports/gpu/training.json
"""

import argparse
import os
from pathlib import Path

from pcsr.benchmarks.training import training_speed

# Most important first: the one that has a target, then one method after the other.
ORDER = [
    f"{backbone}-{method}"
    for method in ("pcsr", "original", "classsr", "arm")
    for backbone in ("carn", "fsrcnn", "srresnet")
]


def main() -> None:
    """Measure what is missing, as long as there is time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="packed store to train on")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write and go on with")
    parser.add_argument("--suite", type=Path, default=Path("configs/suites/paper.yaml"))
    parser.add_argument("--experiments", nargs="+", default=ORDER)
    parser.add_argument(
        "--ways", nargs="+", default=list(training_speed.WAYS), choices=training_speed.WAYS
    )
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument("--turn", type=float, default=2, help="seconds of a loop's turn")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--seconds", type=float, default=400, help="after which no stage is begun")
    arguments = parser.parse_args()
    plan = training_speed.Plan(arguments.ways, arguments.turn, 3, arguments.workers)
    left = training_speed.measure(
        arguments.experiments,
        arguments.suite,
        arguments.data,
        plan,
        arguments.out,
        arguments.device,
        os.cpu_count() or 1,
        arguments.seconds,
    )
    if left:
        print(f"{left} stages are left: run it again.")


if __name__ == "__main__":
    main()
