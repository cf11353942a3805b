"""How fast sdlearn is beside diffusers, both in one process, measured in turns.

    python benchmarks/side_by_side.py                 everything, about half an hour on two cores
    python benchmarks/side_by_side.py unet decode     these

What is compared is a ratio: seconds of diffusers over seconds of sdlearn for the same work, more
than 1 where sdlearn is faster. The two take turns, and the order changes from turn to turn, so that
a machine that grows slower or faster does so for both; the ratio is the median over the turns, the
spread its quartiles. Run it with nothing else running. README.md beside this file has the results.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
PROMPT = "a red cat to the left of a blue house on the sand at night"
M = TypeVar("M", bound=nn.Module)


class Row(NamedTuple):
    """A comparison. ours, theirs: medians, in unit; ratio: theirs / ours, with its quartiles."""

    name: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    low: float
    high: float
    note: str = ""


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes, all of it: an accelerator is waited for."""
    gc.collect()
    synchronise()
    start = time.perf_counter()
    work()
    synchronise()
    return time.perf_counter() - start


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def paired(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    turns: int,
    note: Callable[[float], str] = lambda ours: "",
) -> Row:
    """Both in turns, after one turn that is not counted. note: said of our median seconds."""
    times: list[tuple[float, float]] = []
    for turn in range(turns + 1):
        if turn % 2:
            a, b = seconds(ours), seconds(theirs)
        else:
            b, a = seconds(theirs), seconds(ours)
        if turn:
            times.append((a, b))
    a, b = (statistics.median(column) for column in zip(*times, strict=True))
    ratios = [theirs / ours for ours, theirs in times]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Row(name, a, b, "s", statistics.median(ratios), low, high, note(a))


# --------------------------------------------------------------------------------- what is measured


def unet(turns: int = 7, packed: bool = False) -> Row:
    """One evaluation of SD 1.5's U-Net, random weights, batch 2 (both halves of guidance)."""
    from diffusers import UNet2DConditionModel

    from sdlearn import SPECS, UNet
    from sdlearn.utils.prepack import prepack
    from sdlearn.weights.configs import unet_config_to_json

    config = SPECS["sd1.5"].unet
    mine = frozen(UNet(config))
    settings = {k: v for k, v in unet_config_to_json(config).items() if not k.startswith("_")}
    theirs = frozen(UNet2DConditionModel(**settings))
    if packed:
        prepack(mine)
    z, context = torch.randn(2, 4, 64, 64), torch.randn(2, 77, 768)
    t = torch.tensor([500, 500])
    flop = 2 * 803.3e9  # of matrix products and convolutions, batch 2
    return paired(
        "SD 1.5 U-Net, batch 2, 64 x 64, float32" + ", packed" * packed,
        lambda: mine(z, t, context),
        lambda: theirs(z, t, encoder_hidden_states=context).sample,
        turns,
        lambda s: f"{flop / s / 1e9:.0f} GFLOP/s; {roofline()}",
    )


def decode(turns: int = 5, packed: bool = False) -> Row:
    """SD's autoencoder, latent to picture of 512 x 512."""
    from diffusers import AutoencoderKL

    from sdlearn import SPECS, VAE
    from sdlearn.utils.prepack import prepack
    from sdlearn.weights.configs import vae_config_to_json

    config = SPECS["sd1.5"].vae
    mine = frozen(VAE(config))
    settings = {k: v for k, v in vae_config_to_json(config, 512).items() if not k.startswith("_")}
    theirs = frozen(AutoencoderKL(**settings))
    if packed:
        prepack(mine)
    z = torch.randn(1, 4, 64, 64)
    return paired(
        "VAE decode, 512 x 512, float32" + ", packed" * packed,
        lambda: mine.decode(z),
        lambda: theirs.decode(z).sample,
        turns,
        lambda s: f"{2514.5 / s:.0f} GFLOP/s",
    )


def generate(turns: int = 15) -> Row:
    """Sixteen pictures of the storybook, thirty steps of DDIM, guidance 5."""
    from diffusers import StableDiffusionPipeline

    from sdlearn import StableDiffusion
    from sdlearn.utils.resources import data_folder

    mine = StableDiffusion.storybook(device="cpu")
    theirs = StableDiffusionPipeline.from_pretrained(data_folder("storybook"))
    theirs.set_progress_bar_config(disable=True)
    return paired(
        "storybook, 16 pictures, 30 steps",
        lambda: mine.text_to_image(PROMPT, n=16, steps=30, guidance_scale=5.0, progress=False),
        lambda: theirs(
            PROMPT, num_images_per_prompt=16, num_inference_steps=30, guidance_scale=5.0
        ),
        turns,
    )


def training(turns: int = 21) -> Row:
    """A step of the storybook's U-Net, batch 64: forward, backward, clipping, AdamW."""
    from diffusers import UNet2DConditionModel

    from sdlearn import SPECS, NoiseSchedule, UNet
    from sdlearn.training import diffusion_loss
    from sdlearn.weights.configs import unet_config_to_json

    config = SPECS["storybook"].unet
    settings = {k: v for k, v in unet_config_to_json(config).items() if not k.startswith("_")}
    z_0, eps, context = torch.randn(64, 4, 8, 8), torch.randn(64, 4, 8, 8), torch.randn(64, 77, 128)
    t = torch.randint(0, 1000, (64,))

    def step(
        network: nn.Module, predict: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

        def work() -> None:
            optimizer.zero_grad(set_to_none=True)
            diffusion_loss(predict, z_0, t, eps, context, NoiseSchedule()).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()

        return work

    mine, theirs = UNet(config), UNet2DConditionModel(**settings)
    return paired(
        "storybook training step, batch 64",
        step(mine, mine),
        step(theirs, lambda z, t, context: theirs(z, t, context).sample),
        turns,
    )


def imports(turns: int = 5) -> Row:
    """From nothing to the class that draws, in a fresh interpreter."""

    def fresh(code: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)

    return paired(
        "import",
        fresh("from sdlearn import StableDiffusion"),
        fresh("from diffusers import StableDiffusionPipeline"),
        turns,
    )


def pictures(
    dtype: torch.dtype,
    compiled: bool = False,
    system: str = "sd1.5",
    steps: int = 50,
    device: str = "cuda",
    turns: int = 5,
) -> Row:
    """Whole pictures of a published system on an accelerator: the same random weights in both."""
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTokenizer

    from sdlearn import SPECS, VAE, CLIPTextEncoder, StableDiffusion, TextEncoder, UNet
    from sdlearn.utils.resources import data_folder

    spec = SPECS[system]
    tokenizer = CLIPTokenizer.from_pretrained(data_folder("storybook") / "tokenizer")
    text = TextEncoder([tokenizer], [CLIPTextEncoder(spec.text[0])])
    mine = StableDiffusion(UNet(spec.unet), VAE(spec.vae), text, spec)
    with tempfile.TemporaryDirectory() as folder:
        mine.save_pretrained(folder, dtype)
        mine = StableDiffusion.from_pretrained(folder, dtype, device)
        theirs = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=dtype).to(device)
    theirs.set_progress_bar_config(disable=True)
    if compiled:
        mine.unet = cast(UNet, torch.compile(mine.unet))
        theirs.unet = torch.compile(theirs.unet)
    pixels = spec.resolution
    name = f"{spec.name}, one picture of {pixels} x {pixels}, {steps} steps, {dtype}"
    return paired(
        name.replace("torch.", "") + ", compiled" * compiled,
        lambda: mine.text_to_image(PROMPT, steps=steps, progress=False),
        lambda: theirs(PROMPT, num_inference_steps=steps),
        turns,
    )


# The peak of each is measured in an interpreter of its own: what one has used stays with it.
MEMORY = {
    "unet": (
        "SD 1.5 U-Net, batch 2",
        "from sdlearn import SPECS, UNet; net = UNet(SPECS['sd1.5'].unet).eval()",
        "from diffusers import UNet2DConditionModel; net = UNet2DConditionModel("
        "sample_size=64, cross_attention_dim=768, attention_head_dim=8).eval()",
        "net(torch.randn(2, 4, 64, 64), torch.tensor([500, 500]), torch.randn(2, 77, 768))",
    ),
    "decode": (
        "VAE decode, 512 x 512",
        "from sdlearn import SPECS, VAE; net = VAE(SPECS['sd1.5'].vae).eval()",
        "from diffusers import AutoencoderKL; net = AutoencoderKL(block_out_channels=(128, 256, "
        "512, 512), down_block_types=('DownEncoderBlock2D',) * 4, up_block_types="
        "('UpDecoderBlock2D',) * 4, layers_per_block=2).eval()",
        "net.decode(torch.randn(1, 4, 64, 64))",
    ),
    "generate": (
        "storybook, 16 pictures",
        "from sdlearn import StableDiffusion; sd = StableDiffusion.storybook(device='cpu')\n"
        "draw = lambda: sd.text_to_image('a red cat', n=16, steps=3, progress=False)",
        "from diffusers import StableDiffusionPipeline\n"
        "from sdlearn.utils.resources import data_folder\n"
        "sd = StableDiffusionPipeline.from_pretrained(data_folder('storybook'))\n"
        "draw = lambda: sd('a red cat', num_images_per_prompt=16, num_inference_steps=3)",
        "draw()",
    ),
    "training": (
        "storybook training step, batch 64",
        "from sdlearn import SPECS, UNet; net = UNet(SPECS['storybook'].unet)",
        "from diffusers import UNet2DConditionModel; from sdlearn import SPECS\n"
        "from sdlearn.weights.configs import unet_config_to_json\n"
        "config = unet_config_to_json(SPECS['storybook'].unet)\n"
        "net = UNet2DConditionModel(**{k: v for k, v in config.items() if k[0] != '_'})",
        "adam = torch.optim.AdamW(net.parameters())\n"
        "with torch.inference_mode(False):\n"
        "    for _ in range(2):\n"
        "        y = net(torch.randn(64, 4, 8, 8), torch.arange(64), torch.randn(64, 77, 128))\n"
        "        getattr(y, 'sample', y).square().mean().backward(); adam.step()",
    ),
}


def memory(which: str) -> Row:
    name, mine, theirs, work = MEMORY[which]

    def peak(make: str) -> float:
        code = (
            "import resource, torch\n"
            f"{make}\n"
            f"with torch.inference_mode():\n{textwrap.indent(work, '    ')}\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True
        )
        return int(done.stdout.split()[-1]) / 2**20  # of KiB, on Linux

    ours, others = peak(mine), peak(theirs)
    ratio = others / ours
    return Row(f"peak memory: {name}", ours, others, "GiB", ratio, ratio, ratio)


# --------------------------------------------------------------------------------------- the limits


def roofline() -> str:
    """What this machine does at best: a large matrix product, and a convolution of the U-Net's."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    x, w = torch.randn(2, 320, 64, 64), torch.randn(320, 320, 3, 3)
    x, w = (part.contiguous(memory_format=torch.channels_last) for part in (x, w))
    product = best(lambda: a @ b, 2 * 2048**3)
    convolution = best(lambda: nn.functional.conv2d(x, w, padding=1), 2 * 2 * 64**2 * 320**2 * 9)
    return f"peaks here {product:.0f} (matrix product) and {convolution:.0f} (3 x 3 convolution)"


def best(work: Callable[[], object], flop: float) -> float:
    """GFLOP/s of the fastest of ten."""
    return flop / min(seconds(work) for _ in range(10)) / 1e9


def frozen(module: M) -> M:
    return module.eval().requires_grad_(False)


BENCHMARKS: dict[str, Callable[[], Row]] = {
    "unet": unet,
    "unet-packed": lambda: unet(packed=True),
    "decode": decode,
    "decode-packed": lambda: decode(packed=True),
    "generate": generate,
    "training": training,
    "imports": imports,
    "unet-memory": lambda: memory("unet"),
    "decode-memory": lambda: memory("decode"),
    "generate-memory": lambda: memory("generate"),
    "training-memory": lambda: memory("training"),
}
# Only where there is one: on a processor, fifty steps of SD 1.5 take a quarter of an hour.
ON_CUDA: dict[str, Callable[[], Row]] = {
    "fp16": lambda: pictures(torch.float16),
    "fp16-compiled": lambda: pictures(torch.float16, compiled=True),
    "bf16": lambda: pictures(torch.bfloat16),
    "bf16-compiled": lambda: pictures(torch.bfloat16, compiled=True),
}
if torch.cuda.is_available():
    BENCHMARKS |= ON_CUDA


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    args = parser.parse_args()
    rows = []
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("| work | sdlearn | diffusers | ratio | quartiles | |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in args.names or BENCHMARKS:
        inference = torch.inference_mode(name != "training")
        with inference:
            row = BENCHMARKS[name]()
        gc.collect()
        rows.append(row)
        spread = "" if row.low == row.high else f"{row.low:.2f} to {row.high:.2f}"
        print(
            f"| {row.name} | {row.ours:.3g} {row.unit} | {row.theirs:.3g} {row.unit} | "
            f"{row.ratio:.2f} | {spread} | {row.note} |",
            flush=True,
        )
    if args.json is not None:
        args.json.write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
