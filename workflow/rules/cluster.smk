# Check before the first job that the cluster can tell how a job ended: the SLURM executor would
# otherwise wait forever.
import subprocess


def answer_of(*command):
    """Return what a SLURM command prints; None if it fails or does not exist."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def require_job_states(settings):
    """Refuse a cluster that cannot answer how jobs ended to the command that the executor uses.

    `sacct` asks a database of jobs. `squeue` asks the controller, which forgets; if it does so
    within three of the executor's intervals, the executor uses `sacct` all the same.
    """
    if answer_of("sacct", "--noheader", "--allocations") is not None:
        return
    configuration = answer_of("scontrol", "show", "config")
    if configuration is None:
        raise UserError(
            "SLURM does not answer here (`scontrol show config`); start the workflow where jobs "
            "can be submitted."
        )
    (remembered,) = map(int, re.findall(r"^MinJobAge *= *(\d+)", configuration, re.M))
    if remembered < 3 * settings.init_seconds_before_status_checks:
        raise UserError(
            "this cluster has no database of jobs (`sacct`), and its controller forgets a job "
            f"{remembered} s after its end; ask for a longer MinJobAge, such as 300."
        )
    if settings.status_command != "squeue":
        raise UserError(
            "this cluster has no database of jobs (`sacct`); write `slurm-status-command: squeue` "
            "into profiles/slurm/config.yaml, so that its controller is asked how they ended."
        )
