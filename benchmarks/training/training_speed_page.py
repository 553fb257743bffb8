"""Page of the training-speed benchmark, with projected times of a suite's recipes."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from pcsr import escape
from pcsr.report.tables import markdown as table_markdown
from pcsr.report.tables import rounded

DECIMALS = {
    "Steps/s": 2,
    "Speedup over the reference loop": 2,
    "Busy (%)": 0,
    "Step memory (MiB)": 0,
    "Reference (hours)": 1,
    "Suite (hours)": 1,
    "Fastest (hours)": 1,
}
EXACT = "suite"  # the way that is reproducible


def table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Tabulate rows of ``training_speed.measure``, with ratios to the stage's reference loop."""
    frame = pd.DataFrame(rows)
    stage = ["experiment", "stage"]
    reference = frame[frame["way"] == "reference"].set_index(stage)["steps_per_second"]
    base = frame.set_index(stage).index.map(reference)
    return pd.DataFrame(
        {
            "Model": frame["experiment"],
            "Stage": frame["stage"],
            "Batch": frame["batch"],
            "Loop": frame["way"],
            "Steps/s": frame["steps_per_second"],
            "Speedup over the reference loop": frame["steps_per_second"] / base,
            "Busy (%)": 100 * frame["busy"],
            "Step memory (MiB)": frame["peak_bytes"] / 2**20,
        }
    )


def projected(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return the projected hours of all stages of each model, by loop."""
    frame = pd.DataFrame(rows)
    frame["hours"] = frame["iterations"] / frame["steps_per_second"] / 3600
    fastest = frame.groupby(["experiment", "stage"], sort=False)["hours"].min()
    of_way = {
        title: frame[frame["way"] == way].groupby("experiment", sort=False)["hours"].sum()
        for way, title in (("reference", "Reference (hours)"), (EXACT, "Suite (hours)"))
    }
    sums = {**of_way, "Fastest (hours)": fastest.groupby("experiment", sort=False).sum()}
    return pd.DataFrame(sums).rename_axis("Model").reset_index()


def markdown(measured: dict[str, Any]) -> str:
    """Return the page as Markdown."""
    facts = measured["provenance"]
    commits = dict.fromkeys(row["commit"] for row in measured["rows"])
    plan = facts["plan"]
    times = projected(measured["rows"])
    return "\n".join(
        [
            "# Training speed\n",
            escape.markdown(
                f"{facts['device']}, {facts['threads']} threads, {facts['machine']}, torch "
                f"{facts['versions']['torch']}; commit {', '.join(commits)}; suite "
                f"{facts['suite']}, images {facts['data']}."
            )
            + "\n",
            "Both loops trained on the same batches, taking turns in one run: "
            f"{plan['rounds']} rounds of at least {plan['seconds']:g} s each; the median is given. "
            f"*Reference loop*: {plan['workers']} worker processes read, flip and downscale crops "
            "one by one; the network runs as it is defined; the loss is read after every step. "
            "Batches that its workers made during another loop's turn are used up before its own. "
            "*Suite*: `pcsr train`. *Busy* is the share of all cores' time spent computing, "
            "workers included; on a GPU, the share of the time in which a kernel runs. *Step "
            "memory* is what a step needs on top of weights, optimiser state and images.\n",
            table_markdown(rounded(table(measured["rows"]), DECIMALS), DECIMALS),
            "## The full recipes\n",
            "All iterations of the suite at these speeds, one stage after another; *fastest* uses "
            "the fastest loop of each stage.\n",
            table_markdown(rounded(times, DECIMALS), DECIMALS),
        ]
    )
