"""Evaluation of a model: caption accuracy by a detector (the judge), PSNR and SSIM.

    from sdlearn.evaluation import load_judge, prompt_cases, caption_accuracy, rates

    judge = load_judge()
    outcomes = caption_accuracy(sd, judge, prompt_cases("test", 200))
    rates(outcomes)["right"]          # kind, colour and side of the objects: rate and interval

judge            detects the objects in an image
matching         compares what the judge found with the scene of the prompt
accuracy         the fraction of a caption that the image shows, over many captions
text_probe       what a probe can decode from the text encoder's embeddings
image_metrics    PSNR and SSIM
report           all of this for one model, for `sdlearn evaluate`
tables, contact_sheets, card, training_record   the output formats
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Detection": "judge",
    "Judge": "judge",
    "Reading": "judge",
    "load_judge": "judge",
    "Match": "matching",
    "Verdict": "matching",
    "matches": "matching",
    "psnr": "image_metrics",
    "ssim": "image_metrics",
    "PromptCase": "accuracy",
    "Outcome": "accuracy",
    "Rate": "accuracy",
    "caption_accuracy": "accuracy",
    "interval": "accuracy",
    "prompt_cases": "accuracy",
    "rates": "accuracy",
    "render_accuracy": "accuracy",
    "vae_report": "accuracy",
    "contact_sheet": "contact_sheets",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
