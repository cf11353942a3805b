"""A pytest plugin that limits the CPU time and memory of the notebooks that nbval runs.

It limits the CPU time and the memory of each notebook's kernel, and the CPU time of all notebooks
together. They are measured on Linux only, with one thread. Processors differ, and two kernels that
share caches slow each other down, so that one notebook has taken 48 s and 242 s. A fixed piece of
work is therefore timed after each cell, and the limits are in seconds of a reference machine.
Notebooks may neither use the network nor change the repository: guard/sitecustomize.py prevents
both inside the kernel, and new files are searched for at the end. A table shows the measurements.
"""

import os
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple, cast
from unittest.mock import patch

import pytest
import torch
from nbval.plugin import IPyNbCell

# Limits in seconds of the reference machine: one of its cores does 160 GFLOP/s in a product of
# float32 matrices, as a current server processor with AVX-512 does.
SECONDS, SECONDS_OF = 180, {"08": 300}
TOGETHER = 20 * 60
GIGABYTES = 4
SIZE = 512
REFERENCE = 2 * SIZE**3 / 160e9  # seconds for a product of two matrices of this size
GUARD = Path(__file__).with_name("guard")
PROPERTY = "notebook"
NAMED = 10  # new files that the message names
NOT_LOOKED_AT = {"__pycache__", "runs", "build", "dist", "node_modules"}


class Usage(NamedTuple):
    """What a notebook's kernel used.

    Attributes:
        seconds: CPU time on this machine.
        gigabytes: Peak memory.
        slowness: How much longer this machine took, in the same minutes, than the reference.
    """

    seconds: float
    gigabytes: float
    slowness: float = 1.0

    @property
    def work(self) -> float:
        """CPU time on the reference machine, in seconds."""
        return self.seconds / self.slowness


def beat() -> float:
    """Return the CPU time of one thread for the product of two matrices, in seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        matrix = torch.ones(SIZE, SIZE)
        start = time.thread_time()
        torch.mm(matrix, matrix)
        return time.thread_time() - start
    finally:
        torch.set_num_threads(threads)


def measured(process: int, beats: list[float]) -> Usage | None:
    """Measure a process with its finished children; None if the system is not Linux.

    Args:
        process: The number of the process.
        beats: Times of `beat` while the process ran. Their median says how slow the machine was.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text()
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    ticks = sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime
    peak = int(status.split("VmHWM:")[1].split()[0])  # in kB
    slowness = median(beats) / REFERENCE
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), peak * 1024 / 1e9, slowness)


def seconds_allowed(name: str) -> float:
    """Return the limit of a notebook's CPU time, in seconds of the reference machine."""
    return SECONDS_OF.get(name[:2], SECONDS)


def excesses(name: str, usage: Usage) -> Iterator[str]:
    """Yield one sentence for each limit that a notebook exceeds."""
    allowed = seconds_allowed(name)
    if usage.work > allowed:
        yield (
            f"{name} used {usage.seconds:.1f} s of CPU time, which are {usage.work:.1f} s of the "
            f"reference machine; the limit is {allowed:g} s"
        )
    if usage.gigabytes > GIGABYTES:
        yield f"{name} used {usage.gigabytes:.2f} GB of memory; the limit is {GIGABYTES:g} GB"


def files(root: Path) -> set[str]:
    """Return the files of the repository, without hidden ones and outputs of tools."""
    found = set()
    for folder, folders, names in os.walk(root):
        folders[:] = [f for f in folders if f not in NOT_LOOKED_AT and not f.startswith(".")]
        seen = (name for name in names if not name.startswith("."))
        found |= {os.path.relpath(os.path.join(folder, name), root) for name in seen}
    return found


class Watch:
    """The hooks of the plugin and the measurements of one test run."""

    def __init__(self, root: Path) -> None:
        """Start watching the repository at `root`."""
        self.root = root
        self.before = files(root)
        self.beats: list[float] = []
        self.usages: dict[str, Usage | None] = {}
        self.troubles: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        """Set the environment variables of a kernel, which starts before the first cell."""
        if not isinstance(item, IPyNbCell) or item.parent.kernel:
            return (yield)
        self.beats.clear()
        paths = [str(GUARD), *filter(None, [os.environ.get("PYTHONPATH")])]
        variables = {
            "PYTHONPATH": os.pathsep.join(paths),
            "SDLEARN_UNCHANGED": str(self.root),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        with patch.dict(os.environ, variables):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, None, None]:
        """Measure a kernel after its last cell, before it ends."""
        if not isinstance(item, IPyNbCell):
            return (yield)
        self.beats.append(beat())
        if nextitem is not None and nextitem.parent is item.parent:
            return (yield)
        kernel, name = item.parent.kernel, item.path.name
        alive = kernel and kernel.is_alive()
        usage = measured(kernel.km.provisioner.pid, self.beats) if alive else None
        # Properties are sent with the report from a worker of pytest-xdist to the main process.
        item.user_properties.append((PROPERTY, [name, usage and list(usage)]))
        yield
        if usage and any(excesses(name, usage)):
            pytest.fail("\n".join(excesses(name, usage)), pytrace=False)
        return None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the measurements."""
        for key, value in report.user_properties:
            if key == PROPERTY:
                name, usage = cast("tuple[str, list[float] | None]", value)
                self.usages[name] = Usage(*usage) if usage else None

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Check the limits that concern all notebooks, two of which may run at the same time."""
        if not self.usages or hasattr(session.config, "workerinput"):
            return
        spent, new = self.together(), sorted(files(self.root) - self.before)
        if spent > TOGETHER:
            self.troubles.append(
                f"all notebooks used {spent:.1f} s of the reference machine's CPU time; "
                f"the limit is {TOGETHER:g} s"
            )
        if new:
            more = [f"{len(new) - NAMED} more"] if new[NAMED:] else []
            named = ", ".join([*new[:NAMED], *more])
            self.troubles.append(f"new files appeared in the repository: {named}")
        if self.troubles:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def together(self) -> float:
        """Return the CPU time of all notebooks on the reference machine, in seconds."""
        return sum(usage.work for usage in self.usages.values() if usage)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table."""
        if not self.usages:
            return
        say = terminalreporter.write_line
        title = "notebooks: CPU time on the reference machine (here), and memory, with one thread"
        terminalreporter.section(title)
        width = max(map(len, self.usages))
        for name, usage in sorted(self.usages.items()):
            if usage:
                limits = seconds_allowed(name), GIGABYTES
                work = f"{usage.work:8.1f} s of {limits[0]:<5g}({usage.seconds:6.1f} s)"
                say(f"{name:{width}}{work}{usage.gigabytes:7.2f} GB of {limits[1]:g}")
            else:
                say(f"{name:{width}}  not measured: the kernel died, or the system is not Linux")
        say(f"{'together':{width}}{self.together():8.1f} s of {TOGETHER:g}")
        for trouble in self.troubles:
            say(f"FAILED: {trouble}", red=True)


def pytest_configure(config: pytest.Config) -> None:
    """Register the plugin."""
    config.pluginmanager.register(Watch(config.rootpath), "watch")
