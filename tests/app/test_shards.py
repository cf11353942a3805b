"""Shards: the images of tar files train what the same images in a folder train, to the bit."""

import io
import json
import shutil
import tarfile
import warnings
from importlib import util
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from safetensors.torch import load_file

from sdlearn.cli.main import main
from sdlearn.recipes import data, shard_index
from sdlearn.recipes.data import Batches, OwnImages, own_images
from sdlearn.recipes.shard_index import load_shards
from sdlearn.storybook import render
from sdlearn.utils.metrics_file import read_metrics
from tests.processes import sentences, torchrun
from tests.tiny_runs import CLIP, UNET, VAE, refused, sentence

TOGETHER = str(Path(__file__).resolve().parents[1] / "train_together.py")
CPU = torch.device("cpu")
SIDE = 32
N = 7  # images, in shards of 3
SMALL = {
    "vae": [*VAE, "--batch", "4", "--set", "block_out_channels=(8,8)", "--lr", "1e-4"],
    "clip": [
        *CLIP, "--batch", "4", "--set", "hidden_size=16", "--set", "num_layers=1",
        "--set", "intermediate_size=32", "--set", "image_width=8",
    ],
    "unet": [*UNET, "--batch", "4"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _as_in_a_new_process() -> None:
    own_images.cache_clear()


def images_of(place: str, cache: Path) -> OwnImages:
    own_images.cache_clear()
    return own_images(place, SIDE, cache)


def encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The same images in tmp_path/pictures and in tmp_path/shards/{000..002}.tar."""
    folder, shards = tmp_path / "pictures", tmp_path / "shards"
    folder.mkdir()
    shards.mkdir()
    with webdataset.ShardWriter(str(shards / "%03d.tar"), maxcount=3, verbose=0) as writer:
        for k in range(N):
            ending, kind = [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP")][k % 3]
            image = encoded(render(data.scene(k), 40).resize((40 + 8 * (k % 3), 48)), kind)
            text = f"a photograph of page {k}"
            (folder / f"{k}.{ending}").write_bytes(image)
            (folder / f"{k}.txt").write_text(text)
            beside = {"json": {"text": text, "url": "x"}} if k % 2 else {"txt": text}
            writer.write({"__key__": str(k), ending: image, **beside})
    return tmp_path


def pattern(own: Path) -> str:
    return str(own / "shards" / "{000..002}.tar")


def tar(file: Path, **members: bytes | str) -> str:
    """Write a shard of these members; a double underscore stands for the dot of a name."""
    with tarfile.open(file, "w") as out:
        for name, content in members.items():
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name.replace("__", "."))
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return str(file)


def states(run: Path) -> dict[str, torch.Tensor]:
    """All tensors of the last checkpoint."""
    last = max((run / "checkpoints").glob("step-*"))
    files = sorted(last.glob("*.safetensors"))
    return {f"{file.name} {key}": x for file in files for key, x in load_file(file).items()}


def same(one: Path, other: Path) -> None:
    a, b = states(one), states(other)
    assert a.keys() == b.keys()
    assert a
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


# ------------------------------------------------------------------------------- the same batches


def test_shards_and_a_folder_give_the_same_batches(own: Path) -> None:
    folder = images_of(str(own / "pictures"), own)
    shards = images_of(pattern(own), own)
    assert shards.captions == folder.captions
    assert shards.images.shape == (N, SIDE, SIDE, 3)
    assert np.array_equal(shards.images[:], folder.images)
    a, b = (Batches(each.images, 3, 5, CPU) for each in (folder, shards))
    for k in (0, 7, 3, 7):  # any batch, in any order
        assert torch.equal(a(k), b(k))
    assert len({tuple(a.indices(k)) for k in range(4)}) == 4


def test_rows_are_in_the_order_asked_for_whatever_the_number_of_threads(own: Path) -> None:
    one, four = (load_shards(pattern(own), SIDE, own, threads) for threads in (1, 4))
    rows = np.array([6, 0, 6, 2, 5, 1])
    assert np.array_equal(one[rows], four[rows])
    assert np.array_equal(one[rows], one[:][rows])
    assert one[:0].shape == (0, SIDE, SIDE, 3)
    with pytest.raises(IndexError):
        one[[N]]


def test_only_small_arrays_are_moved_to_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (400, 800))
    assert data.is_small(np.zeros(100, np.uint8), torch.device("cuda"))
    assert not data.is_small(np.zeros(101, np.uint8), torch.device("cuda"))
    assert not data.is_small(np.zeros(1, np.uint8), CPU)


def test_the_samples_are_those_of_webdataset(own: Path) -> None:
    images = load_shards(pattern(own), SIDE, own, 1).images
    theirs = list(webdataset.WebDataset(pattern(own), shardshuffle=False))
    assert len(theirs) == len(images) == N
    for sample, (file, image) in zip(theirs, images, strict=True):
        name, ending = image.name.split(".")
        assert (sample["__key__"], sample["__url__"]) == (name, str(file))
        found = file.read_bytes()[image.offset : image.offset + image.length]
        assert sample[ending] == found
        text = sample.get("txt") or json.loads(sample["json"])["text"].encode()
        assert text.decode() == image.caption


def test_the_key_is_of_the_contents_not_of_the_shards(own: Path) -> None:
    before = images_of(pattern(own), own).key
    with webdataset.ShardWriter(str(own / "all-%d.tar"), verbose=0) as writer:
        for sample in webdataset.WebDataset(pattern(own), shardshuffle=False):
            writer.write({k: v for k, v in sample.items() if k[0] != "_" or k == "__key__"})
    assert images_of(str(own / "all-0.tar"), own).key == before
    other = str(own / "shards" / "{000..001}.tar") + "::" + str(own / "shards" / "001.tar")
    assert images_of(other, own).key != before
    content = (own / "shards" / "002.tar").read_bytes()
    (own / "shards" / "002.tar").write_bytes(content.replace(b"of page 6", b"of page 9"))
    assert images_of(pattern(own), own).key != before


# ------------------------------------------------------------------------------ the same training


@pytest.mark.parametrize("part", SMALL)
def test_shards_train_the_weights_that_a_folder_trains(own: Path, part: str) -> None:
    for name, place in (("a", str(own / "pictures")), ("b", pattern(own))):
        own_images.cache_clear()
        args = [*SMALL[part], "--steps", "3", "--set", "warmup=1", "--set", f"size={SIDE}"]
        assert main([*args, "--data", place, "--out", str(own / name)]) == 0
    same(own / "a", own / "b")
    if part == "unet":
        index = json.loads((own / "b" / "export" / "model_index.json").read_text())
        assert index["_name_or_path"] == "shards"  # their folder


def test_a_training_on_shards_goes_on_at_its_step(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [*SMALL["vae"], "--steps", "4", "--set", "warmup=1", "--set", f"size={SIDE}"]
    args += ["--data", pattern(own)]
    assert main([*args, "--out", str(own / "straight")]) == 0
    assert main([*args, "--out", str(own / "run"), "--minutes", "0.00001"]) == 0
    assert read_metrics(own / "run" / "metrics.jsonl")[0][-1]["step"] < 4
    moved = own / "elsewhere"
    (own / "shards").rename(moved)
    own_images.cache_clear()
    resume = [*args[:-2], "--out", str(own / "run"), "--resume"]
    assert "000.tar does not exist; accepted: a shard" in sentence(resume, capsys)
    assert main([*resume, "--data", str(moved / "{000..002}.tar")]) == 0
    same(own / "straight", own / "run")
    shutil.copy(moved / "000.tar", moved / "002.tar")
    own_images.cache_clear()
    said = sentence([*resume, "--data", str(moved / "{000..002}.tar")], capsys)
    assert "started with another version of its images" in said


@pytest.mark.slow
def test_two_processes_on_shards_train_what_one_trains_on_a_folder(own: Path) -> None:
    for count, place in ((1, str(own / "pictures")), (2, pattern(own))):
        commands = []
        for part in ("vae", "unet"):
            args = [*SMALL[part], "--steps", "5", "--set", "warmup=1", "--set", f"size={SIDE}"]
            args += ["--data", place, "--out", str(own / str(count) / part), "--lr", "1e-4"]
            commands.append(json.dumps(args))
        done = torchrun(count, TOGETHER, "float64", *commands)
        assert done.returncode == 0, done.stderr[-3000:]
    for part in ("vae", "unet"):
        a, b = states(own / "1" / part), states(own / "2" / part)
        assert a.keys() == b.keys()
        x, y = (torch.cat([s[key].double().flatten() for key in a]) for s in (a, b))
        assert float((x - y).norm() / x.norm()) < 1e-12


# --------------------------------------------------------------------------------------- the index


def test_a_shard_is_read_through_once_and_a_damaged_index_is_made_again(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = images_of(pattern(own), own)
    kept = sorted(own.glob("shard-*.json"))
    assert len(kept) == 3
    with monkeypatch.context() as patched:
        patched.setattr(shard_index, "index_shard", lambda *_: 1 / 0)
        assert images_of(pattern(own), own).key == good.key
    row = json.loads(kept[0].read_text())
    row[0][0][1] = "far"
    for damage in ("", "{}", "[[], []]", "[[[1, 2]], [], []]", json.dumps(row)):
        kept[0].write_text(damage)
        with pytest.warns(UserWarning, match=r"shard-\w+.json is damaged; it is made again"):
            assert images_of(pattern(own), own).key == good.key


def test_an_image_that_has_changed_behind_the_index_is_named(own: Path) -> None:
    images = images_of(pattern(own), own).images
    (file, image), *_ = images.images
    content = bytearray(file.read_bytes())
    content[image.offset + image.length // 2] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"000.tar: 0.png has changed since the training began"):
        images[:2]
    assert len(images[1:]) == N - 1


# ------------------------------------------------------------------------------------- bad shards

PNG = encoded(Image.new("RGB", (SIDE, SIDE), "red"), "PNG")


@pytest.mark.parametrize(
    ("members", "said"),
    [
        (
            {"0__png": PNG},
            "has no image with a caption; accepted: a caption 0001.txt, or 0001.json",
        ),
        ({"0__txt": "x"}, "has no image with a caption"),
        ({}, "has no image with a caption"),
        ({"0__png": b"no", "0__txt": "x"}, "s.tar has no image that can be read; accepted"),
        ({"0__png": PNG, "0__txt": ""}, "s.tar: 0.txt has 0 lines of text; accepted: one caption"),
        ({"0__png": PNG, "0__txt": "a\nb"}, "s.tar: 0.txt has 2 lines of text; accepted: one"),
        ({"0__png": PNG, "0__txt": b"\xff"}, "s.tar: 0.txt is not UTF-8 text"),
        ({"0__png": PNG, "0__json": "{"}, "s.tar: 0.json is not JSON"),
        (
            {"0__png": PNG, "0__json": "[]"},
            "s.tar: 0.json is not a JSON object; accepted: 0001.jpg",
        ),
        ({"0__png": PNG, "0__json": '{"text": 3}'}, "s.tar: 0.json has no text (the caption)"),
        ({"0__png": PNG, "0__txt": "a", "0__caption": "b"}, "0.png has the captions 0.txt and 0.c"),
        ({"0__png": PNG, "0__jpg": PNG, "0__txt": "a"}, "s.tar has 0.png and 0.jpg for one sample"),
    ],
)
def test_a_bad_member_is_named_with_its_shard(
    members: dict[str, bytes | str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tar(tmp_path / "s.tar", **members)
    args = [*SMALL["vae"], "--out", str(tmp_path / "run"), "--data", place]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert said in sentence(args, capsys)
    assert not (tmp_path / "run" / "recipe.json").exists()


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("{own}/{0..2}.tar", "0.tar does not exist; accepted: a shard, which is a .tar"),
        ("{own}/shards/{000..003}.tar", "003.tar does not exist; accepted: a shard"),
        ("{own}/shards/{000..002.tar", "in which a brace is not closed; accepted: a pattern such"),
        ("{own}/shards/{0..999999999}.tar", "1,000,000,000 shards; accepted: at most 100,000"),
        ("{own}/shards/{0..9999}{0..9999}.tar", "100,000,000 shards; accepted: at most 100,000"),
        ("{own}/packed.tar.gz", "packed.tar.gz is not a .tar file; accepted: uncompressed shards,"),
        ("{own}/words.tar", "words.tar cannot be read as a tar file"),
        ("{own}/cut.tar", "cut.tar cannot be read as a tar file: unexpected end of data"),
        ("{own}/short.tar", "short.tar is cut short: its end is missing; accepted: a whole .tar"),
        ("{own}/empty.tar", "empty.tar cannot be read as a tar file: empty file"),
        ("https://example.org/{0..9}.tar", "accepted: shards on a local disk"),
        ("pipe:cat {0..9}.tar", "accepted: shards on a local disk"),
    ],
)
def test_a_bad_pattern_or_shard_is_named(
    place: str, said: str, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (own / "shards" / "000.tar").read_bytes()
    (own / "packed.tar.gz").write_bytes(whole)
    (own / "words.tar").write_text("words " * 500)
    with tarfile.open(own / "shards" / "000.tar") as tarred:
        last = tarred.getmembers()[2]
    (own / "cut.tar").write_bytes(whole[: last.offset_data + 9])
    (own / "short.tar").write_bytes(whole[: last.offset])  # whole members, and no end
    (own / "empty.tar").write_bytes(b"")
    args = [*SMALL["vae"], "--out", str(own / "run"), "--data", place.replace("{own}", str(own))]
    line = refused(args, capsys)
    assert said in line
    if "data is" in line:
        assert line.startswith("sdlearn: --data is ")
    assert not (own / "run" / "recipe.json").exists()


def test_what_cannot_be_used_is_skipped_with_a_warning_as_in_a_folder(tmp_path: Path) -> None:
    blue = encoded(Image.new("RGB", (16, 48), "blue"), "PNG")
    place = tar(
        tmp_path / "s.tar", a__png=PNG, a__txt="red", b__png=b"no image", b__txt="broken",
        c__png=PNG, d__png=blue, d__txt="blue", e__json="{}", f__png=PNG[:60], f__txt="cut",
        a__seg__png=PNG, LICENSE="words",
    )  # fmt: skip
    folder = tmp_path / "pictures"
    folder.mkdir()
    with tarfile.open(place) as tarred:
        tarred.extractall(folder, filter="data")
    (folder / "a.seg.png").unlink()
    found = []
    for where in (place, str(folder)):
        with pytest.warns(UserWarning, match="skipped|enlarged") as caught:
            own = images_of(where, tmp_path)
        assert own.captions == ["red", "blue"]
        assert np.array_equal(own.images[:][:, 0, 0], [(255, 0, 0), (0, 0, 255)])
        found.append(sorted(str(each.message) for each in caught))
    shard, files = ([line.replace(s, "X") for line in lines] for lines, s in (
        (found[0], f"{place}: "), (found[1], f"{folder}/"),
    ))  # fmt: skip
    assert [line.replace(place, "X") for line in shard] == [
        line.replace(str(folder), "X") for line in files
    ]
    assert any("images smaller than 32 pixels, which were enlarged: 1 in all" in x for x in shard)
    assert any(
        "without a caption file, which were skipped: 1 in all, ['c.png']" in x for x in shard
    )
    assert sum("cannot be read as an image and was skipped" in line for line in shard) == 2


def test_webdataset_must_be_installed(
    own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = util.find_spec
    monkeypatch.setattr(
        "sdlearn.storybook.shards.find_spec", lambda x: None if x == "webdataset" else find(x)
    )
    args = [*SMALL["vae"], "--out", str(own / "run"), "--data", pattern(own)]
    assert "install it with `pip install sdlearn[shards]`" in refused(args, capsys)


@pytest.mark.slow
def test_one_of_two_processes_says_what_is_wrong(own: Path) -> None:
    args = [*SMALL["vae"], "--out", str(own / "run"), "--data", str(own / "{0..1}.tar")]
    done = torchrun(2, "-m", "sdlearn", *args)
    assert done.returncode
    assert sentences(done.stderr) == [
        f"sdlearn: {own / '0.tar'} does not exist; accepted: a shard, which is a .tar"
    ]
