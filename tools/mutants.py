"""Mutation tests: put known mistakes into the reference code and check that the tests catch them.

    python tools/mutants.py            every mistake, one line each
    python tools/mutants.py NAME ...   these mistakes only

Real implementations of Stable Diffusion have made each of these mistakes. Each is put into a copy
of the package, and the tests that should catch it are run on the copy. It is an error if no test
fails, or if the mistake no longer fits the code.
"""

import argparse
import os
import re
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
EMBEDDING_RUNS = "tests/app/test_embedding_runs.py"
DREAMBOOTH_RUNS = "tests/app/test_dreambooth_runs.py"
PERSONAL_MODELS = "tests/app/test_personal_models.py"
DREAMBOOTH = "tests/laws/test_dreambooth.py"
LORA_RUNS = "tests/app/test_lora_runs.py"
LAWS = "tests/laws/test_samplers.py"
LOSS = "tests/laws/test_training.py"
SETS = "tests/laws/test_feature_sets.py"
LIBRARY_SETS = f"{PARITY}/test_feature_sets.py"
RESAMPLING = "tests/laws/test_resampling.py"
READING = "tests/app/test_background_judge.py"
SHARED = "tests/laws/test_distributed.py"
MEMORY = "tests/laws/test_less_memory.py"
SHARDED = "tests/laws/test_sharding.py"
LORA = "tests/laws/test_lora.py"
ADAPTERS = f"{PARITY}/test_adapter_files.py"
ADAPTER_FAULTS = "tests/app/test_adapter_faults.py"
FLOW = "tests/laws/test_flow.py"
FLOW_RUNS = "tests/app/test_flow_and_distill_runs.py"

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
    # Rectified flow
    mutant("latent-not-rescaled", "flow.py", "network(to_latent(x, t), timestep)", "network(x, timestep)", FLOW),
    mutant("path-from-pure-noise", "flow.py", "(1 - t) * x_0 + t * eps", "t * x_0 + (1 - t) * eps", FLOW),
    mutant("time-as-timestep", "flow.py", "torch.full((len(x),), point.t,", "torch.full((len(x),), 999 * t,", FLOW),
    mutant("shift-towards-the-image", "flow.py", "shift * t / (1 + (shift - 1) * t)", "t / (shift + (1 - shift) * t)", FLOW),
    mutant("lines-of-latents-not-rescaled", "recipes/distill.py", "latents.rows(rows).float() / norms.view(-1, 1, 1, 1)", "latents.rows(rows).float()", FLOW_RUNS),
    # Training in several processes, in parts, in half precision
    mutant("gradients-of-own-rows", "distributed.py", "gradient.copy_(values.view_as(gradient))", "pass", SHARED),
    mutant("gathered-rows-without-the-others-gradient", "distributed.py", "own_rows(average(gradient.contiguous()) * process_count())", "own_rows(gradient.clone())", SHARED),
    mutant("parts-not-divided", "recipes/denoising_step.py", "yield loss / recipe.accumulate", "yield loss", MEMORY),
    mutant("noise-of-the-first-part-for-all", "recipes/denoising_step.py", "eps[batch.places]", "eps[: len(batch.rows)]", MEMORY),
    mutant("scaled-gradients-clipped", "training.py", "scaler.unscale_(optimizer)", "pass", MEMORY),
    mutant("average-checkpoints-its-activations", "recipes/denoising_step.py", "checkpoint_activations(network)", "checkpoint_activations(average.module)", MEMORY),
    mutant("norm-of-own-part", "training.py", "whole(nn.utils.clip_grad_norm_(parameters, clip))", "(n := nn.utils.get_total_norm([getattr(x.grad, 'to_local', x.grad.clone)() for x in parameters]), nn.utils.clip_grads_with_norm_(parameters, clip, n))[0]", SHARDED),
    mutant("average-of-whole-weights", "recipes/denoising_step.py", "for each in (network, average.module):", "for each in (network,):", SHARDED),
    mutant("checkpoint-of-own-part", "utils/sharded_tensors.py", "x.full_tensor() if is_sharded(x) else x", "local(x)", SHARDED),
    mutant("nothing-shared-out", "utils/sharded_tensors.py", "distribute_tensor(x.to(other.dtype)", "distribute_tensor(0 * x.to(other.dtype)", SHARDED),
    # Image-to-image, inpainting, ControlNet
    mutant("mask-after-the-hole", "inpainting.py", "[small.expand(len(masked), -1, -1, -1), masked]", "[masked, small.expand(len(masked), -1, -1, -1)]", IMAGES),
    mutant("mask-upside-down", "inpainting.py", "x * (1 - mask)", "x * mask", IMAGES),
    mutant("hint-in-minus-one-to-one", "controlnet.py", "self.controlnet_cond_embedding(hint.to(z.dtype))", "self.controlnet_cond_embedding(2 * hint.to(z.dtype) - 1)", CONTROLNET),
    mutant("hint-left-out", "controlnet.py", "h = self.conv_in(z) + self.controlnet_cond_embedding(hint.to(z.dtype))", "h = self.conv_in(z)", CONTROLNET),
    # Low-rank adapters
    mutant("update-not-scaled", "lora.py", "return self.alpha / self.rank * change", "return change", LORA),
    mutant("a-and-b-at-zero", "lora.py", "nn.init.kaiming_uniform_(down, a=math.sqrt(5))", "nn.init.zeros_(down)", LORA),
    mutant("b-not-at-zero", "lora.py", "torch.zeros((c_out, rank", "torch.ones((c_out, rank", LORA),
    mutant("strides-of-a-kernel-forgotten", "lora.py", "None, stride, padding, dilation)", 'None, 1, "same")', LORA),
    mutant("compiled-network-accepted", "lora.py", "        check_not_compiled(network)\n", "", LORA),
    mutant("singular-values-on-one-side-only", "lora_merging.py", "down = (root[:, None] * v[:rank])", "down = v[:rank]", LORA),
    mutant("strengths-forgotten-in-a-stack", "lora_merging.py", "s * u.alpha / u.rank * u.up", "u.alpha / u.rank * u.up", LORA),
    mutant("hooked-convolution-prepacked", "utils/prepack.py", " and not conv._forward_hooks", "", LORA),
    mutant("alpha-of-a-file-ignored", "weights/adapter_metadata.py", "return float(alpha[0]) or float(rank)", "return float(rank)", ADAPTERS),
    mutant("adapter-projections-not-convolutions", "weights/adapter_saving.py", "if not linear and", "if linear and", ADAPTERS),
    mutant("sdxl-adapter-with-new-numbering", "weights/adapter_names.py", 'if place.part == "unet" and is_xl:', "if False:", ADAPTERS),
    mutant("left-over-tensors-accepted", "weights/adapter_files.py", "    if others:", "    if False:", ADAPTER_FAULTS),
    # Files
    mutant("decoder-levels-in-order", "weights/ldm_keys.py", 'f"decoder.up.{levels - 1 - b}"', 'f"decoder.up.{b}"', ORIGINALS),
    mutant("queries-and-keys-swapped", "weights/ldm_keys.py", '("q_proj", "k_proj", "v_proj")', '("k_proj", "q_proj", "v_proj")', ORIGINALS),
    mutant("projection-not-transposed", "weights/ldm_keys.py", "read().T.contiguous()", "read()", ORIGINALS),
    # Training of adapters
    mutant("text-adapter-without-gradient", "recipes/lora.py", "encode=recipe.text_encoder", "encode=not recipe.text_encoder", LORA_RUNS),
    mutant("new-rows-of-other-tokens", "textual_inversion.py", "place = ids - self.first", "place = ids - self.first - 1", EMBEDDING_RUNS),
    mutant("sizes-of-sdxl-in-another-order", "recipes/captioned_latents.py", "Sizes().row(self.size, self.size)", "Sizes().row(self.size, self.size).roll(2)", PERSONAL_MODELS),
    mutant("captions-of-a-word-from-the-cache", "recipes/embedding.py", "data.conditioning(batch, encode=True)", "data.conditioning(batch)", PERSONAL_MODELS),
    mutant("second-encoder-learns-nothing", "recipes/embedding.py", "pairs = zip(rows, encoders_of(text), strict=True)", "pairs = [*zip(rows, encoders_of(text), strict=True)][:1]", PERSONAL_MODELS),
    mutant("tokenizer-of-a-file-not-hashed", "recipes/base_model.py", "for each in (place, tokenizer) if each", "for each in (place,) if each", PERSONAL_MODELS),
    mutant("prior-not-weighted", "dreambooth.py", "loss + weight * losses[own:].mean()", "loss + losses[own:].mean()", DREAMBOOTH),
    mutant("rows-weighted-as-a-sum", "dreambooth.py", "weight * b / max(1, b - own)", "weight", DREAMBOOTH),
    mutant("class-images-among-the-own", "recipes/class_images.py", "n + others", "others % n", DREAMBOOTH_RUNS),
    mutant("weight-over-the-whole-batch", "recipes/personal_recipe.py", "float(weights[rows].sum()) / b", "float(weights[rows].mean())", DREAMBOOTH_RUNS),
    # Evaluation
    mutant("covariance-divided-by-n", "evaluation/frechet.py", "features.T.cov()", "features.T.cov(correction=0)", SETS),
    mutant("trace-of-the-product", "evaluation/frechet.py", 'torch.linalg.matrix_norm(product, "nuc")', "product.trace()", SETS),
    mutant("no-root-of-the-product", "evaluation/frechet.py", "values.clamp(min=0).sqrt()", "values.clamp(min=0)", SETS),
    mutant("line-in-n", "evaluation/frechet.py", "[1 / n for n in sizes]", "[float(n) for n in sizes]", SETS),
    mutant("biased-kid", "evaluation/kernel_distances.py", "if biased:", "if not biased:", SETS),
    mutant("kernel-without-dimensions", "evaluation/kernel_distances.py", "x @ y.T / x.shape[1] + 1", "x @ y.T + 1", LIBRARY_SETS),
    mutant("a-vector-is-its-own-neighbour", "evaluation/nearest_neighbours.py", "kthvalue(k + 1", "kthvalue(k", SETS),
    mutant("recall-in-real-balls", "evaluation/nearest_neighbours.py", "in_balls(reals, fakes, radii(fakes, k))", "in_balls(fakes, reals, radii(reals, k))", SETS),
    mutant("negative-cosines-count", "evaluation/clip_score.py", "cosines.clamp(min=0)", "cosines.abs()", LIBRARY_SETS),
    mutant("pairs-torn-apart", "evaluation/resampling.py", "value - ratio(b[rows], counts[rows])", "value - ratio(b[others], counts[others])", RESAMPLING),
    mutant("images-drawn-and-not-prompts", "evaluation/resampling.py", "sums, counts = totals([row for row in values if len(row)])", "sums, counts = totals([[x] for row in values for x in row])", RESAMPLING),
    mutant("mcnemar-one-sided", "evaluation/resampling.py", "min(1.0, 2 * tail / 2**n)", "min(1.0, tail / 2**n)", RESAMPLING),
    mutant("shadows-are-things", "evaluation/background_judge.py", " & apart(x, shade[:, None, None])", "", READING),
    mutant("aspect-ratio-lost", "evaluation/background_judge.py", "side = max(h, w)", "side = min(h, w)", READING),
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
    # ERROR is a fixture that the mistake breaks, if it names a test, and otherwise a file that can't
    # be imported.
    marks = re.compile(r"(?:FAILED|ERROR) (\S+::\S.*?)(?: - |$)")
    failed = [hit[1] for line in lines if (hit := marks.match(line))]
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
