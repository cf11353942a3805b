"""The scheduler classes of published folders: which sampler each is, and what its entries mean.

    SCHEDULERS   computed exactly by a sampler here, for the settings in the table
    SUBSTITUTES  other solvers on the same noise schedule, replaced by the closest sampler
    CORRECTED    what a pipeline class corrects in old files while loading them

Each class has its own defaults for the entries that a file lacks, and ignores the entries of other
classes, which files keep in case the sampler is changed. The tables are those of diffusers 0.42.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from sdlearn.weights.json_config import Config, Json

KARRAS, LU, ZERO_SNR = "use_karras_sigmas", "use_lu_lambdas", "rescale_betas_zero_snr"
EXPONENTIAL, BETA, FLOW = "use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas"
CLIP, THRESHOLD, PRK = "clip_sample", "thresholding", "skip_prk_steps"

# The defaults of most classes.
DEFAULTS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "linspace",
    "steps_offset": 0,
    "set_alpha_to_one": False,
}
# Those of the classes that are related: to DDPM, to k-diffusion, to consistency models.
DDPM = {"timestep_spacing": "leading", CLIP: True}
K_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012}
CONSISTENCY = K_DIFFUSION | {
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "leading",
    "set_alpha_to_one": True,
}


class PublishedScheduler(NamedTuple):
    """A published scheduler class.

    Attributes:
        sampler: The name of the sampler here that computes the same, or of the closest one.
        has: Which of the settings named above it has; it ignores the others.
        defaults: Its defaults for entries that a file lacks, where they are not DEFAULTS.
        settings: Its other settings, each with the values for which the sampler here computes the
            same. The first is written.
    """

    sampler: str
    has: tuple[str, ...] = ()
    defaults: Json = MappingProxyType({})
    settings: Mapping[str, tuple[Any, ...]] = MappingProxyType({})


OTHER_SIGMAS = {EXPONENTIAL: (False,), BETA: (False,)}
# The ends of Karras's and other noise levels. These classes read them off the file, although only
# one of them has such a setting.
ENDS = {"sigma_min": (None,), "sigma_max": (None,)}

SCHEDULERS = {
    "DDIMScheduler": PublishedScheduler(
        "ddim", (ZERO_SNR, CLIP, THRESHOLD), DDPM | {"set_alpha_to_one": True}
    ),
    "DDPMScheduler": PublishedScheduler(
        "ddpm",
        (ZERO_SNR, CLIP, THRESHOLD),
        DDPM,
        # The second is the same variance by way of its logarithm.
        {"variance_type": ("fixed_small", "fixed_small_log")},
    ),
    # This class averages the network's outputs; the sampler here averages noise, as the original.
    "PNDMScheduler": PublishedScheduler(
        "plms",
        (),
        {"timestep_spacing": "leading", PRK: False},
        {PRK: (True,), "prediction_type": ("epsilon",)},
    ),
    "EulerDiscreteScheduler": PublishedScheduler(
        "euler",
        (KARRAS, ZERO_SNR),
        {},
        OTHER_SIGMAS
        | {
            "interpolation_type": ("linear",),
            **ENDS,
            "timestep_type": ("discrete",),
            "final_sigmas_type": ("zero",),
        },
    ),
    "EulerAncestralDiscreteScheduler": PublishedScheduler("euler_ancestral", (ZERO_SNR,)),
    "HeunDiscreteScheduler": PublishedScheduler(
        "heun", (KARRAS, CLIP), K_DIFFUSION, OTHER_SIGMAS | ENDS
    ),
    "LMSDiscreteScheduler": PublishedScheduler("lms", (KARRAS,), {}, OTHER_SIGMAS),
    "DPMSolverMultistepScheduler": PublishedScheduler(
        "dpm_pp_2m",
        (KARRAS, LU, ZERO_SNR, THRESHOLD, FLOW),
        {},
        OTHER_SIGMAS
        | ENDS
        | {
            "algorithm_type": ("dpmsolver++",),
            # The class replaces the names that other classes have for this setting.
            "solver_type": ("midpoint", "logrho", "bh1", "bh2"),
            "solver_order": (2,),
            "final_sigmas_type": ("zero",),
            "lambda_min_clipped": (None,),
            # The network's output has no variance in it.
            "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large"),
        },
    ),
}
CLASSES = {published.sampler: name for name, published in SCHEDULERS.items()}

SUBSTITUTES = {
    "DDIMParallelScheduler": SCHEDULERS["DDIMScheduler"],
    "DDIMInverseScheduler": SCHEDULERS["DDIMScheduler"],
    "DDPMParallelScheduler": SCHEDULERS["DDPMScheduler"],
    "RePaintScheduler": PublishedScheduler("ddim", (), DDPM),
    "LCMScheduler": PublishedScheduler("ddim", (ZERO_SNR,), CONSISTENCY),
    "TCDScheduler": PublishedScheduler("ddim", (ZERO_SNR,), CONSISTENCY),
    "KDPM2DiscreteScheduler": PublishedScheduler("heun", (KARRAS,), K_DIFFUSION),
    "KDPM2AncestralDiscreteScheduler": PublishedScheduler("euler_ancestral", (), K_DIFFUSION),
    "DPMSolverSDEScheduler": PublishedScheduler("dpm_pp_2m", (KARRAS,), K_DIFFUSION),
    "DPMSolverSinglestepScheduler": PublishedScheduler("dpm_pp_2m", (KARRAS, FLOW)),
    "DPMSolverMultistepInverseScheduler": PublishedScheduler("dpm_pp_2m", (KARRAS, FLOW)),
    "DEISMultistepScheduler": PublishedScheduler("dpm_pp_2m", (KARRAS, FLOW)),
    "SASolverScheduler": PublishedScheduler("dpm_pp_2m", (KARRAS, FLOW)),
    "UniPCMultistepScheduler": PublishedScheduler("dpm_pp_2m", (KARRAS, ZERO_SNR, FLOW)),
}
# For a class that is not known. Its file is believed, and DDIM is right on every schedule.
UNKNOWN = PublishedScheduler("ddim", (ZERO_SNR, FLOW), {"timestep_spacing": "leading"})

# Parts of the names of classes for models with another noise schedule, or with none.
OTHER_MODELS = (
    *("Amused", "BlockRefinement", "CMStochastic", "CogVideoX", "ConsistencyDecoder", "Cosine"),
    *("DDPMWuerstchen", "DiscreteDDIM", "EDM", "EntropyBound", "Flow", "Helios", "IPNDM"),
    *("KarrasVe", "LTX", "MiniMax", "Piflow", "RFD4", "SCM", "ScoreSde", "UnCLIP", "VQDiffusion"),
)

# Old files lack settings that Stable Diffusion needs. These pipeline classes correct them; the
# others, XL's and ControlNet's among them, take the file as it is.
TEXT_TO_IMAGE = {"steps_offset": 1, CLIP: False}
INPAINTING = {"steps_offset": 1, PRK: True}
CORRECTED: Mapping[str, Json] = {
    "StableDiffusionPipeline": TEXT_TO_IMAGE,
    "StableDiffusionImg2ImgPipeline": TEXT_TO_IMAGE,
    "StableDiffusionInpaintPipeline": INPAINTING,
    "StableDiffusionInpaintPipelineLegacy": TEXT_TO_IMAGE,
    "StableDiffusionPipelineSafe": TEXT_TO_IMAGE,
    "StableDiffusionPAGPipeline": TEXT_TO_IMAGE,
    "StableDiffusionPAGImg2ImgPipeline": TEXT_TO_IMAGE,
    "StableDiffusionPAGInpaintPipeline": TEXT_TO_IMAGE,
    "StableDiffusionDiffEditPipeline": INPAINTING,
    "CycleDiffusionPipeline": {"steps_offset": 1},
    "LEditsPPPipelineStableDiffusion": TEXT_TO_IMAGE,
}


def scheduler_class(index: Config) -> str | None:
    """The class in model_index.json's entry for the scheduler, [LIBRARY, CLASS], or None.

    The name of another library than diffusers is put before the class, which is another class then,
    whatever it is called.

    Raises:
        ValueError: If the entry is something else.
    """
    entry = index.get("scheduler")
    if entry is None:
        return None
    two = isinstance(entry, list) and len(entry) == 2
    if not two or not all(isinstance(name, str | None) for name in entry):
        raise index.wrong("scheduler", "a list of a library and the name of a class")
    library, name = entry
    return name if name is None or library in ("diffusers", None) else f"{library}.{name}"
