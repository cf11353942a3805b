"""How the processes of a training are started: the variables of torchrun and of accelerate."""

import os
import signal
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from sdlearn.cli import processes
from sdlearn.cli.main import main
from sdlearn.cli.stop_signals import stop_signals
from sdlearn.distributed import ProcessLost
from sdlearn.recipes.run_folder import check_shared
from tests.processes import sentences, two_machines
from tests.tiny_runs import TINY

TWO = {
    "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'; accepted: a whole number from 1 to"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"WORLD_SIZE": "2"}, "RANK is not set; start the processes with torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is '2'; accepted: a whole number from 0 to 1"),
        ({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "-1"}, "LOCAL_RANK is '-1'"),
        ({"WORLD_SIZE": "2", "RANK": "0000000001", "LOCAL_RANK": "0"}, "RANK is '0000000001'"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "MASTER_ADDR is not set"),
        ({**TWO, "MASTER_PORT": "http"}, "MASTER_PORT is 'http'; accepted: a whole number from 1"),
        ({**TWO, "MASTER_PORT": "70000"}, "MASTER_PORT is '70000'"),
        (
            {**TWO, "ACCELERATE_MIXED_PRECISION": "fp16"},
            "ACCELERATE_MIXED_PRECISION is 'fp16', which only programs with accelerate read; "
            "accepted: 'no', and --precision",
        ),
        ({"ACCELERATE_USE_FSDP": "true"}, "accepted: 'false', and --shard"),
        (
            {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"},
            "accelerate has started one process where several were meant",
        ),
    ],
)
def test_variables_that_torchrun_does_not_set_are_refused(
    variables: dict[str, str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in (*TWO, *processes.ACCELERATE):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main([*TINY, "--out", str(tmp_path / "run")]) == 2
    (said,) = sentences(capsys.readouterr().err)
    assert sentence in said
    assert not (tmp_path / "run").exists()


def test_each_process_of_a_machine_gets_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []
    monkeypatch.setattr("sdlearn.utils.device.pick_device", lambda name: torch.device(name))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert processes.device_for("cuda", 1) == torch.device("cuda", 1)
    assert chosen == [torch.device("cuda", 1)]
    assert processes.device_for("cpu", 7) == torch.device("cpu")
    with pytest.raises(ValueError, match="this machine has 2 GPUs for 3 processes or more"):
        processes.device_for("cuda", 2)
    for single in ("cuda:1", "mps"):
        with pytest.raises(ValueError, match=f"device is {single}, which is one device for"):
            processes.device_for(single, 0)


def accelerate_variables(*options: str) -> dict[str, str]:
    """What accelerate's launcher tells the processes of `accelerate launch OPTIONS`."""
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    wanted = [*options, "--mixed_precision", "no", "--dynamo_backend", "no", "program.py"]
    args = launch_command_parser().parse_args(wanted)
    args.num_machines, args.machine_rank, args.main_process_port = 1, 0, 0
    found = prepare_multi_gpu_env(args)
    return {name: found[name] for name in found if name.startswith(("ACCELERATE", "FSDP"))}


def test_accelerates_launcher_is_accepted_and_its_own_settings_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its multi-GPU launcher runs torchrun, which sets the rest."""
    plain = accelerate_variables("--num_processes", "2")
    assert {"ACCELERATE_MIXED_PRECISION", "ACCELERATE_DYNAMO_BACKEND"} <= plain.keys()
    for name in processes.ACCELERATE:
        monkeypatch.delenv(name, raising=False)
    for name, value in {**TWO, **plain}.items():
        monkeypatch.setenv(name, value)
    processes.check_accelerate(None)
    assert processes.started() == (2, 0, 0)
    fsdp = accelerate_variables("--num_processes", "2", "--use_fsdp")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", fsdp["ACCELERATE_USE_FSDP"])
    with pytest.raises(ValueError, match="accepted: 'false', and --shard"):
        processes.check_accelerate(None)


def test_the_single_process_that_accelerate_starts_on_a_cpu_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`accelerate launch --cpu --num_processes 2` sets an address, and starts one process."""
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    wanted = ["--cpu", "--num_processes", "2", "--mixed_precision", "no", "--dynamo_backend", "no"]
    args = launch_command_parser().parse_args([*wanted, "program.py"])
    args.num_machines = 1
    _, found = prepare_simple_launcher_cmd_env(args)
    for name in (*TWO, *processes.ACCELERATE):
        monkeypatch.delenv(name, raising=False)
        if name in found:
            monkeypatch.setenv(name, found[name])
    with pytest.raises(ValueError, match="accelerate has started one process where several were"):
        processes.check_accelerate("cpu")


def test_a_cpu_that_accelerate_asks_for_must_be_asked_for_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (*TWO, *processes.ACCELERATE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    with pytest.raises(ValueError, match=r"ACCELERATE_USE_CPU is 'True'.*--device cpu"):
        processes.check_accelerate(None)
    processes.check_accelerate("cpu")


@pytest.mark.slow
def test_processes_that_cannot_meet_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two, with an address at which nobody is."""
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setattr(processes, "FIRST_CONTACT", timedelta(seconds=1))
    for name, value in {**TWO, "RANK": "1", "LOCAL_RANK": "1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConnectionError, match="the other processes were not found"):
        processes.connect("gloo")


def test_a_folder_that_another_machine_does_not_see_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_shared(tmp_path / "new")  # process 0 makes it
    monkeypatch.setattr("sdlearn.recipes.run_folder.is_first_process", lambda: False)
    monkeypatch.setattr("sdlearn.recipes.run_folder.process_rank", lambda: 8)
    check_shared(tmp_path)
    with pytest.raises(ValueError, match=r"process 8 does not find .*new.*that all machines share"):
        check_shared(tmp_path / "new")


@pytest.mark.slow
def test_other_settings_on_another_machine_are_refused_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    ended = two_machines("-m", "sdlearn", *TINY, "--out", str(run), more=("--seed", "1"))
    assert all(code != 0 for code, _ in ended)
    (said,) = [line for _, each in ended for line in sentences(each)]
    assert said.startswith("sdlearn: the checksum of the settings is ")
    assert said.endswith("for process 0; it must be the same for all")
    assert not run.exists()


def test_torchrun_does_not_cut_off_the_message_about_a_lost_process() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(ValueError, match="bad"), stop_signals():
        raise ValueError("bad")
    assert {number: signal.getsignal(number) for number in before} == before
    try:
        with pytest.raises(ProcessLost), stop_signals() as stopped:
            raise ProcessLost("another process has ended")
        os.kill(os.getpid(), signal.SIGTERM)  # would end this process
        assert stopped.wait(10)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
