"""The words of a notebook of the second edition: those that may not return, and those it must use.

The words come from the course's style: the field's term instead of a home-made one, and plain
current English. A word that only a person can judge, such as "behind" for an order, is left out.
"""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import NamedTuple

import nbtext
from nbcheck import Cell, place


class Word(NamedTuple):
    """A word that may not occur.

    Attributes:
        pattern: A regular expression; upper and lower case are the same.
        instead: What to write.
        storybook: Whether the word is allowed in a text that says "storybook".
    """

    pattern: str
    instead: str
    storybook: bool = False


BE = r"(?:is|are|was|were|be|been|being)"
READER = r"(?:positions?|tokens?|quer(?:y|ies)|words?|heads?|pixels?)"
WORDS = (
    Word(rf"{BE} looked at", "gets attention, has an attention weight"),
    Word(rf"{READER} looks?(?! like)", "attends to"),
    Word(r"of all (?:the )?look(?:s|ing)", "share of the attention"),
    Word(r"fillings?", "padding tokens"),
    Word(r"marks? (?:for|of|at) the (?:start|beginning|end)", "start-of-text, end-of-text token"),
    Word(r"the way (?:past|around)", "residual connection, skip connection"),
    Word(r"what came in is added", "residual connection"),
    Word(r"bends?|bent", "nonlinearity, activation"),
    Word(
        r"numbers (?:in|of) (?:a|an|the|each|every) (?:tensor|vector|matrix|latent|channel)",
        "elements, values, entries",
    ),
    Word(r"spreads?", "standard deviation, variance"),
    Word(r"(?:which|what|larger?|smaller?|greater?) part (?:of|goes)", "fraction, share"),
    Word(r"pages?", "image", storybook=True),
    Word(r"things?", "object", storybook=True),
    Word(r"(?<!-)worlds?", "dataset, distribution", storybook=True),
    Word(r"twins?", "hard negatives"),
    Word(r"couples?(?! of)", "pairs"),
    Word(r"(?<!hidden )states of (?:the |a )?(?:text|words?|tokens?|prompt)", "hidden states"),
    Word(rf"{BE} told", "is conditioned on"),
    Word(r"hears?|heard", "is conditioned on"),
    Word(r"listen(?:s|ed|ing)?", "is conditioned on"),
    Word(r"answer(?:s|ed)? with", "predicts"),
    Word(r"walk(?:s|ed)?(?! (?:you )?through)", "trajectory, path"),
    Word(r"ways? back", "backward pass"),
    Word(r"(?<!point )clouds?", "posteriors", storybook=True),
    Word(r"heaps?|humps?", "mode, cluster"),
    Word(r"bold(?:er|est)?", "aggressive"),
    Word(r"dear(?:er|est)?", "expensive"),
    Word(r"by heart", "memorised"),
    Word(r"noughts?", "zero"),
    Word(r"critics?", "discriminator"),
    Word(r"what is left of the (?:signal|image)", "the signal's share of the variance"),
    Word(r"you would notice", "the symptom: …"),
    Word(r"shall", "must, should"),
    Word(r"stands?(?! (?:for|out|alone)\b)", "is, appears"),
    Word(r"whoever|one who", "if you"),
    Word(r"somebody|nobody", "someone, no one; better “you” or a passive"),
)

# The standard terms that a reader of the literature expects in each notebook.
TERMS = {
    "00": ("denoiser", "latent", "guidance", "negative prompt"),
    "01": ("linear autoencoder", "latent", "VQ"),
    "02": (
        "ELBO",
        "likelihood",
        "reparameterisation trick",
        "posterior collapse",
        "perception–distortion trade-off",
        "discriminator",
        "LPIPS",
    ),
    "03": ("Fourier features", "AdaLN", "RoPE", "learned embedding", r"c_\text{noise}"),
    "04": (
        "attention weight",
        "attention map",
        "padding token",
        "residual connection",
        "multi-head",
        "self-attention",
        "cross-attention",
        "FlashAttention",
        "joint attention",
        "prompt-to-prompt",
    ),
    "05": (
        "padding token",
        "end-of-text token",
        "causal mask",
        "hard negative",
        "InfoNCE",
        "zero-shot",
        "T5",
    ),
    "06": (
        "ResBlock",
        "residual connection",
        "skip connection",
        "pre-activation",
        "FLOPs",
        "MACs",
    ),
    "07": ("signal-to-noise ratio", "variance-preserving", "v-prediction", "flow matching"),
    "08": (
        "ε-prediction",
        "v-prediction",
        "ELBO",
        "mixed precision",
        "activation checkpointing",
        "EMA",
    ),
    "09": ("score", "probability-flow ODE", "SDE", "DDIM", "Karras"),
    "10": ("classifier-free guidance", "negative prompt", "score"),
    "11": ("text-to-image", "classifier-free guidance", "half precision"),
    "12": ("image-to-image", "DDIM inversion", "prompt-to-prompt"),
    "13": ("inpainting", "replacement", "RePaint", "outpainting"),
    "14": ("zero convolution", "condition image", "IoU", "guess mode", "T2I-Adapter"),
    "15": ("safetensors", "strict", "pickle", "FLOPs", "SDXL"),
    "16": (
        "caption accuracy",
        "bootstrap",
        "Fréchet distance",
        "KID",
        "precision",
        "CLIP score",
        "GenEval",
    ),
    "17": (
        "gradient accumulation",
        "activation checkpointing",
        "mixed precision",
        "loss scale",
        "data parallelism",
        "all-reduce",
        "FSDP",
    ),
    "18": (
        "LoRA",
        "rank",
        "textual inversion",
        "DreamBooth",
        "prior preservation",
        "language drift",
        "singular value decomposition",
    ),
    "19": (
        "rectified flow",
        "flow matching",
        "velocity",
        "reflow",
        "distillation",
        "consistency model",
        "diffusion transformer",
        "adaLN-Zero",
        "joint attention",
        "T5",
    ),
}


def faults(cells: list[Cell], lesson: str) -> list[str]:
    """Return the words to replace, each with its cell or exercise, and the terms that are missing.

    Args:
        cells: Of the notebook.
        lesson: Its number, such as "04".
    """
    texts = [
        (place(number, cell), nbtext.prose(cell).split("## Papers")[0])
        for number, cell in enumerate(cells)
        if cell["cell_type"] == "markdown"
    ]
    found = [f"{where}: {fault}" for where, text in texts for fault in word_faults(text)]
    for where, text in exercise_texts(lesson):
        found += [f"{where}: {fault}" for fault in word_faults(without_code(text))]
    said = plain(" ".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown"))
    missing = [term for term in TERMS.get(lesson, ()) if plain(term) not in said]
    return found + [f"it never says “{term}”, a standard term of its subject" for term in missing]


def word_faults(text: str) -> Iterator[str]:
    """Yield a sentence for each word of a text that may not occur."""
    text = " ".join(text.split())
    subject = "storybook" in text.lower()
    for word in WORDS:
        found = re.search(rf"\b(?:{word.pattern})\b", text, flags=re.I)
        if found and not (word.storybook and subject):
            where = " (allowed only beside the word “storybook”)" if word.storybook else ""
            yield f"“{found[0]}” → {word.instead}{where}"


def exercise_texts(lesson: str) -> Iterator[tuple[str, str]]:
    """Yield the texts of a notebook's exercises and quiz that are not stored in the notebook.

    A pre-commit hook has an environment without torch, and there these are left out.
    """
    if find_spec("torch") is None:
        return
    from sdlearn.course.exercises import exercises, files, questions

    if lesson not in files():
        return
    for exercise in exercises(lesson):
        sentences = [mistake.sentence for mistake in exercise.mistakes]
        yield f"exercise {exercise.number}", "\n\n".join([*exercise.hints, *sentences])
    for number, question in enumerate(questions(lesson), 1):
        answers = [part for answer in question.answers for part in (answer.text, answer.reason)]
        yield f"question {number} of the quiz", "\n\n".join([question.text, *answers])


def without_code(text: str) -> str:
    """Return a text without code and formulas."""
    return nbtext.prose({"source": text})


def plain(text: str) -> str:
    """Return a text in lower case, with one kind of hyphen and single spaces."""
    return " ".join(text.lower().replace("–", "-").replace("‑", "-").split())
