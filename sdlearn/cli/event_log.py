"""The metrics of a training for TensorBoard, beside metrics.jsonl."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

LOGS = ("tensorboard",)
FOLDER = "tensorboard"  # in the folder of the run


def check_log(log: str | None) -> None:
    """Check that there is such a log, and that its package is installed.

    Raises:
        ValueError: If not.
    """
    if log is None:
        return
    if log not in LOGS:
        raise ValueError(f"--log is {log[:40]!r}; accepted: {', '.join(LOGS)}")
    if find_spec("tensorboard") is None:
        raise ValueError(
            "--log is tensorboard, which is not installed; install it with `pip install "
            "sdlearn[tensorboard]`, or leave the option out: metrics.jsonl has the same numbers"
        )


@contextmanager
def event_log(log: str | None, folder: Path) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """A context in which metrics are written for TensorBoard.

    A resumed run writes another file. TensorBoard then drops the steps of an earlier one that come
    after the checkpoint.

    Args:
        log: "tensorboard", or None for no such log.
        folder: The run's folder.

    Yields:
        A function that takes the metrics of a step, as `sdlearn.training.train` yields them.
    """
    if log is None:
        yield lambda metrics: None
        return
    from torch.utils.tensorboard import SummaryWriter

    writer: SummaryWriter | None = None

    def write(metrics: Mapping[str, float]) -> None:
        nonlocal writer
        step = int(metrics["step"])
        if writer is None:  # its first step is the one to go on from
            writer = SummaryWriter(str(folder / FOLDER), purge_step=step)
        for name, value in metrics.items():
            if name != "step":
                writer.add_scalar(name, value, step)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()
