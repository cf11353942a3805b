"""What can be read off the text encoder's states? The link of a model that no picture shows.

A small network learns, from training captions and their states alone, to say of what kind and
colour the things are and how they stand to each other. What it still gets wrong on other captions,
the U-Net, which learns from the same states through attention of the same sort, can hardly get
right: a text encoder that blurs kinds makes pictures of the wrong kind, however good the rest is.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdlearn.evaluation.accuracy import Asked, Rate, interval, question
from sdlearn.storybook import COLOURS, KINDS, Scene, relation
from sdlearn.text import TextEncoder
from sdlearn.training import learning_rate, seeded, update

RELATIONS = ("left", "above", "front")
LEARNED = 8000  # captions that it learns from
STEPS, BATCH, LR = 400, 128, 2e-3
NOTHING = -100  # the second thing of a page with one; cross_entropy's own mark for "not asked"


class Reader(nn.Module):
    """Two learned questions, one for each thing, look at the states twice."""

    def __init__(self, dim: int) -> None:
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
        """(b, n, dim) -> logits of kind, colour and relation, each (b, 2, classes)."""
        h = self.layers(self.questions.expand(len(states), -1, -1), states)
        return [answer(h) for answer in self.answers]


def truth(scene: Scene) -> list[list[int]]:
    """[kind, colour, relation] of the first and the second thing, in the order of `relation`."""
    said = relation(scene)
    if said is None:
        (thing,) = scene.things
        return [[KINDS.index(thing.kind), COLOURS.index(thing.colour), NOTHING], [NOTHING] * 3]
    way = RELATIONS.index(said[0])
    return [[KINDS.index(t.kind), COLOURS.index(t.colour), way] for t in said[1:]]


@torch.no_grad()
def states_of(text: TextEncoder, captions: Sequence[str]) -> Tensor:
    """(n, 77, d) in half precision on the CPU."""
    rows = [list(captions[k : k + BATCH]) for k in range(0, len(captions), BATCH)]
    return torch.cat([text(row).context.half().cpu() for row in rows])


def learn_to_read(text: TextEncoder) -> Reader:
    """A reader that has seen the states of LEARNED captions of the training split; always the same.

    It takes about a minute on two processor cores.
    """
    lessons = [question("train", f"reader-{k}") for k in range(LEARNED)]
    known = states_of(text, [one.caption for one in lessons])
    labels = torch.tensor([truth(one.scene) for one in lessons])
    with seeded(0):
        reader = Reader(known.shape[-1])
    optimizer = torch.optim.AdamW(reader.parameters())
    generator = torch.Generator().manual_seed(0)
    for k in range(STEPS):
        rows = torch.randint(LEARNED, (BATCH,), generator=generator)
        answers = zip(reader(known[rows].float()), labels[rows].unbind(-1), strict=True)
        losses = [F.cross_entropy(said.flatten(0, 1), true.flatten()) for said, true in answers]
        update(torch.stack(losses).sum(), optimizer, learning_rate(k, STEPS, LR, warmup=50))
    return reader.eval()


@torch.no_grad()
def text_accuracy(reader: Reader, text: TextEncoder, asked: Sequence[Asked]) -> dict[str, Rate]:
    """How much of what captions of one or two things say the reader finds in their states.

    Returns the rates of kind, colour, side (of two things) and right, as `rates` does.
    """
    read = reader(states_of(text, [one.caption for one in asked]).float())
    found = torch.stack([answer.argmax(-1) for answer in read], dim=-1)
    wanted = torch.tensor([truth(one.scene) for one in asked])
    right = (found == wanted) | (wanted == NOTHING)
    things = [len(one.scene.things) for one in asked]

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
