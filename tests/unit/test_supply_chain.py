"""What is installed and run by others is named to the byte."""

import re

import yaml
from workspace import ROOT

TORCH = re.compile(r"(torch|triton|nvidia|cuda)[a-z0-9-]*==")  # a build of the user's choice


def test_the_lock_has_the_versions_of_the_constraints_and_hashes() -> None:
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line for line in constraints if "==" in line and not line.startswith("#")}
    text = (ROOT / "requirements.lock").read_text()
    locked = re.sub(r" \\\n +--hash=sha256:[0-9a-f]{64}", "", text).splitlines()
    assert not set(locked) & pinned & {line for line in pinned if TORCH.match(line)}
    names = {re.split(r"[ ;]", line)[0] for line in locked if not line.startswith("#")}
    expected = {re.split(r"[ ;]", line)[0] for line in pinned if not TORCH.match(line)}
    assert names == expected, "run `make lock`"
    assert len(re.findall(r"==\S+.* \\\n +--hash", text)) == len(expected)
    assert "://" not in text


def test_actions_are_pinned_by_commit_and_kept_up_to_date() -> None:
    for workflow in (ROOT / ".github/workflows").glob("*.yml"):
        used = re.findall(r"uses: *(.*)", workflow.read_text())
        assert used
        for action in used:
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action
    bot = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())
    kinds = {entry["package-ecosystem"] for entry in bot["updates"]}
    assert kinds == {"github-actions", "pip"}
