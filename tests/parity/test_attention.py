"""Attention, its MLP and the transformer over a feature map against diffusers' classes."""

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.attention_processor import Attention as TheirAttention
from diffusers.models.transformers.transformer_2d import Transformer2DModel

from sdlearn import attention
from sdlearn.attention import Attention, GatedFeedForward, SpatialTransformer, TransformerBlock

from .oracle import DTYPES, TOLERANCE, VISIBLE, normal, published, randomise, relative_error


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("context_dim", [None, 10], ids=["self", "cross"])
def test_attention(context_dim: int | None, dtype: torch.dtype) -> None:
    theirs = randomise(TheirAttention(24, context_dim, heads=3, dim_head=8).to(dtype))
    ours = Attention(24, 3, context_dim).to(dtype)
    ours.load_state_dict(published(theirs), strict=True)
    x = normal(2, 15, 24, dtype=dtype)
    context = None if context_dim is None else normal(2, 77, context_dim, seed=1, dtype=dtype)
    assert relative_error(ours(x, context), theirs(x, context)) <= TOLERANCE[dtype]


def test_attention_is_a_softmax_of_scaled_products() -> None:
    ours = randomise(Attention(12, 2).double())
    x = normal(1, 5, 12)
    q, k, v = (to(x[0]).reshape(5, 2, 6) for to in (ours.to_q, ours.to_k, ours.to_v))
    scores = torch.einsum("ihd,jhd->hij", q, k) / 6**0.5
    seen = torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).reshape(1, 5, 12)
    assert relative_error(ours(x), ours.to_out[0](seen)) <= 1e-12


def test_upcast_computes_the_products_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    right = F.scaled_dot_product_attention

    def watched(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        used.append(q.dtype)
        return right(q, k, v)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    x = normal(1, 4, 8, dtype=torch.float16)
    for upcast in (False, True):
        out = Attention(8, 2, upcast=upcast).half()(x)
        assert out.dtype == torch.float16
    assert Attention(8, 2, upcast=True).double()(x.double()).dtype == torch.float64
    assert used == [torch.float16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gated_feed_forward(dtype: torch.dtype) -> None:
    theirs = randomise(FeedForward(12, activation_fn="geglu").to(dtype))
    ours = GatedFeedForward(12).to(dtype)
    ours.load_state_dict(published(theirs), strict=True)
    x = normal(2, 7, 12, dtype=dtype)
    assert relative_error(ours(x), theirs(x)) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_transformer_block(dtype: torch.dtype) -> None:
    theirs = randomise(
        BasicTransformerBlock(
            24, 3, 8, cross_attention_dim=10, activation_fn="geglu", attention_bias=False
        ).to(dtype)
    )
    ours = TransformerBlock(24, 3, 10).to(dtype)
    ours.load_state_dict(published(theirs), strict=True)
    x, context = normal(2, 15, 24, dtype=dtype), normal(2, 77, 10, seed=1, dtype=dtype)
    wanted = theirs(x, encoder_hidden_states=context)
    assert relative_error(ours(x, context), wanted) <= TOLERANCE[dtype]


def spatial_error(
    linear: bool = True,
    dtype: torch.dtype = torch.float64,
    heads: int = 3,
    norm_eps: float | None = None,
) -> float:
    theirs = randomise(
        Transformer2DModel(
            3, 8, 24, num_layers=2, norm_num_groups=4, cross_attention_dim=10,
            activation_fn="geglu", use_linear_projection=linear,
        ).to(dtype)
    )  # fmt: skip
    ours = SpatialTransformer(24, heads, 10, depth=2, groups=4).to(dtype)
    ours.load_state_dict(published(theirs), strict=True)
    if norm_eps is not None:
        ours.norm.eps = norm_eps
    x, context = normal(2, 24, 3, 5, dtype=dtype), normal(2, 77, 10, seed=1, dtype=dtype)
    (wanted,) = theirs(x, encoder_hidden_states=context, return_dict=False)
    return relative_error(ours(x, context), wanted)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("linear", [False, True], ids=["1x1 convolutions", "linear"])
def test_spatial_transformer(linear: bool, dtype: torch.dtype) -> None:
    assert spatial_error(linear, dtype) <= TOLERANCE[dtype]


# --- mistakes that are easily made: each must be far outside the tolerance


def test_head_width_for_number_of_heads_would_show() -> None:
    assert spatial_error(heads=8) > 1e-2


def test_the_gate_on_the_wrong_half_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    def gate_first(self: attention.GEGLU, x: torch.Tensor) -> torch.Tensor:
        gate, value = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)

    monkeypatch.setattr(attention.GEGLU, "forward", gate_first)
    assert spatial_error() > 1e-2


def test_the_tanh_gelu_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    def approximate(self: attention.GEGLU, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate, approximate="tanh")

    monkeypatch.setattr(attention.GEGLU, "forward", approximate)
    assert spatial_error() > VISIBLE


def test_the_norm_epsilon_of_the_resblocks_would_show() -> None:
    assert spatial_error(norm_eps=1e-5) > VISIBLE
