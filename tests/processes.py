"""Programs in several processes that train together, started by torchrun as a user starts them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")


def torchrun(count: int, *program: str, seconds: float = 500) -> "subprocess.CompletedProcess[str]":
    """Run a program in so many processes of one thread each.

    Args:
        count: The number of processes.
        program: A file, or "-m" and a module, and its arguments.
        seconds: The time limit.
    """
    command = [*TORCHRUN, "--standalone", f"--nproc_per_node={count}", *program]
    return subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=seconds
    )


def two_machines(
    *program: str, more: tuple[str, ...] = (), seconds: float = 500
) -> list[tuple[int, str]]:
    """Run a program in one process on each of two machines, both of which are this one.

    Args:
        program: See `torchrun`.
        more: Arguments on the second machine only.
        seconds: The time limit.

    Returns:
        The exit code of each torchrun, and what it and its process said on stderr.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    agents = []
    for rank in (0, 1):
        where = ["--nnodes=2", f"--node_rank={rank}", "--nproc_per_node=1"]
        where += ["--master_addr=127.0.0.1", f"--master_port={port}"]
        command = [*TORCHRUN, *where, *program, *(more if rank else ())]
        agents.append(
            subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
        )
    said = [agent.communicate(timeout=seconds)[1] for agent in agents]
    return [(agent.returncode, each) for agent, each in zip(agents, said, strict=True)]


def environment() -> dict[str, str]:
    """The variables of a process with one thread, which finds the tests and no GPU."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}


def sentences(stderr: str) -> list[str]:
    """What sdlearn says in them, between the lines of torchrun."""
    return [line for line in stderr.splitlines() if line.startswith("sdlearn: ")]
