"""How much memory images need, against numbers by hand, and how much there is."""

import pytest

from sdlearn.utils import memory
from sdlearn.versions import SPECS


def test_memory_of_the_published_sizes():
    """By hand, SD 1.5 at 512²: two skip connections and sixteen times 320 channels of 64², float32;
    two maps of 256 channels in the decoder."""
    unet, vae = SPECS["sd1.5"].unet, SPECS["sd1.5"].vae
    sizes = unet.block_out_channels, unet.layers_per_block, unet.cross_attention
    assert memory.unet_bytes(*sizes, (64, 64), 4) == 18 * 320 * 64**2 * 4
    assert memory.unet_bytes(*sizes, (64, 64), 2) == 18 * 320 * 64**2 * 2
    # One row of latents is not halved further: the deepest level has as many, of 1280 channels.
    assert memory.unet_bytes((8, 32), 1, (False, True), (1, 1), 4) == (2 * 8 + 17 * 32) * 4
    assert memory.vae_bytes(vae.block_out_channels, (512, 512), 4) == 2 * 256 * 512**2 * 4
    assert memory.image_bytes((512, 256)) == 3 * 5 * 512 * 256


def test_memory_at_the_limit():
    memory.check_fits((8, 8), 1, 1000, 1000)
    memory.check_fits((8, 8), 1, 10**30, None)
    said = (
        "drawing one image of height 8 and width 16 at a time needs at least 1.5 GiB of memory, "
        "but only 2.0 KiB is free; give a smaller size, fewer images or fewer prompts"
    )
    with pytest.raises(ValueError, match=f"^{said}$"):
        memory.check_fits((8, 16), 1, 3 * 2**29, 2048)


@pytest.mark.parametrize(
    ("meminfo", "limit", "free"),
    [
        ("MemTotal: 9 kB\nMemAvailable: 5 kB\nSwapFree: 2 kB\nHugePages_Total: 0", None, 7 * 1024),
        ("MemAvailable: 5 kB", "max\n", 5 * 1024),
        ("MemAvailable: 5 kB", "1024\n", 1024),
    ],
)
def test_free_memory(meminfo, limit, free, tmp_path, monkeypatch):
    for name, text in (("MEMINFO", meminfo), ("CONTAINER", limit)):
        monkeypatch.setattr(memory, name, tmp_path / name)
        if text is not None:
            (tmp_path / name).write_text(text)
    assert memory.free_memory() == free


def test_free_memory_of_another_system(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 3}.get, False)
    assert memory.free_memory() == 3 * 4096
    monkeypatch.delattr(memory.os, "sysconf")  # as on Windows
    assert memory.free_memory() is None
