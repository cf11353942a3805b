"""Published pickles: what trainings leave in them is read past, and nothing in them runs.

The foreign classes are made here, in modules that exist only while a file is written, so the files
name what published ones name and no library of theirs is needed.
"""

import argparse
import datetime
import enum
import io
import os
import pathlib
import pickle
import struct
import sys
import types
import typing
import uuid
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from contextlib import contextmanager

import numpy
import pytest
import torch

from sdlearn.weights.pickle_names import names_in_pickle
from sdlearn.weights.tensor_files import open_weights

WAYS = pytest.mark.parametrize("zipped", [True, False], ids=["archive", "before torch 1.6"])


@contextmanager
def foreign(*names):
    """Classes under these dotted names, whose modules exist inside only. A name may give a base."""
    modules, classes = {}, []
    for name, base in (each if isinstance(each, tuple) else (each, object) for each in names):
        module, last = name.rsplit(".", 1)
        folders = module.split(".")
        for k in range(1, len(folders) + 1):
            path = ".".join(folders[:k])
            modules.setdefault(path, types.ModuleType(path))
        made = type(last, (base,), {"__module__": module})
        setattr(modules[module], last, made)
        classes.append(made)
    saved = {name: sys.modules[name] for name in modules if name in sys.modules}
    sys.modules.update(modules)
    try:
        yield classes
    finally:
        for name in modules:
            del sys.modules[name]
        sys.modules.update(saved)


def with_state(made, **state):
    instance = made()
    instance.__dict__.update(state)
    return instance


def noted(instance):
    """With an attribute, beside what it holds."""
    instance.note = "x"
    return instance


@pytest.fixture
def weights():
    torch.manual_seed(0)
    return OrderedDict(a=torch.randn(3, 4), b=torch.nn.Parameter(torch.randn(2)))


def write(path, content, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def check(path, weights):
    found = open_weights(path)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key].read(), weights[key].detach()) for key in weights)


# ------------------------------------------------------------------------- what trainings leave


def lightning_1_4(weights):
    """As v1-4 and v1-5-pruned: callbacks by class, NumPy numbers, the optimizer's state."""
    with foreign(
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    ) as (checkpoint, stopping):
        adam = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])
        adam.param_groups[0]["params"][0].grad = torch.ones(2)
        adam.step()
        yield {
            "epoch": 3,
            "global_step": numpy.int64(470_000),
            "pytorch-lightning_version": "1.4.2",
            "state_dict": weights,
            "callbacks": {
                checkpoint: {
                    "best_model_score": torch.tensor(0.1),
                    "current_score": numpy.float64(0.2),
                    "monitor": "val/loss",
                },
                stopping: {"wait_count": numpy.array([1, 2])},
            },
            "optimizer_states": [adam.state_dict()],
            "lr_schedulers": [{"base_lrs": [1e-4], "lr_lambdas": [{}], "_last_lr": [1e-4]}],
            "loops": None,
        }


def configurations(weights):
    """omegaconf's objects, with the types that their metadata name."""
    names = "dictconfig.DictConfig", "listconfig.ListConfig", "nodes.AnyNode"
    names = tuple(f"omegaconf.{name}" for name in names)
    with foreign(*names, "omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata") as made:
        mapping, sequence, node, container, metadata = made
        about = with_state(
            container, ref_type=typing.Any, object_type=dict, key_type=int, element_type=str
        )
        leaf = with_state(node, _val=4, _metadata=with_state(metadata, optional=True, key="n"))
        values = {"n": leaf, "list": with_state(sequence, _content=[leaf], _metadata=about)}
        config = with_state(mapping, _content=values, _metadata=about, _parent=None)
        yield {"state_dict": weights, "hyper_parameters": config, "cfg": {"model": config}}


def dictionaries(weights):
    """Dictionaries and lists of types that torch does not fill itself."""
    with foreign(
        ("pytorch_lightning.utilities.parsing.AttributeDict", dict),
        ("lightning.fabric.utilities.data.AttributeDict", dict),
        ("easydict.EasyDict", dict),
        ("diffusers.configuration_utils.FrozenDict", OrderedDict),
        ("__main__.Configuration", dict),
        ("omegaconf.Numbers", list),
        ("__main__.History", list),
    ) as classes:
        *made, _, _ = classes
        lists = classes[-2:]
        yield {
            "state_dict": weights,
            "hyper_parameters": [noted(each(a=1, b=each())) for each in made],
            "counts": defaultdict(list, {"x": [1]}),
            "queue": deque([1, 2], maxlen=3),
            "words": Counter("abba"),
            "nested": [each([made[0](a=1)]) for each in lists],
        }


def values(weights):
    """Values of the standard library and of NumPy."""
    with foreign("pytorch_lightning.trainer.states.Unused") as _:
        state = enum.Enum("TrainerFn", {"FIT": "fit"}, module="pytorch_lightning.trainer.states")
        state.__qualname__ = "TrainerFn"
        sys.modules["pytorch_lightning.trainer.states"].TrainerFn = state
        yield {
            "state_dict": weights,
            "options": argparse.Namespace(lr=1e-4, out=pathlib.PurePosixPath("logs/a")),
            "when": [
                datetime.datetime(2022, 8, 10, tzinfo=datetime.UTC),
                datetime.timedelta(hours=3),
            ],
            "run": uuid.UUID(int=5),
            "state": {state.FIT: 1},
            "numbers": [numpy.float32(1), numpy.bool_(True), numpy.arange(3), numpy.dtype("f2")],
            "random": numpy.random.default_rng(0),
            "sets": [{1, 2}, frozenset([3]), slice(1, 2), range(4), 1j, b"bytes", bytearray(b"x")],
            "types": [int, float, str, list, dict, set, typing.Any, type(None), numpy.float32],
            "hints": [typing.Optional[int], dict[str, float], typing.List[int]],  # noqa: UP006, UP045
            "torch": [torch.__version__, torch.float16, torch.device("cpu"), torch.Size([2])],
            "more": types.SimpleNamespace(a=1),
        }


def script(weights):
    """A class of the script that trained."""
    with foreign("ldm.lr_scheduler.LambdaLinearScheduler", "__main__.ImageLogger") as made:
        yield {"state_dict": weights, "callbacks": [with_state(each, a=1) for each in made]}


TRAININGS = [lightning_1_4, configurations, dictionaries, values, script]


@WAYS
@pytest.mark.parametrize("training", TRAININGS, ids=lambda each: each.__name__)
def test_what_trainings_leave_beside_the_weights(tmp_path, weights, training, zipped):
    for content in training(weights):
        write(tmp_path / "model.ckpt", content, zipped)
    assert "pytorch_lightning" not in sys.modules
    check(tmp_path / "model.ckpt", weights)


@WAYS
def test_the_real_class_is_never_used(tmp_path, weights, zipped):
    """Even where the library is installed, and where the process permits its class to torch."""
    name = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"
    with foreign(name) as (real,):
        used = []
        instance = with_state(real, a=1)
        write(tmp_path / "model.ckpt", {"state_dict": weights, "callback": instance}, zipped)
        real.__setstate__ = lambda self, state: used.append(state)
        real.__new__ = lambda cls, *_: used.append(cls)
        before = set(torch.serialization.get_safe_globals())
        with torch.serialization.safe_globals([real]):
            check(tmp_path / "model.ckpt", weights)
            assert set(torch.serialization.get_safe_globals()) == {real, *before}
        assert used == []
    assert set(torch.serialization.get_safe_globals()) == before


@WAYS
def test_where_the_weights_are(tmp_path, weights, zipped):
    """The content itself, its state_dict, the state_dict of that, or the one dictionary of them."""
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    for content in (
        weights,
        weights | {"epoch": 3, "loss": 0.5, "name": "mine", "best": True, "note": None},
        {"state_dict": weights, "ema": {k: v + 1 for k, v in weights.items()}},
        {"state_dict": {"state_dict": weights}},
        {"model": weights, "optimizer": optimizer, "step": 5},
        {"module": weights, "ds_version": "0.9", "lr_scheduler": None},
        {"ema": weights, "rng": {"cpu": torch.zeros(5)}},
    ):
        check(write(tmp_path / "model.pt", content, zipped), weights)


PLAIN = "expected tensors by name"
NO_STATE = {
    "two sets": (
        {"model": {"a": torch.ones(2)}, "ema": {"a": torch.zeros(2)}},
        "holds several sets of weights, 'model' and 'ema', and does not say which to use",
    ),
    "a dictionary": ({"a": torch.ones(2), "n": {}}, f"'n' is of the type dict; {PLAIN}"),
    "an array": (
        {"a": torch.ones(2), "n": numpy.ones(2)},
        f"'n' is an object of its training; {PLAIN}",
    ),
    "numbers for names": ({0: torch.ones(2)}, "has 0 where the name of a tensor is expected"),
    "sparse": (
        {"a": torch.eye(3).to_sparse()},
        f"'a' is a tensor on .* torch.sparse_coo, torch.float32, not plain numbers; {PLAIN}",
    ),
    "negated": ({"a": torch.ones(2, dtype=torch.cfloat).conj().imag}, "'a' is a tensor on"),
    "without values": ({"a": torch.ones(2, device="meta")}, "'a' is a tensor on meta, "),
    "nothing": ({}, f"pickle of something else; {PLAIN}"),
    "an empty state_dict": ({"state_dict": {}, "epoch": 3}, f"pickle of something else; {PLAIN}"),
    "a list": ([torch.ones(2)], f"pickle of something else; {PLAIN}"),
    "a long name": (
        {"a": torch.ones(2), "n" * 9999: []},
        f"\\.\\.\\.n+' is of the type list; {PLAIN}",
    ),
}


@WAYS
@pytest.mark.parametrize("kind", NO_STATE)
def test_pickles_without_plain_tensors_by_name(tmp_path, kind, zipped):
    content, words = NO_STATE[kind]
    path = write(tmp_path / "model.pt", content, zipped)
    with pytest.raises(ValueError, match=words) as caught:
        open_weights(path)
    check_sentence(caught.value, path)


def test_a_pickle_that_holds_itself(tmp_path):
    content = {}
    content["state_dict"] = content
    with pytest.raises(ValueError, match="pickle of something else"):
        open_weights(write(tmp_path / "model.pt", content))


def check_sentence(error, path):
    """One sentence of bounded length that does not advise to switch a protection off."""
    said = str(error)
    assert said.startswith(str(path))
    assert "\n" not in said
    assert len(said) < len(str(path)) + 400
    for advice in ("weights_only", "safe_globals", "trust", "allowlist", "False"):
        assert advice not in said


# ------------------------------------------------------------------------------------------ bombs


class Call:
    """Pickled as the call of a function, or of what the function returns."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


MARK = "executed"  # the file that a bomb leaves in the working folder
SHELL, CODE = f"touch {MARK}", f"open({MARK!r}, 'w')"


def protocol_2(body):
    """A pickle of these instructions."""
    return b"\x80\x02" + body + b"."


def text(string):
    return b"X" + struct.pack("<I", len(string)) + string.encode()


def calls(name, *arguments):
    """The call of a function by its module and name, as instructions."""
    return f"c{name[0]}\n{name[1]}\n".encode() + b"(" + b"".join(map(text, arguments)) + b"tR"


TRUSTED = ("pytorch_lightning.utilities", "x")
HIT = calls(("posix", "system"), SHELL)
# What is pickled in the place of a training's leftovers -> what the sentence names; None where the
# file may be read, with a stand-in. Bytes are instructions, the rest is pickled.
BOMBS = {
    "os.system": (Call(os.system, SHELL), "system'"),
    "eval": (Call(eval, CODE), "'builtins.eval'"),
    "exec": (Call(exec, CODE), "'builtins.exec'"),
    "compile": (Call(compile, CODE, "x", "exec"), "'builtins.compile'"),
    "__import__": (Call(__import__, "os"), "'builtins.__import__'"),
    "getattr": (calls(("__builtin__", "getattr"), "os", "system"), "'builtins.getattr'"),
    "open": (Call(open, MARK, "w"), "open'"),
    "nt.system": (calls(("nt", "system"), SHELL), "'nt.system'"),
    "subprocess": (calls(("subprocess", "Popen"), SHELL), "'subprocess.Popen'"),
    "commands": (calls(("commands", "getoutput"), SHELL), "'commands.getoutput'"),
    "runpy": (calls(("runpy", "_run_code"), CODE), "'runpy._run_code'"),
    "code": (calls(("code", "InteractiveInterpreter"), ""), "'code.InteractiveInterpreter'"),
    "torch.load": (calls(("torch.serialization", "load"), "x"), "'torch.serialization.load'"),
    "torch.hub": (calls(("torch.hub", "load"), "a", "b"), "'torch.hub.load'"),
    "torch extension": (calls(("torch.ops", "load_library"), "x"), "'torch.ops.load_library'"),
    "numpy.load": (calls(("numpy", "load"), "x"), "'numpy.load'"),
    "numpy of the core": (calls(("numpy.core.multiarray", "fromfile"), "x"), "fromfile'"),
    "numpy's tests": (calls(("numpy.testing._private.utils", "runstring"), CODE), "runstring'"),
    "attrgetter": (calls(("operator", "attrgetter"), "system"), "'operator.attrgetter'"),
    "partial": (calls(("functools", "partial"), "x"), "'functools.partial'"),
    "reduce": (calls(("__builtin__", "reduce"), "x"), "'builtins.reduce'"),
    "a pickle in it": (calls(("pickle", "loads"), "x"), "'pickle.loads'"),
    "pip": (calls(("pip._internal", "main"), "x"), "'pip._internal.main'"),
    "web": (calls(("webbrowser", "open"), "x"), "'webbrowser.open'"),
    "a name below a permitted one": (calls(("pytorch_lightning.os", "system"), SHELL), None),
    "a dotted name": (calls(("pytorch_lightning", "utilities.os.system"), SHELL), None),
    "a neighbour's name": (calls(("pytorch_lightning_x", "y"), SHELL), "'pytorch_lightning_x.y'"),
    "a longer builtin": (calls(("builtins", "int.__import__"), "os"), "'builtins.int.__import__'"),
    "a dotted builtin": (calls(("builtins", "list.__class__"), "x"), "'builtins.list.__class__'"),
    "a result called": (calls(TRUSTED, "x") + b"(tR", "holds objects that are not weights"),
    "INST": (b"(" + text(SHELL) + b"iposix\nsystem\n", "'posix.system'"),
    "INST of a trusted name": (b"(ipytorch_lightning.utilities\nx\n", "the instruction INST"),
    "OBJ": (b"(c__main__\nx\n" + text(SHELL) + b"o", "the instruction OBJ"),
    "STACK_GLOBAL": (
        text("posix") + text("system") + b"\x93" + text(SHELL) + b"\x85R",
        "the instruction STACK_GLOBAL",
    ),
    "EXT1": (b"\x82\x01", "the instruction EXT1"),
    "PERSID": (b"Pos.system\n", "the instruction PERSID"),
    "another persistent id": (text("module") + b"\x85Q", "holds objects that are not weights"),
    "NEWOBJ_EX": (b"c__main__\nx\n)}\x92", "the instruction NEWOBJ_EX"),
    "a long name": (calls(("m" * 5000, "x"), SHELL), r"mmm\.\.\.m+"),
}


class Raw:
    """Where the instructions of a bomb are put into a pickle."""

    def __reduce__(self):
        return Counter, ()


def planted(path, bomb, weights, zipped):
    """A file of weights with a bomb beside them."""
    if isinstance(bomb, bytes):
        write(path, {"state_dict": weights, "leftover": Raw()}, zipped)
        old = path.read_bytes()
        call = b"ccollections\nCounter\n"
        place = old.index(call)
        end = old.index(b"R", place) + 1
        if zipped:
            with zipfile.ZipFile(path) as archive:
                entries = {name: archive.read(name) for name in archive.namelist()}
            (name,) = [name for name in entries if name.endswith("/data.pkl")]
            data = entries[name]
            place = data.index(call)
            end = data.index(b"R", place) + 1
            entries[name] = data[:place] + bomb + data[end:]
            with zipfile.ZipFile(path, "w") as archive:
                for entry, content in entries.items():
                    archive.writestr(entry, content)
        else:
            path.write_bytes(old[:place] + bomb + old[end:])
        return path
    return write(path, {"state_dict": weights, "leftover": bomb}, zipped)


@WAYS
@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_do_not_go_off(tmp_path, monkeypatch, weights, bomb, zipped):
    monkeypatch.chdir(tmp_path)
    content, words = BOMBS[bomb]
    path = planted(tmp_path / "model.ckpt", content, weights, zipped)
    if words is None:
        check(path, weights)
    else:
        with pytest.raises(ValueError, match=words) as caught:
            open_weights(path)
        check_sentence(caught.value, path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.ckpt"]


@pytest.mark.skipif(os.name == "nt", reason="the bomb is a command of Unix")
@WAYS
def test_the_bombs_are_real(tmp_path, monkeypatch, weights, zipped):
    """The same file goes off where pickles are read without care."""
    monkeypatch.chdir(tmp_path)
    for bomb in (HIT, Call(eval, CODE)):
        path = planted(tmp_path / "model.ckpt", bomb, weights, zipped)
        torch.load(path, weights_only=False)
        (tmp_path / MARK).unlink()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_setstate_of_the_file_s_own_is_not_run(tmp_path, monkeypatch, weights, zipped):
    monkeypatch.chdir(tmp_path)
    with foreign("pytorch_lightning.utilities.Trap") as (trap,):
        trap.__setstate__ = lambda self, state: open(state["where"], "w").close()
        instance = with_state(trap, where=MARK)
        path = write(tmp_path / "model.ckpt", {"state_dict": weights, "x": instance}, zipped)
        check(path, weights)
        assert not (tmp_path / MARK).exists()
        torch.load(path, weights_only=False)
        assert (tmp_path / MARK).exists()


def test_a_key_that_nests_without_end(tmp_path, weights):
    """Which would end the process: Python computes the hash of a tuple without counting levels."""
    body = b"}" + b"N" + b"\x85" * 2_000_000 + b"K\x01s"
    for zipped in (True, False):
        path = planted(tmp_path / "model.ckpt", body, weights, zipped)
        with pytest.raises(ValueError, match="it is damaged or incomplete, or was written by"):
            open_weights(path)


def test_the_weights_themselves_as_a_bomb(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for content in (Call(eval, CODE), {"state_dict": Call(eval, CODE)}, {"a": Call(exec, CODE)}):
        with pytest.raises(ValueError, match=r"holds 'builtins\.e"):
            open_weights(write(tmp_path / "model.ckpt", content))
    assert not (tmp_path / MARK).exists()


@WAYS
def test_any_bytes_in_the_place_of_a_pickle(tmp_path, weights, zipped):
    """Cut or changed anywhere: read, or refused in one sentence; never another kind of error."""
    content = {"state_dict": weights, "options": argparse.Namespace(step=numpy.int64(5))}
    whole = write(tmp_path / "whole", content, zipped).read_bytes()
    path = tmp_path / "model.ckpt"
    generator = numpy.random.default_rng(0)
    refused = 0
    for n in range(500):
        place = int(generator.integers(len(whole)))
        changed = bytearray(whole[:place] if n % 3 == 0 else whole)
        if n % 3:
            changed[place] = int(generator.integers(256))
        path.write_bytes(changed)
        try:
            for tensor in open_weights(path).values():
                tensor.read()
        except ValueError as error:
            check_sentence(error, path)
            refused += 1
    assert refused > 250


def test_protocol_4_is_named(tmp_path, weights):
    torch.save(weights, tmp_path / "model.pt", pickle_protocol=4)
    with pytest.raises(ValueError, match="it uses the instruction FRAME, which torch's own weight"):
        open_weights(tmp_path / "model.pt")


def test_names_and_how_they_are_used():
    """Read off the instructions; what is in the memo is followed, too."""
    shared = defaultdict(int, {"a": deque([1, 2])})
    content = [eval, int, str, range, OrderedDict(a=1), shared, [shared, {"b": shared}], deque()]
    for protocol in (2, 3):
        found = names_in_pickle(io.BytesIO(pickle.dumps(content, protocol=protocol)))
        assert found == {
            "builtins.eval": "object",
            "builtins.int": "object",
            "builtins.str": "object",
            "builtins.range": "object",
            "collections.OrderedDict": "mapping",
            "collections.defaultdict": "mapping",
            "collections.deque": "list",
        }
