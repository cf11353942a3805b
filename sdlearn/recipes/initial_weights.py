"""The weights that a training starts from instead of random ones: `--init`."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from sdlearn import weights
from sdlearn.utils.checkpoint import checkpoints, load_networks, networks_of, newest_readable


def load_initial_weights(init: str, networks: Mapping[str, nn.Module]) -> None:
    """Load the weights of another run (its EMA if it has one) or of a published part, in place.

    Args:
        init: A run's folder or a published part; "" to keep the random weights.
        networks: The networks by name, the trained one first. The others, such as a discriminator,
            are loaded from a run that has them.

    Raises:
        FileNotFoundError: If there is no such folder, or it has no weights.
        ValueError: If the weights are damaged or belong to another network.
    """
    if not init:
        return
    main, network = next(iter(networks.items()))
    checkpoint = check_initial_weights(init, main)
    if checkpoint is None:
        weights.load(network, Path(init))
        return
    names = networks_of(checkpoint)
    others = {name: net for name, net in networks.items() if name != main and name in names}
    load_networks(checkpoint, {"ema" if "ema" in names else main: network} | others)


def check_initial_weights(init: str, main: str) -> Path | None:
    """Check that there is such a folder, and that a run trains the same network.

    Args:
        init: A run's folder or a published part; "" for none.
        main: Name of the trained network.

    Returns:
        The newest checkpoint of the run that can be read; None for a published part.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it is a run that trains something else, or has no readable checkpoint.
    """
    if not init:
        return None
    folder = Path(init)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise FileNotFoundError(
            f"init is {init}, which {what}; accepted: the folder of a run or of a published part"
        )
    if not checkpoints(folder):
        return None
    checkpoint = newest_readable(folder)
    names = networks_of(checkpoint)
    if main not in names:
        raise ValueError(
            f"init is {folder}, a run that trains {' and '.join(names)}; accepted: a run that "
            f"trains {main}"
        )
    return checkpoint
