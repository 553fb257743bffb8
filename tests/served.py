"""Run `pcsr` in processes forked from one that has already done the slow imports.

A workflow is a hundred commands, each of which would import torch anew. Here a server imports it
once and forks for each command; a client, `pcsr` first on the path of the workflow, hands over its
arguments, folder, environment and streams, and ends as the command ends. A process that a test
kills must be one of its own, and is not run this way.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ADDRESS, SCRIPTS = "PCSR_TEST_SERVER", "PCSR_TEST_SCRIPTS"
PRELOADED = (
    "pcsr.cli",
    "pcsr.data.prepare",
    "pcsr.evaluation.sweep",
    "pcsr.evaluation.upscale",
    "pcsr.training.train",
    "pcsr.report.fairness.page",
    "pcsr.report.figures.psnr_flops",
    "pcsr.report.leaderboard.page",
    "pcsr.baselines.arm",
    "pcsr.baselines.classsr",
)
# The client does without site-packages, and so starts in a few milliseconds.
CLIENT = """#!{python} -SE
import array, json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect(os.environ["{address}"])
    facts = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
    server.sendmsg(
        [len(facts).to_bytes(8, "big")],
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))],
    )
    server.sendall(facts)
    code = server.recv(1)
sys.exit(code[0] if code else "the server of the tests is gone")
"""


@contextmanager
def served(folder: Path) -> Iterator[dict[str, str]]:
    """Serve commands; yields what a command that starts ``pcsr`` needs in its environment."""
    scripts = folder / "bin"
    scripts.mkdir()
    client = scripts / "pcsr"
    client.write_text(CLIENT.format(python=sys.executable, address=ADDRESS), encoding="utf-8")
    client.chmod(0o755)
    address = str(folder / "server")
    # Its input ends with this process, however that ends, and it ends with its input.
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, __file__, address], **pipes) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            yield {ADDRESS: address, SCRIPTS: str(scripts)}
        finally:
            server.kill()


def serve(address: str) -> None:
    """Fork for each command until the input ends; returns in the processes that run a command."""
    for module in PRELOADED:
        __import__(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for commands
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        print("ready", flush=True)
        while select.select([listener, sys.stdin], [], [])[0] == [listener]:
            connection, _ = listener.accept()
            with connection:
                start, streams, _, _ = socket.recv_fds(connection, 8, 3)
                if os.fork() == 0:
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    child = os.fork()
                    if child == 0:
                        take_over(connection, int.from_bytes(start, "big"), streams)
                        return
                    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                    connection.sendall(bytes([status if status >= 0 else 128 - status]))
                    os._exit(0)
                for stream in streams:
                    os.close(stream)
    sys.exit()


def take_over(connection: socket.socket, size: int, streams: list[int]) -> None:
    """Take over arguments, folder, environment and streams from the client."""
    facts = b""
    while len(facts) < size:
        facts += connection.recv(size - len(facts))
    sys.argv, folder, environment = json.loads(facts)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]


if __name__ == "__main__":
    from pcsr.cli import main

    serve(sys.argv[1])
    main()
