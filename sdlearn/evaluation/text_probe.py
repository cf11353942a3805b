"""A probe of the text encoder: what its hidden states say about the things of a caption.

A small network is trained on the hidden states of training captions to predict the kind, the
colour and the spatial relation of the things. The U-Net uses the same hidden states, through the
same kind of attention, so it is unlikely to get right what the probe gets wrong on new captions.
A text encoder that confuses kinds leads to images of the wrong kind, however good the U-Net is.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdlearn.evaluation.accuracy import PromptCase, prompt_case
from sdlearn.evaluation.resampling import Rate, interval
from sdlearn.storybook import COLOURS, KINDS, Scene, relation
from sdlearn.text import TextEncoder
from sdlearn.training import learning_rate, update
from sdlearn.utils.device import seeded

RELATIONS = ("left", "above", "front")
NUM_CAPTIONS = 8000  # captions that the probe is trained on
STEPS, BATCH, LR = 400, 128, 2e-3
IGNORE_INDEX = -100  # label of a missing second thing; cross_entropy ignores it by default


class TextProbe(nn.Module):
    """Two learned queries, one for each thing, attend to the hidden states in two layers."""

    def __init__(self, dim: int) -> None:
        """Build the probe for hidden states of width `dim`, a multiple of 4."""
        super().__init__()
        layer = nn.TransformerDecoderLayer(
            dim, 4, 2 * dim, dropout=0.0, batch_first=True, norm_first=True
        )
        self.questions = nn.Parameter(torch.randn(1, 2, dim) / 2)
        self.layers = nn.TransformerDecoder(layer, 2)
        self.answers = nn.ModuleList(
            nn.Linear(dim, len(names)) for names in (KINDS, COLOURS, RELATIONS)
        )

    def forward(self, states: Tensor) -> list[Tensor]:
        """Return logits of kind, colour and relation, (b, 2, classes) each.

        Args:
            states: Hidden states, (b, n, dim).
        """
        h = self.layers(self.questions.expand(len(states), -1, -1), states)
        return [answer(h) for answer in self.answers]


def scene_labels(scene: Scene) -> list[list[int]]:
    """Return [kind, colour, relation] of both things, in the order of `storybook.relation`."""
    found = relation(scene)
    if found is None:
        (thing,) = scene.things
        return [
            [KINDS.index(thing.kind), COLOURS.index(thing.colour), IGNORE_INDEX],
            [IGNORE_INDEX] * 3,
        ]
    name = RELATIONS.index(found[0])
    return [[KINDS.index(t.kind), COLOURS.index(t.colour), name] for t in found[1:]]


@torch.no_grad()
def embed_captions(text: TextEncoder, captions: Sequence[str]) -> Tensor:
    """Return hidden states (n, 77, d) in half precision on the CPU."""
    rows = [list(captions[k : k + BATCH]) for k in range(0, len(captions), BATCH)]
    return torch.cat([text(row).context.half().cpu() for row in rows])


def train_probe(text: TextEncoder) -> TextProbe:
    """Train a probe on NUM_CAPTIONS captions of the training split.

    The result is always the same. It takes about a minute on two CPU cores.
    """
    cases = [prompt_case("train", f"reader-{k}") for k in range(NUM_CAPTIONS)]
    states = embed_captions(text, [case.caption for case in cases])
    labels = torch.tensor([scene_labels(case.scene) for case in cases])
    with seeded(0):
        probe = TextProbe(states.shape[-1])
    optimizer = torch.optim.AdamW(probe.parameters())
    generator = torch.Generator().manual_seed(0)
    for k in range(STEPS):
        rows = torch.randint(NUM_CAPTIONS, (BATCH,), generator=generator)
        answers = zip(probe(states[rows].float()), labels[rows].unbind(-1), strict=True)
        losses = [F.cross_entropy(logits.flatten(0, 1), y.flatten()) for logits, y in answers]
        update(torch.stack(losses).sum(), optimizer, learning_rate(k, STEPS, LR, warmup=50))
    return probe.eval()


@torch.no_grad()
def text_accuracy(
    probe: TextProbe, text: TextEncoder, cases: Sequence[PromptCase]
) -> dict[str, Rate]:
    """Measure how much of captions with one or two things the probe finds in their hidden states.

    Returns:
        The rates of kind, colour, side (of two things) and right, as in `accuracy.rates`.
    """
    logits = probe(embed_captions(text, [case.caption for case in cases]).float())
    found = torch.stack([answer.argmax(-1) for answer in logits], dim=-1)
    labels = torch.tensor([scene_labels(case.scene) for case in cases])
    right = (found == labels) | (labels == IGNORE_INDEX)
    things = [len(case.scene.things) for case in cases]

    def rate(correct: Tensor, fewest: int = 1) -> Rate:
        rows = zip(correct.tolist(), things, strict=True)
        return interval([row[:n] for row, n in rows if n >= fewest])

    kind, colour, side = right.unbind(-1)
    return {
        "kind": rate(kind),
        "colour": rate(colour),
        "side": rate(side, fewest=2),
        "right": rate(right.all(-1)),
    }
