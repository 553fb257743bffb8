"""Run ``snakemake --lint`` and fail on every finding but those accepted here, with the reason."""

import subprocess
import sys

ACCEPTED = {
    "Specify a conda environment or container for each rule.:": (
        "all rules run in the one environment that `make setup` or environment.yml installs"
    ),
}
FINDING = "    * "


def main() -> int:
    """Print the findings that are not accepted; the exit status is 1 if there are any."""
    command = ["snakemake", "--lint", *sys.argv[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    findings = [line.removeprefix(FINDING) for line in output.splitlines() if FINDING in line]
    if (done.returncode and not findings) or set(findings) - set(ACCEPTED):
        print(output)
        return 1
    print(f"workflow lint: {len(findings)} accepted findings, no other")
    return 0


if __name__ == "__main__":
    sys.exit(main())
