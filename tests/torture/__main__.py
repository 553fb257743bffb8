"""Tries each kind and prints a table in Markdown; exits with 1 if there are findings."""

import argparse
import importlib
import platform
import sys
import time
from pathlib import Path

import psutil

from pcsr.storage import files, provenance
from torture.harness import Kind, Tally, torture

KINDS = (
    *("images", "pickles", "weights", "flips", "downloads", "archives", "texts", "names"),
    *("results", "kills", "disks"),
)
HEAD = (
    *("Kind", "Tried", "Refused in one line", "Handled", "Slowest (s)", "Largest (MiB)"),
    "Findings",
)


def kind_of(name: str) -> Kind:
    return importlib.import_module(f"torture.{name}").KIND


def row(name: str, tally: Tally) -> str:
    tried = tally.refused + tally.handled + len(tally.findings)
    counts = (tried, tally.refused, tally.handled)
    cells = (name, *(f"{count:,}" for count in counts), f"{tally.seconds:.1f}")
    cells += (f"{tally.memory / 2**20:.0f}", str(len(tally.findings)))
    return f"| {' | '.join(cells)} |"


def machine() -> str:
    memory = psutil.virtual_memory().total / 2**30
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text().splitlines()
        model = next((x.partition(": ")[2] for x in lines if x.startswith("model name")), model)
    return f"{psutil.cpu_count()} cores ({model}), {memory:.0f} GiB, {platform.system()}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="torture", description=__doc__)
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--count", type=int, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    given = parser.parse_args()
    commit, modified = provenance.checkout(files.ROOT)
    state = " with changes" if modified else ""
    print(f"Seed {given.seed}, commit {commit and commit[:12]}{state}, {machine()}.\n")
    print(f"| {' | '.join(HEAD)} |\n| :-- |{' --: |' * (len(HEAD) - 1)}", flush=True)
    findings, began = [], time.monotonic()
    for name in given.kind:
        kind = kind_of(name)
        tally = torture(kind, name, given.seed, given.first, given.count or kind.count)
        print(row(name, tally), flush=True)
        again = f'make torture ARGS="--kind {name} --seed {given.seed} --count 1 --first'
        findings += [f'{again} {n}"  # {what}' for n, what in tally.findings.items()]
    print(f"\n{(time.monotonic() - began) / 60:.0f} minutes.")
    if findings:
        sys.exit("\n".join(findings))


if __name__ == "__main__":
    main()
