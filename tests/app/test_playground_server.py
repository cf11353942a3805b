"""The playground's server from the outside: real requests to a server that was started for them.

The notebook is a single print, so that a kernel takes a second and 60 MB.
"""

import asyncio
import base64
import http.client
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("voila.app")
from sdlearn.cli.playground_server import FewKernels

ROOT = Path(__file__).resolve().parents[2]
START = (
    "import sys; from pathlib import Path; from sdlearn.cli.playground_server import bind, serve; "
)
START += "serve(Path(sys.argv[1]), bind(int(sys.argv[2])), False)"


def interruptible() -> None:
    """Have a new process end at Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Playground:
    """A server in a process of its own."""

    def __init__(self, folder: Path) -> None:
        cell = nbformat.v4.new_code_cell("print('all' + ' well')")
        notebook = nbformat.v4.new_notebook(cells=[cell])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "", "language": "python"}
        (folder / "page").mkdir()
        self.log = folder / "log.txt"
        nbformat.write(notebook, folder / "page" / "tiny.ipynb")
        (folder / "page" / "secret.png").write_bytes(b"\x89PNG")
        (folder / "voila.json").write_text('{"Voila": {"ip": "0.0.0.0", "token": ""}}')
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        variables = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_TOKEN": "known",
        }
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START, str(folder / "page" / "tiny.ipynb"), str(self.port)],
                cwd=folder,
                env=variables,
                stdout=output,
                stderr=output,
                # A shell ignores Ctrl-C for what it starts in the background, these tests perhaps.
                preexec_fn=interruptible if os.name == "posix" else None,
            )
        start = time.monotonic()
        while not (found := re.search(r"(/[\w-]+)/\?token=(\S+)", self.log.read_text("utf-8"))):
            assert self.process.poll() is None, self.log.read_text("utf-8")
            assert time.monotonic() - start < 60
            time.sleep(0.1)
        self.folder, self.token = found[1], found[2]
        self.host = f"127.0.0.1:{self.port}"

    def ask(
        self, path: str, method: str = "GET", body: str = "", **headers: str
    ) -> tuple[int, str, http.client.HTTPMessage]:
        """The status, the text and the headers of one answer. Headers with _ for -.

        The path is below the folder of the pages, except with a second "/" at its beginning.
        """
        path = path[1:] if path.startswith("//") else self.folder + path
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.putrequest(method, path, skip_host=True)
        for name, value in {"Host": self.host, **headers}.items():
            if value:
                connection.putheader(name.replace("_", "-"), value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body.encode())
        answer = connection.getresponse()
        text = "" if answer.status == 101 else answer.read().decode("utf-8", "replace")
        connection.close()
        return answer.status, text, answer.headers

    def kernels(self) -> int:
        """How many kernels run, as the operating system sees it."""
        command = ["ps", "--ppid", str(self.process.pid), "-o", "args="]
        listed = subprocess.run(command, capture_output=True, text=True).stdout
        return listed.count("ipykernel")

    def close(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    started = Playground(tmp_path_factory.mktemp("served"))
    yield started
    started.process.kill()
    started.process.wait()


@pytest.fixture(scope="module")
def opened(server):
    """(kernel id, cookie) of an opened page."""
    status, text, headers = server.ask(f"/?token={server.token}")
    assert status == 200
    assert "all well" in text
    cookies = [each.split(";")[0] for each in headers.get_all("Set-Cookie")]
    assert [each.split("=")[0] for each in cookies] == [
        f"sdlearn-playground-{server.port}",
        "_xsrf",
    ]
    # A browser adds cookies to requests to every port of a computer, but only below their path.
    for each in headers.get_all("Set-Cookie"):
        assert f"Path={server.folder}/" in each.split("; ")
    assert len(server.folder) > 16
    (kernel,) = re.findall(r'kernelId": "([\w-]+)"', text)
    return kernel, "; ".join(cookies)


PATHS = [
    "/", "/?token={token}", "/voila/static/voila.js?token={token}", "/voila/templates/lab/static/x",
    "/voila/files/secret.png?token={token}", "/voila/api/themes/x", "/voila/labextensions/x",
    "/api/kernels", "/api/kernels/0-0-0-0-0?token={token}", "/login", "/logout", "/nothing",
    "/api/kernels/0-0-0-0-0/channels?token={token}",
]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT"])
def test_another_host_gets_nothing(server, method):
    """A name of the attacker's that leads to this computer, which is DNS rebinding."""
    before, port = server.kernels(), server.port
    hosts = [
        "evil.example", f"evil.example:{port}", f"localhost.evil.example:{port}", "127.0.0.1",
        f"127.0.0.1:{port + 1}", f"127.0.0.1:{port}.evil.example", f"127.0.0.2:{port}",
        f"evil@127.0.0.1:{port}", f"0.0.0.0:{port}",
    ]  # fmt: skip
    for host in hosts:
        for path in PATHS if host == "evil.example" else ["/?token={token}"]:
            status, text, headers = server.ask(
                path.format(token=server.token), method, "x=1", Host=host
            )
            assert status in (400, 403), (host, path)  # tornado itself refuses some
            assert "Set-Cookie" not in headers
            assert method == "HEAD" or "names another server" in text or status == 400
    assert server.kernels() == before


def test_large_requests_are_not_held_in_memory(server):
    with pytest.raises((ConnectionError, http.client.BadStatusLine)):
        server.ask("/", "POST", "x" * 2**24)
    assert server.ask(f"/voila/static/voila.js?token={server.token}")[0] == 200


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_its_own_names(server, name):
    path = f"/voila/static/voila.js?token={server.token}"
    assert server.ask(path, Host=f"{name}:{server.port}")[0] == 200


@pytest.mark.parametrize("path", [path for path in PATHS if "{token}" not in path])
@pytest.mark.parametrize(
    "given", ["", "?token=", "?token=known", "?token=<generated>", "?token=%C3%A9", "?token=..."]
)
def test_without_the_token_there_is_one_sentence_and_no_kernel(server, path, given):
    before = server.kernels()
    status, text, headers = server.ask(path + given)
    assert status == 403
    assert text.count("\n") == 1
    assert "with its token" in text
    assert "Set-Cookie" not in headers
    assert server.kernels() == before


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://{host}", "file://"])
def test_pages_of_other_servers_get_nothing_even_with_the_token(server, origin):
    before = server.kernels()
    status, text, _ = server.ask(f"/?token={server.token}", Origin=origin.format(host=server.host))
    assert (status, "Pages of other servers" in text) == (403, True)
    assert server.kernels() == before


def websocket(kernel: str) -> tuple[str, dict[str, str]]:
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    return f"/api/kernels/{kernel}/channels?session_id=1", {
        "Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Key": key,
        "Sec_WebSocket_Version": "13",
    }  # fmt: skip


def test_the_kernel_s_socket_is_for_the_own_page(server, opened):
    kernel, cookie = opened
    path, headers = websocket(kernel)
    own = {"Origin": f"http://{server.host}", "Cookie": cookie}
    assert server.ask(path, **headers, **own)[0] == 101
    for change in (
        {"Origin": "http://evil.example"},
        {"Origin": f"http://localhost:{server.port}"},
        {"Origin": "null"},
        {"Cookie": ""},
        {"Host": "evil.example", "Origin": "http://evil.example"},
        {"Sec_Fetch_Site": "cross-site"},
    ):
        assert server.ask(path, **headers, **own | change)[0] == 403, change
    assert (
        server.ask(f"{path}&token={server.token}", **headers, Origin="http://a.example")[0] == 403
    )


def test_the_cookie_is_for_the_own_page(server, opened):
    """A browser adds it to requests that pages of other local servers send."""
    _, cookie = opened
    path = "/voila/static/voila.js"
    assert server.ask(path, Cookie=cookie)[0] == 200
    assert server.ask(path, Cookie=cookie, Sec_Fetch_Site="same-origin")[0] == 200
    assert server.ask(path, Cookie=cookie, Sec_Fetch_Site="same-site")[0] == 403
    assert server.ask(path, Cookie=cookie, Sec_Fetch_Site="cross-site")[0] == 403
    assert server.ask(path, Cookie=cookie.replace("=", "=x"))[0] == 403
    attributes = server.ask(f"/api/kernels/0-0-0-0-0?token={server.token}")[2]["Set-Cookie"]
    assert "HttpOnly" in attributes
    assert "SameSite=Strict" in attributes
    assert "expires" not in attributes.lower()


@pytest.mark.parametrize("path", ["//", "//?token={token}", "//voila/static/voila.js", "//x/y"])
def test_outside_the_folder_there_is_one_sentence(server, path):
    before = server.kernels()
    for host in (server.host, "evil.example"):
        status, text, headers = server.ask(path.format(token=server.token), Host=host)
        assert (status, text.count("\n")) == (404, 1)
        assert "There is nothing here: open the address that" in text
        assert "Set-Cookie" not in headers
    assert server.kernels() == before


UNSEEN = {"seen, quiet": (1, 60), "unseen, busy": (0, 3), "unseen, quiet": (0, 60)}


def test_a_page_that_was_loaded_again_too_early_makes_way(monkeypatch):
    """Its kernel is quiet, and no page is connected to it."""
    ended, manager = [], FewKernels()
    known = {
        name: types.SimpleNamespace(last_activity=datetime.now(UTC) - timedelta(seconds=age))
        for name, (_, age) in UNSEEN.items()
    }
    monkeypatch.setattr(manager, "list_kernel_ids", lambda: list(known))
    monkeypatch.setattr(manager, "get_kernel", known.get)
    monkeypatch.setattr(manager, "kernel_model", lambda name: {"connections": UNSEEN[name][0]})

    async def end(name):
        ended.append(name)

    monkeypatch.setattr(manager, "shutdown_kernel", end)
    asyncio.run(manager.end_unseen())
    assert ended == ["unseen, quiet"]


@pytest.mark.parametrize(
    "path",
    [
        "/voila/files/secret.png", "/voila/files/tiny.ipynb", "/voila/files/../voila.json",
        "/voila/files/%2e%2e/voila.json", "/voila/static/../../../../../../etc/passwd",
        "/voila/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/voila/static//etc/passwd", "/voila/templates/lab/static/%2e%2e/%2e%2e/%2e%2e/conf.json",
        "/voila/templates/%2e%2e/static/x", "/voila/labextensions/%2e%2e/%2e%2e/etc/passwd",
        "/voila/api/themes/%2e%2e/%2e%2e/etc/passwd", "/secret.png", "/login", "/voila/tree",
    ],
)  # fmt: skip
def test_no_file_beside_the_notebook_is_served(server, path):
    before = server.kernels()
    status, text, _ = server.ask(f"{path}?token={server.token}")
    assert status in (302, 403, 404, 500)
    assert "root:" not in text
    assert "PNG" not in text
    assert server.kernels() == before


def test_the_token_is_in_the_printed_address_only(server, opened):
    server.ask(f"/nothing?token={server.token}")
    server.ask(f"/?token={server.token}", Host="evil.example")
    assert server.log.read_text("utf-8").count(server.token) == 1
    arguments = subprocess.run(["ps", "-e", "-o", "args="], capture_output=True, text=True).stdout
    assert server.token not in arguments
    assert len(server.token) >= 32
    environments = [
        Path("/proc", name, "environ").read_bytes()
        for name in subprocess.run(
            ["ps", "--ppid", str(server.process.pid), "-o", "pid="], capture_output=True, text=True
        ).stdout.split()
    ]
    assert environments
    assert not any(server.token.encode() in each for each in environments)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the system's table of sockets")
def test_it_listens_to_this_computer_alone(server):
    listening = Path("/proc/net/tcp").read_text().splitlines()
    (own,) = [line.split()[1] for line in listening if f":{server.port:04X} 00000000:0000" in line]
    assert own.startswith("0100007F")


def test_kernels_are_few_however_many_pages_are_asked_for(server, opened):
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda _: server.ask(f"/?token={server.token}"), range(12)))
    statuses = sorted(status for status, _, _ in answers)
    assert statuses == [200] * 3 + [503] * 9  # and the page that was open already
    assert server.kernels() == 4
    said = {text for status, text, _ in answers if status == 503}
    (sentence,) = said
    assert sentence.startswith("4 pages of the playground are open, and each holds a model")
    kernel, cookie = opened
    xsrf = re.search(r"_xsrf=([^;]+)", cookie)[1]
    closing = f"/voila/api/shutdown/{kernel}"
    own = {"Cookie": cookie, "Origin": f"http://{server.host}"}
    assert server.ask(closing, "POST", **own)[0] == 403
    assert server.ask(closing, "POST", **own, X_XSRFToken=xsrf)[0] == 204
    assert server.kernels() == 3
    assert server.ask(f"/?token={server.token}")[0] == 200


def test_ctrl_c_ends_it_and_its_kernels(server):
    before = server.log.stat().st_size
    assert server.close() == 0
    assert server.kernels() == 0
    assert "Traceback" not in server.log.read_bytes()[before:].decode()
