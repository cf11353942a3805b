"""What every comparison with another implementation needs: random weights, copied; inputs; the
error."""

import torch
from torch import Tensor, nn

from sdlearn.unet import UNetEncoder

TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-5}
DTYPES = list(TOLERANCE)

# A deliberate mistake must show this clearly in float64, or the comparison could miss it.
VISIBLE = 1e5 * TOLERANCE[torch.float64]


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """||a - b|| / ||b|| over all entries; shapes and types must agree."""
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    return float((ours.detach() - theirs.detach()).norm() / theirs.detach().norm())


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Drawn in float64 whatever the type, so that both types see the same numbers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter, norms and biases included, a random value of sensible size: a fresh
    module's ones and zeros would hide a norm or a bias that is never applied."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.ndim > 1:
                noise *= parameter[0].numel() ** -0.5
            else:
                noise = 0.3 * noise + (parameter == 1)
            parameter.copy_(noise)
    return module.eval()


def published(module: nn.Module) -> dict[str, Tensor]:
    """Another library's weights under our names: no text prefix, transformer projections flat."""
    state = {}
    for key, value in module.state_dict().items():
        if key.endswith(("proj_in.weight", "proj_out.weight")) and value.ndim == 4:
            value = value[:, :, 0, 0]
        state[key.removeprefix("text_model.")] = value
    return state


class Pair:
    """Another library's network and ours with its weights, which are random, and inputs of awkward
    sizes for both: what every U-Net and every ControlNet is given."""

    def __init__(
        self,
        ours: UNetEncoder,
        theirs: nn.Module,
        dtype: torch.dtype = torch.float64,
        size: tuple[int, int] = (8, 12),
        seed: int = 0,
    ) -> None:
        self.theirs = randomise(theirs.to(dtype), seed)
        self.ours = ours.to(dtype)
        self.ours.load_state_dict(published(self.theirs), strict=True)
        config = ours.config
        self.z = normal(2, config.in_channels, *size, dtype=dtype)
        self.t = torch.tensor([999, 3])
        self.context = normal(2, 77, config.cross_attention_dim, seed=1, dtype=dtype)
        self.added: tuple[Tensor, Tensor] | None = None
        self.their_added: dict[str, Tensor] = {}
        if config.added_dim is not None:
            pooled = normal(2, 7, seed=2, dtype=dtype)
            sizes = torch.tensor([[1024, 768, 0, 64, 1024, 1024], [512, 640, 8, 0, 768, 1024]])
            self.added = (pooled, sizes)
            self.their_added = {"text_embeds": pooled, "time_ids": sizes}


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
