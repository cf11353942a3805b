"""The widget of notebook 13: choose a hole, a method and a prompt, and inpaint."""

import ipywidgets as widgets
import torch
from PIL import Image
from torch import Tensor

from sdlearn.course.figures.inpainting import beside, enlarged
from sdlearn.course.widgets.figure_widget import FigureWidget
from sdlearn.evaluation.image_metrics import as_tensor
from sdlearn.evaluation.inpainting import border_step
from sdlearn.guidance import classifier_free_guidance, denoiser
from sdlearn.inpainting import latent_mask, repaint, restore_known
from sdlearn.pipeline import StableDiffusion
from sdlearn.utils.images import paste
from sdlearn.utils.noise import seeded_noise

JUMP, REPEATS = 2, 3  # RePaint's settings


def box_mask(side: int, left: int, top: int, width: int, height: int) -> Tensor:
    """Return the mask of a box, clipped at the edge of the image: (1, 1, side, side)."""
    mask = torch.zeros(1, 1, side, side)
    mask[..., top : top + height, left : left + width] = 1
    return mask


@torch.inference_mode()
def replaced(
    sd: StableDiffusion,
    image: Image.Image,
    mask: Tensor,
    prompt: str,
    steps: int,
    seed: int = 0,
    repeats: int = 1,
) -> Image.Image:
    """Inpaint by replacement (RePaint if repeats > 1) and paste the original outside the hole.

    Args:
        sd: A model with four input channels.
        image: The image, the same size as the mask.
        mask: (1, 1, h, w), 1 in the hole.
        prompt: What to paint.
        steps: Number of DDIM steps.
        seed: Seed of the noise.
        repeats: How often RePaint runs each stretch of its path.
    """
    x, f = as_tensor([image]), sd.vae.factor
    like = sd.unet.conv_in.weight
    shape = (1, sd.unet.config.out_channels, image.height // f, image.width // f)
    draw = seeded_noise(seed, shape, like)
    scale = sd.spec.guidance_scale
    cond, uncond = sd.text.pair([prompt], [""], scale, None, 0)
    network = classifier_free_guidance(sd.unet, cond, uncond, scale)
    denoise = denoiser(network, sd.spec.predicts)
    z_0, cells = sd.vae.to_latent(x.to(like)), latent_mask(mask, f).to(like)
    path, eps = sd.path(steps, "ddim"), draw()
    z = torch.where(cells > 0, eps, path[0].alpha * z_0 + path[0].sigma * eps)
    states = repaint(denoise, z, path, z_0, cells, JUMP, repeats, draw)
    *_, last = restore_known(states, path[-1], z_0, cells)
    (painted,) = paste(sd.to_images(last.z), (x + 1) / 2, mask, 1)
    return painted


class InpaintingWidget(FigureWidget):
    """A hole of any position and size in an image, a prompt, and a method of filling the hole.

    Attributes:
        image: The image with the hole outlined, beside the result.
        result: The inpainted image.
        step: Mean step across the hole's border in the result, in grey levels.
    """

    def __init__(
        self,
        sd: StableDiffusion,
        image: Image.Image,
        prompt: str,
        box: tuple[int, int, int, int],
        trained: StableDiffusion | None = None,
        steps: int = 10,
        width: int = 560,
    ) -> None:
        """Build the widget.

        Args:
            sd: A model with four input channels, for replacement and RePaint.
            image: A square image of the model's size.
            prompt: The initial prompt.
            box: The first hole: left, top, width and height in pixels.
            trained: A model with nine input channels, if there is one.
            steps: Sampling steps.
            width: Width of the figure, in CSS pixels.
        """
        self.sd, self.page, self.trained = sd, image, trained
        self.steps, self.width = steps, width
        side = image.width
        row = {"style": {"description_width": "6em"}, "layout": {"width": "36em"}}
        live = {"continuous_update": False, **row}
        methods = ["replacement", "RePaint", *(["nine channels"] if trained else [])]
        self.prompt = widgets.Text(value=prompt, description="Prompt", **live)
        self.method = widgets.Dropdown(options=methods, description="Method", **row)
        self.left, self.top = (
            widgets.IntSlider(value=value, max=side - 4, description=name, **live)
            for name, value in zip(("Left", "Top"), box[:2], strict=True)
        )
        self.wide, self.high = (
            widgets.IntSlider(value=value, min=4, max=side, description=name, **live)
            for name, value in zip(("Width", "Height"), box[2:], strict=True)
        )
        self.seed = widgets.BoundedIntText(value=0, max=9999, description="Seed", **row)
        super().__init__(
            [self.prompt, self.method, self.left, self.top, self.wide, self.high, self.seed]
        )

    @property
    def mask(self) -> Tensor:
        """The mask, (1, 1, h, w), 1 in the hole."""
        box = (self.left.value, self.top.value, self.wide.value, self.high.value)
        return box_mask(self.page.width, *box)

    def update(self) -> None:
        """Inpaint with the current settings and describe the result."""
        mask, prompt, seed = self.mask, self.prompt.value, self.seed.value
        if self.method.value == "nine channels" and self.trained:
            (self.result,) = self.trained.inpaint(
                prompt, self.page, mask, steps=self.steps, seed=seed, progress=False
            )
        else:
            repeats = REPEATS if self.method.value == "RePaint" else 1
            args = self.sd, self.page, mask, prompt, self.steps, seed
            self.result = replaced(*args, repeats)
        both = border_step(as_tensor([self.page, self.result]), mask)
        before, self.step = both.tolist()
        right = min(self.page.width, self.left.value + self.wide.value)
        bottom = min(self.page.height, self.top.value + self.high.value)
        box = (self.left.value, self.top.value, right, bottom)
        tiles = [enlarged(self.page, box), enlarged(self.result)]
        self.image = beside(tiles, ["image and hole", self.method.value])
        sentence = (
            f"Method: {self.method.value}. The hole covers {mask.mean():.0%} of the image. The "
            f"border step is {self.step:.1f} grey levels; in the original it was {before:.1f}."
        )
        self.stored_caption = f"Prompt: {prompt}. {sentence}"
        self.show(sentence, f"The image with the hole's outline, and the result. {sentence}")
