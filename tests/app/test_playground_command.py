"""`sdlearn playground` from the outside: what it refuses, and what it serves."""

import sys

import pytest

from sdlearn.cli import main
from sdlearn.utils import resources
from sdlearn.utils.resources import notebook_file


@pytest.mark.parametrize("port", ["0", "65536", "-1"])
def test_a_port_that_is_none(port, capsys):
    assert main.main(["playground", "--port", port]) == 2
    said = capsys.readouterr().err
    assert said == f"sdlearn: --port is {port}; it must lie in 1 … 65535\n"


def test_without_voila_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "voila.app", None)
    assert main.main(["playground"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("sdlearn: the playground needs Voilà")
    assert "sdlearn[course]" in said


def test_without_the_notebook(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(resources, "PACKAGE", tmp_path)
    assert main.main(["playground"]) == 2
    assert "the notebook playground.ipynb was not found" in capsys.readouterr().err


def test_the_notebook_is_the_one_of_the_course():
    assert notebook_file("playground.ipynb").parent.name in ("notebooks", "_notebooks")


def test_large_photos_go_through_and_kernels_of_closed_pages_end(monkeypatch):
    app = pytest.importorskip("voila.app")
    seen = []
    monkeypatch.setattr(app.Voila, "launch_instance", lambda argv, config: seen.append(config))
    assert main.main(["playground"]) == 0
    (config,) = seen
    assert config.Voila.tornado_settings["websocket_max_message_size"] > 20 * 10**6
    assert 0 < config.MappingKernelManager.cull_idle_timeout <= 600
    assert 0 < config.MappingKernelManager.cull_interval <= 60
