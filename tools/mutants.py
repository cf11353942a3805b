"""Mutation tests: put known mistakes into the reference code and check that the tests catch them.

    python tools/mutants.py            every mistake, one line each
    python tools/mutants.py NAME ...   these mistakes only

Real implementations of Stable Diffusion have made each of these mistakes. Each is put into a copy
of the package, and the tests that should catch it are run on the copy. It is an error if no test
fails, or if the mistake no longer fits the code.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PARITY = "tests/parity"


class Mutant(NamedTuple):
    """A mistake.

    Attributes:
        name: Of the mistake.
        file: In the package.
        right: The code to replace, which occurs exactly once in the file.
        wrong: Its replacement.
        tests: Files of tests that must fail.
    """

    name: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]


def mutant(name: str, file: str, right: str, wrong: str, *tests: str) -> Mutant:
    """Build a Mutant with any number of tests."""
    return Mutant(name, file, right, wrong, tests)


UNET = f"{PARITY}/test_unet.py"
VAE = f"{PARITY}/test_vae.py"
CLIP = f"{PARITY}/test_clip.py"
TEXT = f"{PARITY}/test_text.py"
ATTENTION = f"{PARITY}/test_attention.py"
EMBEDDINGS = f"{PARITY}/test_embeddings.py"
SAMPLERS = f"{PARITY}/test_samplers.py"
SCHEDULE = f"{PARITY}/test_schedule.py"
PIPELINE = f"{PARITY}/test_pipeline.py"
SYSTEMS = f"{PARITY}/test_systems.py"
CONTROLNET = f"{PARITY}/test_controlnet.py"
IMAGES = f"{PARITY}/test_inpainting.py"
ORIGINALS = f"{PARITY}/test_ldm_keys.py"
LAWS = "tests/laws/test_samplers.py"
LOSS = "tests/laws/test_training.py"

MUTANTS = (
    # Networks
    mutant("eps-of-resblock-norm", "unet.py", "c_in, eps=1e-5)", "c_in, eps=1e-6)", UNET),
    mutant("eps-of-transformer-norm", "attention.py", "eps=1e-6)", "eps=1e-5)", ATTENTION),
    mutant("eps-of-autoencoder-norm", "vae.py", "eps=1e-6)", "eps=1e-5)", VAE),
    mutant("geglu-halves-swapped", "attention.py", "value, gate =", "gate, value =", ATTENTION),
    mutant("gelu-by-tanh", "attention.py", "F.gelu(gate)", 'F.gelu(gate, approximate="tanh")', ATTENTION),
    mutant("heads-are-widths", "weights/configs.py", "num_heads=per_level(config, heads, 8)", "num_heads=tuple(c // h for c, h in zip(widths, per_level(config, heads, 8)))", PIPELINE),
    mutant("symmetric-padding", "vae.py", "F.pad(x, (0, 1, 0, 1))", "F.pad(x, (1, 1, 1, 1))", VAE),
    mutant("deviation-for-variance", "vae.py", "torch.exp(0.5 * logvar)", "torch.exp(logvar)", VAE),
    mutant("scaling-factor-upside-down", "vae.py", "return z * self.config.scaling_factor", "return z / self.config.scaling_factor", VAE, IMAGES),
    mutant("sine-first", "embeddings.py", "[angles.cos(), angles.sin()]", "[angles.sin(), angles.cos()]", EMBEDDINGS),
    mutant("frequency-shift", "embeddings.py", "* i / half)", "* i / (half - 1))", EMBEDDINGS),
    mutant("no-silu-before-time-projection", "unet.py", "self.time_emb_proj(F.silu(emb))", "self.time_emb_proj(emb)", UNET),
    mutant("skip-before-features", "unet.py", "torch.cat([h, skip], dim=1)", "torch.cat([skip, h], dim=1)", UNET),
    mutant("bilinear-upsampling", "unet.py", 'mode="nearest"', 'mode="bilinear"', UNET),
    mutant("residual-after-norm", "attention.py", "x = x + self.attn1(self.norm1(x))", "x = self.norm1(x) + self.attn1(self.norm1(x))", ATTENTION),
    mutant("height-and-width-swapped", "attention.py", "reshape(b, c, h, w)", "reshape(b, c, w, h).transpose(2, 3)", ATTENTION),
    # Text
    mutant("no-causal-mask", "clip.py", "is_causal=True", "is_causal=False", CLIP),
    mutant("exact-for-quick-gelu", "clip.py", "if self.quick else", "if not self.quick else", CLIP),
    mutant("pooled-at-the-last-token", "clip.py", "end = (ids if eos is None else (ids == eos).int()).argmax(dim=1)", "end = torch.full((len(ids),), ids.shape[1] - 1, device=ids.device)", CLIP),
    mutant("last-for-penultimate", "text.py", "states.hidden[-2 - clip_skip]", "states.last", SYSTEMS, TEXT),
    mutant("encoded-empty-text-for-zeros", "utils/pipeline_inputs.py", "if negatives is None and not spec.zero_negative:", "if negatives is None:", SYSTEMS),
    mutant("sizes-before-pooled-text", "embeddings.py", "torch.cat([pooled.to(torch.promote_types(pooled.dtype, embedded.dtype)), embedded], -1)", "torch.cat([embedded, pooled.to(torch.promote_types(pooled.dtype, embedded.dtype))], -1)", EMBEDDINGS),
    # Schedule and samplers
    mutant("end-clean-for-first", "schedule.py", "Point(0.0, *self.at(0))", "Point(-1.0, torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64))", SAMPLERS),
    mutant("linear-for-scaled-linear", "schedule.py", 'power = 0.5 if self.kind == "scaled_linear" else 1.0', "power = 1.0", SCHEDULE),
    mutant("no-offset", "schedule.py", "first = min(steps_offset, ", "first = min(0, ", SCHEDULE),
    mutant("beta-for-posterior-variance", "samplers.py", "variance = (there.sigma / here.sigma) ** 2 * (1", "variance = 1 * (1", SAMPLERS),
    mutant("plms-without-the-second-call", "samplers.py", "if len(history) == 1 and len(path) > 2:", "if False:", SAMPLERS),
    mutant("heun-never-looks-ahead", "samplers.py", "        if there.sigma > 0:\n            z_euler = step_to", "        if False:\n            z_euler = step_to", SAMPLERS, LAWS),
    mutant("dpm-extrapolates-to-the-end", "samplers.py", "(lam - lam_previous) / 2 * (z_0", "(lam - lam_previous) * (z_0", SAMPLERS, LAWS),
    mutant("initial-noise-of-one", "samplers.py", 'return path[0].sigma if self.steps_in == "sigma" and spacing != "leading" else 1.0', "return 1.0", SAMPLERS, SYSTEMS),
    # Guidance, prediction, loss
    mutant("guidance-of-the-paper", "guidance.py", "torch.lerp(out_uncond, out_cond, scale)", "torch.lerp(out_uncond, out_cond, scale + 1)", PIPELINE),
    mutant("guidance-from-the-wrong-side", "guidance.py", "out_uncond, out_cond = model(", "out_cond, out_uncond = model(", PIPELINE),
    mutant("velocity-of-the-other-sign", "guidance.py", "point.alpha * z - point.sigma * output", "point.alpha * z + point.sigma * output", SAMPLERS),
    mutant("rescale-with-biased-spread", "guidance.py", "output.std(dim=dims, keepdim=True)", "output.std(dim=dims, keepdim=True, correction=0)", SAMPLERS),
    # Image-to-image, inpainting, ControlNet
    mutant("mask-after-the-hole", "inpainting.py", "[small.expand(len(masked), -1, -1, -1), masked]", "[masked, small.expand(len(masked), -1, -1, -1)]", IMAGES),
    mutant("mask-upside-down", "inpainting.py", "x * (1 - mask)", "x * mask", IMAGES),
    mutant("hint-in-minus-one-to-one", "controlnet.py", "self.controlnet_cond_embedding(hint.to(z.dtype))", "self.controlnet_cond_embedding(2 * hint.to(z.dtype) - 1)", CONTROLNET),
    mutant("hint-left-out", "controlnet.py", "h = self.conv_in(z) + self.controlnet_cond_embedding(hint.to(z.dtype))", "h = self.conv_in(z)", CONTROLNET),
    # Files
    mutant("decoder-levels-in-order", "weights/ldm_keys.py", 'f"decoder.up.{levels - 1 - b}"', 'f"decoder.up.{b}"', ORIGINALS),
    mutant("queries-and-keys-swapped", "weights/ldm_keys.py", '("q_proj", "k_proj", "v_proj")', '("k_proj", "q_proj", "v_proj")', ORIGINALS),
    mutant("projection-not-transposed", "weights/ldm_keys.py", "read().T.contiguous()", "read()", ORIGINALS),
)  # fmt: skip


def run(each: Mutant, python: str = sys.executable) -> str:
    """Make a mistake in a copy of the package and run its tests.

    Args:
        each: The mistake.
        python: The Python that runs the tests.

    Returns:
        The name of the first test that failed.

    Raises:
        AssertionError: If no test failed, or the mistake does not fit the code.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("sdlearn", "tests"):
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, ignore=ignore)
        shutil.copy(ROOT / "pyproject.toml", copy)
        (copy / "data").symlink_to(ROOT / "data")
        file = copy / "sdlearn" / each.file
        text = file.read_text(encoding="utf-8")
        found = text.count(each.right)
        assert found == 1, f"{each.name}: {each.file} has {each.right!r} {found} times, not once"
        file.write_text(text.replace(each.right, each.wrong), encoding="utf-8")
        command = [python, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *each.tests]
        environment = os.environ | {"PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    failed = [line[7:].split(" - ")[0] for line in lines if line.startswith("FAILED ")]
    assert done.returncode != 0, f"{each.name}: no test of {', '.join(each.tests)} failed"
    assert failed, f"{each.name}: the tests did not run:\n" + "\n".join(lines[-20:])
    return failed[0]


def main() -> int:
    """Run the mistakes and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="a mistake (default: all)")
    names = parser.parse_args().names
    known = {each.name for each in MUTANTS}
    unknown = set(names) - known
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; accepted: {', '.join(sorted(known))}")
    missed = 0
    for each in MUTANTS:
        if names and each.name not in names:
            continue
        try:
            print(f"{each.name:36} {run(each)}", flush=True)
        except AssertionError as error:
            missed += 1
            print(f"{each.name:36} NOT CAUGHT: {error}", flush=True)
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main())
