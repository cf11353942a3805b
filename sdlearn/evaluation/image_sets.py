"""The distance of a model's images, as a set, from true pages: part of `sdlearn evaluate`.

The reference set holds renders of other captions of the same split, as many as there are images.
The true renders of the captions are measured in the same way, and so are their reconstructions. The
first show what "no distance" looks like with so few images, the second what the autoencoder costs.

Only one image of each caption is used, even if more were made: images of one caption are alike, and
these measures assume independent images.
"""

from collections.abc import Mapping, Sequence

from PIL import Image
from torch import Tensor

from sdlearn.evaluation.accuracy import prompt_case
from sdlearn.evaluation.clip_score import PERCENT, StorybookClip, clip_scores
from sdlearn.evaluation.frechet import frechet_distance, frechet_limit
from sdlearn.evaluation.judge import Judge
from sdlearn.evaluation.kernel_distances import kid
from sdlearn.evaluation.nearest_neighbours import density_coverage, precision_recall
from sdlearn.evaluation.resampling import bootstrap_mean
from sdlearn.evaluation.tables import Figures
from sdlearn.storybook import render

FEWEST = 6  # images: the five neighbours of density and coverage, plus one
KID_SUBSET = 1000  # images in a subset of KID, but at most half of the set


def reference_pages(split: str, n: int, size: int) -> list[Image.Image]:
    """Render n pages of a split for comparison; always the same, and none of `prompt_cases`."""
    scenes = [prompt_case(split, f"reference-{split}-{k}").scene for k in range(n)]
    return [render(scene, size) for scene in scenes]


def measure_sets(
    judge: Judge, split: str, sets: Mapping[str, Sequence[Image.Image]]
) -> dict[str, Figures]:
    """Measure sets of images against as many reference pages, on the judge's features.

    Args:
        judge: Gives the features.
        split: Split of the captions.
        sets: Images by name: FEWEST or more, and equally many in each set.

    Returns:
        The scores of each set, as `set_scores` gives them.
    """
    n = min(map(len, sets.values()))
    reference = judge.embed(reference_pages(split, n, judge.config.size))
    return {name: set_scores(reference, judge.embed(images)) for name, images in sets.items()}


def set_scores(reals: Tensor, fakes: Tensor) -> Figures:
    """Measure a set of features against those of real images.

    Args:
        reals: (n, d), n >= FEWEST.
        fakes: (m, d), m >= FEWEST.

    Returns:
        images and dimensions, the sizes m and d; frechet; frechet_limit and frechet_slope, only
        for sets of at least 4 d; kid, kid_std, precision, recall, density and coverage. All are
        rounded to six decimals.
    """
    fewest, d = min(len(reals), len(fakes)), reals.shape[1]
    scores = {"frechet": frechet_distance(reals, fakes)}
    if fewest >= 4 * d:
        line = frechet_limit(reals, fakes)
        scores |= {"frechet_limit": line.limit, "frechet_slope": line.slope}
    # Subsets of the whole set's size would all be the same, with a standard deviation of 0.
    over = kid(reals, fakes, subset_size=min(KID_SUBSET, fewest // 2))
    scores |= {"kid": over.mean, "kid_std": over.std}
    scores |= precision_recall(reals, fakes)._asdict() | density_coverage(reals, fakes)._asdict()
    sizes = {"images": len(fakes), "dimensions": d}
    return sizes | {name: round(value, 6) for name, value in scores.items()}


def clip_figures(
    clip: StorybookClip, captions: Sequence[str], sets: Mapping[str, Sequence[Image.Image]]
) -> dict[str, Figures]:
    """Measure the CLIP score of sets of images, with intervals over the captions.

    Args:
        clip: Encoders of images and captions.
        captions: n captions; some may be the same.
        sets: Images by name; image k shows captions[k % n]. One set is "pictures".

    Returns:
        For each set, the score 100 max(cos, 0) as value, low and high. "shuffled" scores the
        pictures with the captions of others, as images that do not fit. With a single caption it is
        missing.
    """
    texts = clip.embed_texts(captions)
    n = len(captions)

    def score(embeddings: Tensor, shift: int = 0) -> Figures:
        rows = [(k + shift) % n for k in range(len(embeddings))]
        scores = clip_scores(embeddings, texts[rows], PERCENT).tolist()
        found = bootstrap_mean([scores[k::n] for k in range(n)])
        return {name: round(value, 4) for name, value in found._asdict().items()}

    embeddings = {name: clip.embed_images(images) for name, images in sets.items()}
    figures = {name: score(of) for name, of in embeddings.items()}
    if n > 1:
        figures["shuffled"] = score(embeddings["pictures"], shift=1)
    return figures
