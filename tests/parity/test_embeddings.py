"""Time and size embeddings against diffusers'."""

import pytest
import torch
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding

from sdlearn.embeddings import TimeEmbedding, sinusoidal_embedding, size_embedding

from .oracle import DTYPES, TOLERANCE, normal, published, randomise, relative_error


@pytest.mark.parametrize("dim", [2, 24, 320])
@pytest.mark.parametrize("t", [[0, 1, 999], [0.25, 498.4, 999.0]], ids=["whole", "fractional"])
def test_sinusoids_are_those_of_diffusers(t: list[float], dim: int) -> None:
    times = torch.tensor(t)
    theirs = get_timestep_embedding(times, dim, flip_sin_to_cos=True, downscale_freq_shift=0)
    assert torch.equal(sinusoidal_embedding(times, dim), theirs)


def test_sinusoids_are_cosines_then_sines() -> None:
    embedded = sinusoidal_embedding(torch.tensor([3.0]), 4)[0]
    angles = torch.tensor([3.0, 0.03])  # 3 / 10000^(2i/4)
    assert torch.allclose(embedded, torch.cat([angles.cos(), angles.sin()]), atol=1e-6)


def test_sinusoids_are_float32_from_any_type() -> None:
    whole = sinusoidal_embedding(torch.tensor([999]), 8)
    assert whole.dtype == torch.float32
    assert torch.equal(whole, sinusoidal_embedding(torch.tensor([999.0]).double(), 8))


def test_an_odd_width_is_refused() -> None:
    with pytest.raises(ValueError, match="dim = 7"):
        sinusoidal_embedding(torch.tensor([1]), 7)


@pytest.mark.parametrize(
    "mistake",
    [{"flip_sin_to_cos": False}, {"downscale_freq_shift": 1}],
    ids=["sines first", "half - 1"],
)
def test_another_convention_would_show(mistake: dict[str, int]) -> None:
    convention = {"flip_sin_to_cos": True, "downscale_freq_shift": 0} | mistake
    t = torch.tensor([1, 500, 999])
    assert (
        relative_error(sinusoidal_embedding(t, 32), get_timestep_embedding(t, 32, **convention))
        > 0.1
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_mlp_is_that_of_diffusers(dtype: torch.dtype) -> None:
    theirs = randomise(TimestepEmbedding(6, 20).to(dtype))
    ours = TimeEmbedding(6, 20).to(dtype)
    ours.load_state_dict(published(theirs), strict=True)
    x = normal(3, 6, dtype=dtype)
    assert relative_error(ours(x), theirs(x)) <= TOLERANCE[dtype]


def test_sizes_follow_the_pooled_text_in_order() -> None:
    pooled = normal(2, 5, dtype=torch.float32)
    sizes = torch.tensor([[64, 48, 0, 8, 64, 64], [32, 32, 1, 2, 64, 48]])
    vector = size_embedding(pooled, sizes, 8)
    assert vector.shape == (2, 5 + 6 * 8)
    assert torch.equal(vector[:, :5], pooled)
    for i in range(6):
        part = vector[:, 5 + 8 * i : 5 + 8 * (i + 1)]
        assert torch.equal(part, sinusoidal_embedding(sizes[:, i], 8))
