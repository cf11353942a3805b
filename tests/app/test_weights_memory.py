"""Loading needs the memory of the weights once, at full size.

Measured is the peak of the resident memory of a process of its own, above what it had before
loading. Pages of a file that is mapped count as resident, too, though the system may take them
back: a loader that maps the file and copies from it shows twice the weights here. Nothing is mapped
now, and the tests say so: after loading, the weights lie in the process's own memory.

The files are sparse: they hold a number at both ends of every tensor, and zeros between.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch

from sdlearn.versions import SD1_5
from sdlearn.weights.ldm_keys import key_map
from sdlearn.weights.single_file import new_parts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's account of memory"),
]
MODEST = 1.15  # times the weights
HALF = torch.float16

# What the process does; it prints bytes.
LOADING = """
import json, sys
import torch
from sdlearn import weights
from sdlearn.clip import CLIPTextEncoder
from sdlearn.unet import UNet
from sdlearn.versions import SD1_5

def memory():
    lines = open("/proc/self/status").read().splitlines()
    table = dict(line.split(":") for line in lines if line.endswith(" kB"))
    return {key: int(value.split()[0]) * 1024 for key, value in table.items()}

what, path = sys.argv[1:]
with torch.device("meta"):
    unet, text = UNet(SD1_5.unet).half(), CLIPTextEncoder(SD1_5.text[0])
if what == "filled":
    unet = unet.to_empty(device="cpu")
    for parameter in unet.parameters():
        parameter.data.zero_()
before = memory()
if what == "text":
    weights.load(text, path)
    modules = [text]
elif what == "original":
    parts = weights.load_original("sd1.5", path, dtype=torch.float16)
    modules = [parts.unet, parts.vae, *parts.encoders]
else:
    weights.load(unet, path)
    modules = [unet]
after = memory()
state = {k: v for n, m in enumerate(modules) for k, v in m.state_dict(prefix=f"{n}.").items()}
print(json.dumps({
    "size": sum(tensor.nbytes for tensor in state.values()),
    "peak": after["VmHWM"] - before["VmRSS"],
    "own": after["RssAnon"] - before["RssAnon"],
    "of files": after["RssFile"] - before["RssFile"],
    "ends": {key: [v.flatten()[0].item(), v.flatten()[-1].item()] for key, v in state.items()},
}))
"""


def load(what, path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", LOADING, what, str(path)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def write_sparse(path, shapes):
    """A safetensors file of half precision; tensor number k begins and ends with k."""
    header, start = {}, 0
    for name, shape in shapes.items():
        end = start + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for number, entry in enumerate(header.values()):
            mark = torch.tensor(number, dtype=HALF).numpy().tobytes()
            for place in (entry["data_offsets"][0], entry["data_offsets"][1] - 2):
                file.seek(8 + len(text) + place)
                file.write(mark)


def full_size(module, rename):
    """Names and shapes in the file of a module; the U-Net's and the autoencoder's linear layers
    between convolutions are convolutions there."""
    ours = module.state_dict()
    return {
        name: tuple(ours[key].shape) + ((1, 1) if is_convolution(key, ours[key]) else ())
        for key, name in rename.items()
    }


def is_convolution(key, tensor):
    inner = ("proj_in.weight", "proj_out.weight", "to_q.weight", "to_k.weight", "to_v.weight")
    return tensor.ndim == 2 and (
        key.endswith(inner[:2])
        or (key.startswith(("encoder.mid", "decoder.mid")) and key.endswith((*inner, "0.weight")))
    )


@pytest.fixture(scope="module")
def unet_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("half") / "diffusion_pytorch_model.safetensors"
    unet = new_parts(SD1_5, HALF).unet
    write_sparse(path, full_size(unet, {key: key for key in unet.state_dict()}))
    return path


def check_ends(ends):
    for number, (key, pair) in enumerate(ends.items()):
        assert pair == [number, number], key


def test_a_unet_without_memory_gets_it_once(unet_file):
    result = load("unet", unet_file)
    assert result["size"] == 2 * 859_520_964
    assert result["peak"] < MODEST * result["size"]
    assert result["own"] > 0.99 * result["size"]
    assert result["of files"] < 0.05 * result["size"]
    check_ends(result["ends"])


def test_a_unet_that_has_memory_needs_no_more(unet_file):
    result = load("filled", unet_file)
    assert result["peak"] < (MODEST - 1) * result["size"]
    check_ends(result["ends"])


def test_an_original_file(tmp_path):
    parts = new_parts(SD1_5, HALF)
    prefixes = {
        "model.diffusion_model.": parts.unet,
        "first_stage_model.": parts.vae,
        "cond_stage_model.transformer.text_model.": parts.encoders[0],
    }
    shapes = {}
    for prefix, module in prefixes.items():
        rename = {key: prefix + name for key, name in key_map(module).items()}
        shapes |= full_size(module, rename)
    write_sparse(tmp_path / "v1-5-pruned-emaonly.safetensors", shapes)
    result = load("original", tmp_path / "v1-5-pruned-emaonly.safetensors")
    assert result["size"] == 2 * 1_066_235_307
    assert result["peak"] < MODEST * result["size"]
    assert result["of files"] < 0.05 * result["size"]
    check_ends(result["ends"])


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "before torch 1.6"])
def test_a_pickle(tmp_path, archive):
    """Of an archive only what is needed is read, not what a training left beside it; an older
    pickle is read as a whole, and every tensor is then handed over."""
    text = new_parts(SD1_5, torch.float32).encoders[0]
    state = {
        "text_model." + key: torch.full(value.shape, float(number))
        for number, (key, value) in enumerate(text.state_dict().items())
    }
    # What a training library leaves is read past in either form.
    leftovers = {"global_step": numpy.int64(5), "options": argparse.Namespace(lr=1e-4)}
    content = {"state_dict": state, **leftovers}
    if archive:
        content["averages"] = {k: v + 1 for k, v in state.items()}
    path = tmp_path / "pytorch_model.bin"
    torch.save(content, path, _use_new_zipfile_serialization=archive)
    result = load("text", path)
    # Older torch reads an archive's numbers even where map_location says "meta", and drops them.
    reads_all = archive and not hasattr(torch.serialization, "_is_meta_location")
    assert result["size"] == 4 * 123_060_480
    assert result["peak"] < (MODEST + 2 * reads_all) * result["size"]
    check_ends(result["ends"])


def test_networks_without_memory_need_no_compiler():
    """Torch's functions of initial values would import it on the meta device, in seconds."""
    code = (
        "import sys; from sdlearn.utils.device import without_memory\n"
        "import torch\n"
        "with without_memory():\n"
        "    parts = torch.nn.Embedding(3, 4), torch.nn.Linear(3, 4), torch.nn.Conv2d(3, 4, 1)\n"
        "assert all(p.is_meta for part in parts for p in part.parameters())\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "assert torch.nn.Linear(3, 4).weight.std() > 0\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
