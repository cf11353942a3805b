"""The weights that a training starts from instead of random ones: `--init`."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from sdlearn import weights
from sdlearn.utils.checkpoint import checkpoints, load_networks


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
    check_initial_weights(init, main)
    folder = Path(init)
    if not checkpoints(folder):
        weights.load(network, folder)
        return
    has_ema = (checkpoints(folder)[-1] / "ema.safetensors").exists()
    load_networks(folder, {"ema" if has_ema else main: network})
    load_networks(folder, {name: net for name, net in networks.items() if name != main})


def check_initial_weights(init: str, main: str) -> None:
    """Check that there is such a folder, and that a run trains the same network.

    Args:
        init: A run's folder or a published part; "" for none.
        main: Name of the trained network.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it is a run that trains something else.
    """
    if not init:
        return
    folder = Path(init)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise FileNotFoundError(
            f"init is {init}, which {what}; accepted: the folder of a run or of a published part"
        )
    if not checkpoints(folder):
        return
    names = {path.stem for path in checkpoints(folder)[-1].glob("*.safetensors")}
    if main not in names:
        raise ValueError(
            f"init is {folder}, a run that trains {' and '.join(sorted(names)) or 'nothing'}; "
            f"accepted: a run that trains {main}"
        )
