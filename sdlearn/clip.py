"""The text encoder of CLIP (Radford et al., arXiv:2103.00020): token ids -> a state per token.

A transformer that looks only backwards. Stable Diffusion hands the states of all tokens to the
U-Net, not the single vector that CLIP compares with pictures. Modules carry the names of the
published text_encoder files, without their `text_model.` prefix.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class CLIPTextConfig:
    """OpenAI's ViT-L/14 text encoder, as in SD 1. OpenCLIP's (SD 2, SDXL) use "gelu"."""

    vocab_size: int = 49408
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 77
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    projection_dim: int | None = None  # width of the space shared with pictures, if there is one
    eos_token_id: int = 49407

    def __post_init__(self) -> None:
        if self.activation not in ("quick_gelu", "gelu"):
            raise ValueError(
                f"CLIPTextConfig: activation = {self.activation!r} is unknown; "
                'give "quick_gelu" or "gelu"'
            )
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"CLIPTextConfig: hidden_size = {self.hidden_size} cannot be divided into "
                f"{self.num_heads} heads; give a multiple"
            )


class TextStates(NamedTuple):
    """Everything a diffusion model may want of a text."""

    last: Tensor  # (b, n, d) after the final LayerNorm: SD 1's context
    hidden: tuple[
        Tensor, ...
    ]  # the embedding, then each layer's output, no LayerNorm; each (b, n, d)
    pooled: Tensor  # (b, d) `last` at the first end-of-text token; projected where there is one


class Embeddings(nn.Module):
    """What a token is, plus where it stands: (b, n) -> (b, n, d)."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_positions, config.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:
        return self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]


class CausalAttention(nn.Module):
    """Multi-head self-attention in which no token sees a later one; all projections have biases."""

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
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(seen.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """quick_gelu, x sigmoid(1.702 x), is OpenAI's approximation; its weights only fit itself."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.quick = config.activation == "quick_gelu"
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        return self.fc2(h * torch.sigmoid(1.702 * h) if self.quick else F.gelu(h))


class Layer(nn.Module):
    """Attention and MLP, each normalised first and added: (b, n, d) -> (b, n, d)."""

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
    """The stack of layers, keeping the state before the first and after each."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        hidden = [x]
        for layer in self.layers:
            hidden.append(layer(hidden[-1]))
        return tuple(hidden)


class CLIPTextEncoder(nn.Module):
    """ids (b, n) -> TextStates; n up to max_positions."""

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
        """Starting values for training, from CLIP's published code: small embeddings, and
        projections scaled so that the sum over all residual branches keeps its variance."""
        width, depth = self.config.hidden_size, self.config.num_layers
        into, back = width**-0.5, (2 * width * depth) ** -0.5
        std = {"token_embedding": 0.02, "position_embedding": 0.01, "text_projection": into}
        std |= {"q_proj": into, "k_proj": into, "v_proj": into, "out_proj": back}
        std |= {"fc1": (2 * width) ** -0.5, "fc2": back}
        for name, parameter in self.named_parameters():
            owner, kind = name.split(".")[-2:]
            if kind == "weight" and owner in std:
                nn.init.normal_(parameter, std=std[owner])

    def final_norm(self, hidden: Tensor) -> Tensor:
        """The last LayerNorm on any layer's state: SD 2 applies it to the penultimate one."""
        return self.final_layer_norm(hidden)

    def forward(self, ids: Tensor) -> TextStates:
        """ids: (b, n) integers, each row with at least one end-of-text token.

        Padding needs no mask, and a text cut after its end-of-text token has the same states up
        to there: no token sees a later one. Raises ValueError for more than max_positions tokens.
        """
        if ids.shape[1] > self.config.max_positions:
            raise ValueError(
                f"{ids.shape[1]} tokens: this text encoder takes at most "
                f"{self.config.max_positions}"
            )
        hidden = self.encoder(self.embeddings(ids))
        last = self.final_norm(hidden[-1])
        # The first one: SD 1 and the storybook also pad with it.
        end = (ids == self.config.eos_token_id).int().argmax(dim=1)  # (b,)
        pooled = last[torch.arange(len(ids), device=ids.device), end]
        if self.config.projection_dim is not None:
            pooled = self.text_projection(pooled)
        return TextStates(last, hidden, pooled)


def contrastive_loss(image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor) -> Tensor:
    """CLIP's symmetric loss: each picture should find its text in the batch, and each text its
    picture (arXiv:2103.00020, figure 3). Scalar, in nats.

    image_embeds: (b, d). text_embeds: (m, d), m >= b; the first b belong to the pictures in order,
    the rest are wrong texts that only make the pictures' choice harder. Neither needs unit length.
    logit_scale: scalar, the logarithm of 1 / temperature (CLIP starts it at ln(1 / 0.07)); its
    exponential is held at 100 at most.
    """
    images = F.normalize(image_embeds, dim=-1)
    texts = F.normalize(text_embeds, dim=-1)
    logits = images @ texts.T * logit_scale.exp().clamp(max=100.0)  # (b, m)
    pairs = torch.arange(len(images), device=images.device)
    own = logits[:, : len(images)]
    return 0.5 * (F.cross_entropy(logits, pairs) + F.cross_entropy(own.T, pairs))
