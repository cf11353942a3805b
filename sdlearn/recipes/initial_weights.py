"""The weights that a training starts from instead of random ones: `--init`."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from sdlearn import weights
from sdlearn.utils.checkpoint import checkpoints, load_networks, networks_of, newest_readable
from sdlearn.weights.weight_names import find_weights

FOLDERS = {"text": "text_encoder"}  # network -> its folder in a model; the others have their name


def load_initial_weights(
    init: str, networks: Mapping[str, nn.Module], run: Path | None = None
) -> None:
    """Load the weights of another run (its EMA if it has one) or of a published part, in place.

    Args:
        init: A run's folder, its export, a model's folder or that of a part; "" to keep the random
            weights.
        networks: The networks by name, the trained one first. The others, such as a discriminator,
            are loaded from a run that has them.
        run: Folder of the run that goes on. Its checkpoint has the weights, so `init` is not read.

    Raises:
        FileNotFoundError: If there is no such folder, or it has no weights.
        ValueError: If the weights are damaged or belong to another network.
    """
    main, network = next(iter(networks.items()))
    place = check_initial_weights(init, main, run)
    if place is None:
        return
    if place.parent.name != "checkpoints":
        weights.load(network, place)
        return
    names = networks_of(place)
    others = {name: net for name, net in networks.items() if name != main and name in names}
    load_networks(place, {"ema" if "ema" in names else main: network} | others)


def check_initial_weights(init: str, main: str, run: Path | None = None) -> Path | None:
    """Check that there is such a folder with weights, and that a run trains the same network.

    Args:
        init: As in `load_initial_weights`.
        main: Name of the trained network.
        run: As in `load_initial_weights`.

    Returns:
        The newest checkpoint of a run that can be read, or the published part's folder or file;
        None if nothing is to be read.

    Raises:
        FileNotFoundError: If there is no such folder, or it has no weights of the network.
        ValueError: If it is a run that trains something else, or has no readable checkpoint.
    """
    if not init or run is not None:
        return None
    folder = Path(init)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise FileNotFoundError(
            f"init is {init}, which {what}; accepted: the folder of a run, of a model or of a "
            "published part"
        )
    if not checkpoints(folder):
        return published_part(folder, main)
    checkpoint = newest_readable(folder)
    names = networks_of(checkpoint)
    if main not in names:
        raise ValueError(
            f"init is {folder}, a run that trains {' and '.join(names)}; accepted: a run that "
            f"trains {main}"
        )
    return checkpoint


def published_part(folder: Path, main: str) -> Path:
    """Find the weights of a network in the folder of a model, of an export or of the part itself.

    Args:
        folder: It exists.
        main: Name of the network.

    Returns:
        A part's folder, or a file that has the network's own name, such as judge.safetensors.

    Raises:
        FileNotFoundError: If the folder has none.
    """
    name = FOLDERS.get(main, main)
    for home in (folder, folder / "export"):
        for place in (home / name, home / f"{main}.safetensors", home):
            try:
                find_weights(place)
            except FileNotFoundError:
                continue
            return place
    raise FileNotFoundError(
        f"init is {folder}, which holds no weights of the {name}; accepted: the folder of a run, "
        "of a model or of a published part"
    )
