"""Evaluation of a model: caption accuracy by a detector (the judge), distances between image sets.

    from sdlearn.evaluation import load_judge, prompt_cases, caption_accuracy, rates

    judge = load_judge()
    outcomes = caption_accuracy(sd, judge, prompt_cases("test", 200))
    rates(outcomes)["right"]          # kind, colour and side of the objects: rate and interval

judge               detects the objects in an image
background_judge    the same without a network, by subtracting the known background
matching            compares what the judge found with the scene of the prompt
accuracy            the fraction of a caption that the image shows, over many captions
text_probe          what a probe can decode from the text encoder's embeddings
image_metrics       PSNR and SSIM
features            feature vectors of images, by the judge or any other network
frechet             the Fréchet distance between two sets of features, its bias and its limit
kernel_distances    KID and CMMD
nearest_neighbours  improved precision and recall, density and coverage
clip_score          how well images fit their captions, by the angle between embeddings
resampling          bootstrap over prompts; two models on the same prompts, McNemar's test
inpainting          the error in a hole, the step across its border, a new thing in it
silhouettes         the silhouettes of the things, without a network
control             how well images follow a hint: extract the condition again
image_sets          a model's images, as a set, against true pages
few_steps           what is right, and the distance, with 1 to 30 steps
paired              two models on the same captions and seeds
own_images          a folder of your own images against a folder of real ones
report              all of this for one model, for `sdlearn evaluate`
tables, contact_sheets, card, training_record   the output formats
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Detection": "judge",
    "Judge": "judge",
    "Reading": "judge",
    "load_judge": "judge",
    "BackgroundJudge": "background_judge",
    "Match": "matching",
    "Verdict": "matching",
    "matches": "matching",
    "psnr": "image_metrics",
    "ssim": "image_metrics",
    "PromptCase": "accuracy",
    "Outcome": "accuracy",
    "Rate": "resampling",
    "caption_accuracy": "accuracy",
    "interval": "resampling",
    "prompt_cases": "accuracy",
    "rates": "accuracy",
    "render_accuracy": "accuracy",
    "vae_report": "accuracy",
    "contact_sheet": "contact_sheets",
    "FeatureNetwork": "features",
    "image_features": "features",
    "installed_inception": "features",
    "frechet_distance": "frechet",
    "frechet_limit": "frechet",
    "kid": "kernel_distances",
    "cmmd": "kernel_distances",
    "precision_recall": "nearest_neighbours",
    "density_coverage": "nearest_neighbours",
    "clip_scores": "clip_score",
    "bootstrap_mean": "resampling",
    "compare_paired": "resampling",
    "mcnemar": "resampling",
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
