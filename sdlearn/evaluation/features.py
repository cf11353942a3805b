"""Feature vectors of images, from the judge or from any other network.

The measures of sets (frechet, kernel_distances, nearest_neighbours) take vectors and don't care
where they come from. The judge's vectors (`Judge.embed`) are for storybook pages only. For
photographs, use a network that was trained on photographs: `installed_inception` uses Inception's
weights if a library such as torchmetrics has already stored them on this machine. Nothing is
downloaded.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from sdlearn.evaluation.image_metrics import as_tensor
from sdlearn.utils.image_files import upright
from sdlearn.utils.validation import check_positive_int
from sdlearn.weights.pickles import unpickled

# Names under which torch-fidelity (which torchmetrics uses) and pytorch-fid store the same weights:
# those of TensorFlow's Inception of 2015, with which published FIDs are computed.
FID_FILES = ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth")
TORCHVISION_FILE = "inception_v3_google-0cc3c7bd.pth"  # trained differently: other numbers
INCEPTION_SIZE = 299  # pixels


class FeatureNetwork(NamedTuple):
    """A network that makes feature vectors.

    Attributes:
        name: What a reader must know to compare numbers.
        size: Side of its input in pixels.
        embed: Images (b, 3, size, size) in [-1, 1] -> (b, d), or (b, d, 1, 1).
    """

    name: str
    size: int
    embed: Callable[[Tensor], Tensor]


@torch.no_grad()
def image_features(
    network: FeatureNetwork, images: Sequence[Image.Image], batch: int = 32
) -> Tensor:
    """Return one feature vector for each image, (n, d), float64 on the CPU.

    The images are resized with Pillow's bicubic filter, which averages over all pixels. Code that
    resizes without this gives other distances (clean-fid, arXiv:2104.11222).

    Args:
        network: For example `installed_inception()`. It should be in eval mode.
        images: Images of any mode and size. Transparent ones are put on white.
        batch: Images at once.

    Raises:
        ValueError: If there are no images, or the network does not return one vector for each.
    """
    check_positive_int("batch", batch)
    if not images:
        raise ValueError("images is empty; accepted: at least one image")
    square = (network.size, network.size)
    rows = []
    for first in range(0, len(images), batch):
        some = [upright("images", image, "RGB") for image in images[first : first + batch]]
        x = as_tensor([image.resize(square, Image.Resampling.BICUBIC) for image in some])
        vectors = network.embed(x)
        if vectors.shape != (len(x), vectors[0].numel()) + (1,) * (vectors.ndim - 2):
            raise ValueError(
                f"{network.name} gave a tensor of the shape {tuple(vectors.shape)} for {len(x)} "
                f"images; accepted: ({len(x)}, d) or ({len(x)}, d, 1, 1)"
            )
        rows.append(vectors.flatten(1).double().cpu())
    return torch.cat(rows)


def installed_inception(folder: Path | None = None) -> FeatureNetwork:
    """Return Inception v3 up to its last pooling, 2048 dimensions, with weights on this machine.

    It is the FID's own network if torch-fidelity is installed and its weights, or pytorch-fid's,
    are in torch's download folder. Otherwise it is torchvision's, whose distances cannot be
    compared with published ones.

    Args:
        folder: The download folder. None takes torch's, by default ~/.cache/torch/hub/checkpoints.

    Raises:
        FileNotFoundError: If neither is on this machine. The message says what is missing.
        ImportError: If the library is installed but cannot be imported.
        ValueError: If the weight file cannot be read.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints" if folder is None else folder
    found = [folder / name for name in FID_FILES if (folder / name).is_file()]
    if found and find_spec("torch_fidelity"):
        return fid_inception(found[0])
    if (folder / TORCHVISION_FILE).is_file() and find_spec("torchvision"):
        return torchvision_inception(folder / TORCHVISION_FILE)
    if found:
        raise FileNotFoundError(
            f"Inception's weights are in {found[0]}, but its code is not installed; accepted: "
            "these with torch-fidelity, which `pip install torchmetrics[image]` installs"
        )
    package = "is" if find_spec("torch_fidelity") else "is not"
    raise FileNotFoundError(
        f"Inception's weights are not in {folder}, and torch-fidelity {package} installed; "
        f"accepted: {' or '.join(FID_FILES)} there with torch-fidelity (`pip install "
        f"torchmetrics[image]`, whose FrechetInceptionDistance() downloads the first), or "
        f"{TORCHVISION_FILE} with torchvision"
    )


def fid_inception(path: Path) -> FeatureNetwork:
    """Return the FID's Inception, as torch-fidelity defines it, with the weights in a file."""
    module = import_library("torch_fidelity.feature_extractor_inceptionv3")
    unpickled(path, "cpu")  # refuses anything but tensors; the library would run it
    network = module.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
    )

    def embed(x: Tensor) -> Tensor:
        pixels = ((x + 1) * 127.5).round().to(torch.uint8)  # it takes bytes
        features: Tensor = network(pixels)[0]
        return features

    return FeatureNetwork("Inception (2015), as in published FIDs", INCEPTION_SIZE, embed)


def torchvision_inception(path: Path) -> FeatureNetwork:
    """Return torchvision's Inception v3 without its classifier, with the weights in a file."""
    module = import_library("torchvision.models")
    # Its input is [-1, 1] unless transform_input says that ImageNet's mean was subtracted.
    network = module.inception_v3(weights=None, init_weights=False, transform_input=False)
    network.load_state_dict(unpickled(path, "cpu"))
    network.fc = torch.nn.Identity()
    return FeatureNetwork(
        "torchvision's Inception v3, not comparable with published FIDs",
        INCEPTION_SIZE,
        network.eval().requires_grad_(False),
    )


def import_library(name: str) -> Any:
    """Import a module of torch-fidelity or torchvision.

    Raises:
        ImportError: If the import fails. A torchvision that was built for another torch raises
            RuntimeError; that counts too.
    """
    try:
        return import_module(name)
    except (ImportError, RuntimeError, OSError) as error:
        raise ImportError(
            f"{name} is installed but cannot be imported ({str(error).splitlines()[0]}); accepted: "
            f"torchmetrics[image] with the torchvision built for torch {torch.__version__}"
        ) from error


def check_feature_sets(a: Tensor, b: Tensor, fewest: int = 2) -> None:
    """Raise ValueError unless a and b are finite (n, d) and (m, d), with at least `fewest` rows."""
    for name, x in (("the first set", a), ("the second set", b)):
        if x.ndim != 2 or len(x) < fewest or not x.shape[1] or not x.is_floating_point():
            raise ValueError(
                f"{name} of features is a {x.dtype} tensor of the shape {tuple(x.shape)}; "
                f"accepted: floating-point, (n, d) with n >= {fewest}"
            )
        if not x.isfinite().all():
            raise ValueError(
                f"{name} of features has infinite values or NaN; accepted: finite values"
            )
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"the sets of features have {a.shape[1]} and {b.shape[1]} dimensions; accepted: two "
            "sets from the same network"
        )
