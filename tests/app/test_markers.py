"""ControlNets whose file says that their weights are meant for another computation."""

import pytest
import torch
from safetensors.torch import save_file

from sdlearn import weights
from sdlearn.controlnet import ControlNet
from tests.parity.oracle import randomise
from tests.tiny_original import TINY1, equal, original

HINTS = (16, 32, 96, 256)
# What is beside the weights, the file's name, and what the sentence says; None if it is read.
FILES = {
    "plain": ({}, "control_v11p_sd15_canny.safetensors", None),
    "a pickle": ({}, "control_v11p_sd15_canny.pth", None),
    "in half of a word": ({}, "reshuffled.safetensors", None),
    "a difference": (
        {"difference": torch.tensor(1.0)},
        "diff_control_sd15_canny_fp16.safetensors",
        "as its difference from the U-Net",
    ),
    "an empty marker": (
        {"difference": torch.zeros(0)},
        "control.safetensors",
        "as its difference from the U-Net",
    ),
    "shuffled images": ({}, "control_v11e_sd15_shuffle.pth", "global_pool=True"),
    "in half precision": ({}, "control_v11e_sd15_shuffle_fp16.safetensors", "for shuffled images"),
}


@pytest.mark.parametrize("prefix", ["control_model.", ""])
@pytest.mark.parametrize("kind", FILES)
def test_a_controlnet_for_another_computation(tmp_path, kind, prefix):
    beside, name, complaint = FILES[kind]
    network = randomise(ControlNet(TINY1.unet, HINTS), 1)
    state = original(network, prefix) | beside
    path = tmp_path / name
    torch.save(state, path) if path.suffix == ".pth" else save_file(state, path)
    filled = randomise(ControlNet(TINY1.unet, HINTS), 2)
    if complaint is None:
        weights.load(filled, path)
        assert equal(filled, network)
        assert equal(ControlNet.from_pretrained(path, spec=TINY1), network)
        return
    with pytest.raises(ValueError, match=complaint):
        weights.load(filled, path)
    if "shuffle" in name:
        pooled = ControlNet.from_pretrained(path, spec=TINY1)
        assert pooled.global_pool
        assert equal(pooled, network)
        return
    with pytest.raises(ValueError, match=complaint):
        ControlNet.from_pretrained(path, spec=TINY1)
