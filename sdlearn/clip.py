"""The text encoder of CLIP (Radford et al., arXiv:2103.00020): token ids -> hidden states.

It is a causal transformer: each token attends to itself and to earlier tokens only. Stable
Diffusion conditions the U-Net on the hidden states of all tokens, not on the single vector that
CLIP compares with images. Modules have the names used in the published text_encoder files, without
the prefix `text_model.`
"""

import reprlib
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class CLIPTextConfig:
    """The configuration of a CLIP text encoder; the defaults are OpenAI's ViT-L/14, as in SD 1.

    Attributes:
        vocab_size: Number of token ids.
        hidden_size: Channels of the hidden states.
        num_layers, num_heads: Transformer layers, and attention heads in each.
        intermediate_size: Channels inside the MLPs.
        max_positions: Longest sequence, in tokens.
        activation: "quick_gelu" for OpenAI's weights, "gelu" for OpenCLIP's (SD 2, SDXL).
        projection_dim: Channels of the embedding space that text and images share; None without a
            projection.
        eos_token_id: The end-of-text token; None for the highest id of a sequence, which it is in
            OpenAI's vocabulary unless a word was learnt and added after it.

    Raises:
        ValueError: For an unknown activation, or heads that do not divide hidden_size.
    """

    vocab_size: int = 49408
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 77
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    projection_dim: int | None = None
    eos_token_id: int | None = 49407

    def __post_init__(self) -> None:
        if self.activation not in ("quick_gelu", "gelu"):
            raise ValueError(
                f"CLIPTextConfig: activation = {reprlib.repr(self.activation)} is unknown; "
                'it must be "quick_gelu" or "gelu"'
            )
        for name in ("hidden_size", "num_heads"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(
                    f"CLIPTextConfig: {name} = {reprlib.repr(value)}; it must be a whole number of "
                    "at least 1"
                )
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"CLIPTextConfig: hidden_size = {self.hidden_size} cannot be divided into "
                f"{self.num_heads} heads; it must be a multiple of num_heads"
            )


class CLIPTextOutput(NamedTuple):
    """The outputs of the text encoder.

    Attributes:
        last: Hidden states after the final LayerNorm, (b, n, d), SD 1's context. transformers
            calls them `last_hidden_state`.
        hidden: Hidden states before the first layer and after each layer, without the final
            LayerNorm, each (b, n, d). transformers calls them `hidden_states`.
        pooled: `last` at the first end-of-text token, (b, d), or its projection,
            (b, projection_dim), if the encoder has one.
    """

    last: Tensor
    hidden: tuple[Tensor, ...]
    pooled: Tensor


class Embeddings(nn.Module):
    """Token embedding plus position embedding: (b, n) -> (b, n, d)."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_positions, config.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:
        return self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]


class CausalAttention(nn.Module):
    """Multi-head self-attention with a causal mask and biases: (b, n, d) -> (b, n, d)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (b, n, d) -> (b, heads, n, _)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """The MLP of a layer: (b, n, d) -> (b, n, d).

    quick_gelu, x sigmoid(1.702 x), is OpenAI's approximation of GELU. Weights trained with one of
    the two do not work with the other.
    """

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.quick = config.activation == "quick_gelu"
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        return self.fc2(h * torch.sigmoid(1.702 * h) if self.quick else F.gelu(h))


class Layer(nn.Module):
    """Attention and MLP, pre-norm, with residual connections: (b, n, d) -> (b, n, d)."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size)
        self.self_attn = CausalAttention(config.hidden_size, config.num_heads)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    """The stack of layers; returns the hidden states before the first layer and after each."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        hidden = [x]
        for layer in self.layers:
            hidden.append(layer(hidden[-1]))
        return tuple(hidden)


class CLIPTextEncoder(nn.Module):
    """CLIP's text encoder: token ids (b, n) -> `CLIPTextOutput`, n up to max_positions."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size)
        if config.projection_dim is not None:
            self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        self.initialise()

    def initialise(self) -> None:
        """Initialise the weights for training, as CLIP's published code does.

        Embeddings start small. Projections are scaled so that the sum over all residual branches
        keeps its variance.
        """
        width, depth = self.config.hidden_size, self.config.num_layers
        std_in, std_out = width**-0.5, (2 * width * depth) ** -0.5
        std = {"token_embedding": 0.02, "position_embedding": 0.01, "text_projection": std_in}
        std |= {"q_proj": std_in, "k_proj": std_in, "v_proj": std_in, "out_proj": std_out}
        std |= {"fc1": (2 * width) ** -0.5, "fc2": std_out}
        for name, parameter in self.named_parameters():
            layer, kind = name.split(".")[-2:]
            if kind == "weight" and layer in std:
                nn.init.normal_(parameter, std=std[layer])

    def final_norm(self, hidden: Tensor) -> Tensor:
        """Apply the final LayerNorm to any hidden states; SD 2 applies it to the penultimate."""
        return self.final_layer_norm(hidden)

    def forward(self, ids: Tensor) -> CLIPTextOutput:
        """Encode token ids.

        No token attends to a later one. Padding therefore needs no mask, and a sequence cut after
        its end-of-text token has the same hidden states up to there.

        Args:
            ids: (b, n) integers, each row with at least one end-of-text token.

        Raises:
            ValueError: For more than max_positions tokens.
        """
        if ids.shape[1] > self.config.max_positions:
            raise ValueError(
                f"{ids.shape[1]} tokens: this text encoder takes at most "
                f"{self.config.max_positions}"
            )
        hidden = self.encoder(self.embeddings(ids))
        last = self.final_norm(hidden[-1])
        # The first end-of-text token, because SD 1 and the storybook model also pad with it.
        eos = self.config.eos_token_id
        end = (ids if eos is None else (ids == eos).int()).argmax(dim=1)  # (b,)
        pooled = last[torch.arange(len(ids), device=ids.device), end]
        if self.config.projection_dim is not None:
            pooled = self.text_projection(pooled)
        return CLIPTextOutput(last, hidden, pooled)


def contrastive_loss(image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor) -> Tensor:
    """CLIP's symmetric InfoNCE loss (arXiv:2103.00020, figure 3).

    Each image must pick its own text out of the batch, and each text its own image.

    Args:
        image_embeds: (b, d), of any length.
        text_embeds: (m, d), m >= b, of any length. The first b belong to the images, in order; the
            rest are hard negatives for the images.
        logit_scale: Scalar, the logarithm of 1 / temperature; CLIP starts it at ln(1 / 0.07). Its
            exponential is clamped to at most 100.

    Returns:
        A scalar, in nats.
    """
    images = F.normalize(image_embeds, dim=-1)
    texts = F.normalize(text_embeds, dim=-1)
    logits = images @ texts.T * logit_scale.exp().clamp(max=100.0)  # (b, m)
    labels = torch.arange(len(images), device=images.device)
    square = logits[:, : len(images)]  # (b, b), without the hard negatives
    return 0.5 * (F.cross_entropy(logits, labels) + F.cross_entropy(square.T, labels))
