"""CLIP score: how well images fit their captions, by the angle between two embeddings.

It needs two encoders that were trained together, one for texts and one for images. The storybook's
text encoder was trained in such a pair, but only this half is kept, because a diffusion model needs
no more (recipes/clip.py). `train_storybook_clip` therefore trains a new image encoder for it: a
small probe on the judge's feature maps, with the contrastive loss, while the text encoder and the
judge stay frozen. You can use any other pair of encoders: `clip_scores` takes their embeddings.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from sdlearn.clip import CLIPTextEncoder, contrastive_loss
from sdlearn.evaluation.judge import Judge
from sdlearn.recipes.data import scene
from sdlearn.recipes.hard_negatives import hard_negative, hard_negative_captions
from sdlearn.storybook import render
from sdlearn.text import TextEncoder, context_length, token_ids
from sdlearn.training import learning_rate, update
from sdlearn.utils.device import seeded

PERCENT = 100.0  # 100 max(cos, 0), as torchmetrics prints it
HESSEL = 2.5  # 2.5 max(cos, 0), as its authors define it (Hessel et al., arXiv:2104.08718)
PAGES = 2000  # pages that the probe is trained on, each with a hard negative
STEPS, BATCH, LR = 500, 128, 2e-3


def clip_scores(images: Tensor, texts: Tensor, weight: float = PERCENT) -> Tensor:
    """Compute the CLIP score of each image with its caption.

    Each negative cosine counts as 0. torchmetrics does this only with the mean over all images, so
    its value is lower if some cosines are negative.

    Args:
        images: Embeddings of any length, (n, d).
        texts: Embeddings of their captions, (n, d).
        weight: PERCENT or HESSEL: the same score in two conventions, a factor of 40 apart.

    Returns:
        weight · max(cos, 0), (n,) float64. The score of a set of images is the mean.

    Raises:
        ValueError: If the shapes differ or do not have two dimensions.
    """
    if images.shape != texts.shape or images.ndim != 2:
        raise ValueError(
            f"the embeddings have the shapes {tuple(images.shape)} and {tuple(texts.shape)}; "
            "accepted: two of the same shape (n, d)"
        )
    cosines = F.cosine_similarity(images.double(), texts.double(), dim=1)
    return weight * cosines.clamp(min=0)


class ClipProbe(nn.Module):
    """Embed the judge's feature maps and the text encoder's pooled states in a shared space.

    One learned query attends to the cells of a map in two layers, as in `text_probe.TextProbe`.
    """

    def __init__(self, channels: int, cells: int, dim: int) -> None:
        """Build the probe.

        Args:
            channels: Channels of the judge's map, a multiple of 4.
            cells: Cells of the map, height times width.
            dim: Width of the text encoder and of the shared space.
        """
        super().__init__()
        layer = nn.TransformerDecoderLayer(
            channels, 4, 2 * channels, dropout=0.0, batch_first=True, norm_first=True
        )
        self.query = nn.Parameter(torch.randn(1, 1, channels) / 2)
        self.positions = nn.Parameter(torch.randn(1, cells, channels) / 2)
        self.layers = nn.TransformerDecoder(layer, 2)
        self.image_projection = nn.Linear(channels, dim, bias=False)
        self.text_projection = nn.Linear(dim, dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def forward(self, maps: Tensor) -> Tensor:
        """Return image embeddings, (b, c, h, w) -> (b, dim), not normalised."""
        cells = maps.flatten(2).transpose(1, 2) + self.positions  # (b, h w, c)
        h = self.layers(self.query.expand(len(maps), -1, -1), cells)
        return self.image_projection(h[:, 0])


class StorybookClip(NamedTuple):
    """Encoders of storybook pages and of their captions, into a shared space.

    Attributes:
        judge: Gives the feature maps of images.
        text: Encodes captions.
        probe: Projects both into the shared space.
    """

    judge: Judge
    text: TextEncoder
    probe: ClipProbe

    @torch.no_grad()
    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Return embeddings of images of any size, (n, d)."""
        maps = judge_maps(self.judge, images)
        return torch.cat([self.probe(batch) for batch in maps.split(BATCH)])

    @torch.no_grad()
    def embed_texts(self, captions: Sequence[str]) -> Tensor:
        """Return embeddings of captions, (n, d)."""
        return self.probe.text_projection(pooled_states(self.text, captions))


def train_storybook_clip(
    judge: Judge, text: TextEncoder, pages: int = PAGES, steps: int = STEPS
) -> StorybookClip:
    """Train a probe on training pages, each with a hard negative.

    The judge and the text encoder do not change. The result is always the same. With the defaults
    it takes about a minute on two CPU cores.

    Args:
        judge: The shipped one, or another.
        text: The text encoder of a storybook model.
        pages: Number of pages, without the hard negatives.
        steps: Training steps, each on BATCH images. Scores of probes that were trained differently
            cannot be compared.
    """
    pairs = [(scene(k), hard_negative(k)) for k in range(pages)]
    sides = [[render(pair[i], judge.config.size) for pair in pairs] for i in (0, 1)]
    maps = torch.stack([judge_maps(judge, images) for images in sides])  # (2, n, c, h, w)
    texts = torch.stack([
        pooled_states(text, captions)
        for captions in zip(
            *(hard_negative_captions(pair, random.Random(f"clip-{k}"))
              for k, pair in enumerate(pairs)), strict=True
        )
    ])  # (2, n, d)  # fmt: skip
    with seeded(0):
        probe = ClipProbe(maps.shape[2], maps[0, 0, 0].numel(), texts.shape[-1])
    optimizer = torch.optim.AdamW(probe.parameters())
    generator = torch.Generator().manual_seed(0)
    for k in range(steps):
        rows = torch.randint(pages, (BATCH // 2,), generator=generator)
        images = probe(maps[:, rows].flatten(0, 1).float())
        captions = probe.text_projection(texts[:, rows].flatten(0, 1))
        loss = contrastive_loss(images, captions, probe.logit_scale)
        update(loss, optimizer, learning_rate(k, steps, LR, warmup=50))
    return StorybookClip(judge, text, probe.eval())


@torch.no_grad()
def judge_maps(judge: Judge, images: Sequence[Image.Image]) -> Tensor:
    """Return the judge's maps at 1/8 of the resolution, (n, c, h, w) float32 on the CPU."""
    batches = judge.prepare(images).to(judge.conv_in.weight).split(BATCH)
    return torch.cat([F.silu(judge.maps(x)[1]).float().cpu() for x in batches])


@torch.no_grad()
def pooled_states(text: TextEncoder, captions: Sequence[str]) -> Tensor:
    """Return the hidden state at the end-of-text token, which CLIP compares, (n, d) on the CPU."""
    encoder = cast(CLIPTextEncoder, text.encoders[-1])
    tokenizer = text.tokenizers[-1]
    length = context_length(tokenizer, encoder.config)
    rows = [list(captions[k : k + BATCH]) for k in range(0, len(captions), BATCH)]
    device = encoder.embeddings.token_embedding.weight.device
    return torch.cat(
        [encoder(token_ids(tokenizer, row, length).to(device)).pooled.float().cpu() for row in rows]
    )
