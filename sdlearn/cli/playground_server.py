"""The playground's server: Voilà on this computer, for the person who started it.

Any web page in the same browser can send requests to this computer, and each page of the playground
starts a kernel that holds a model. So every request, including those for files and WebSockets, must
have this server's Host and Origin. It also needs the token of the printed address, or the cookie
that the first page was given. A browser sends cookies to every port of a computer, but only below
their path. So the pages are in a folder with a random name, which is part of the address. The
number of pages with a kernel is limited.
"""

import asyncio
import hmac
import html
import logging
import os
import secrets
import socket
import tempfile
import threading
import webbrowser
from collections.abc import Awaitable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.client import responses
from pathlib import Path
from typing import Any

from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.log import access_log
from tornado.netutil import bind_sockets
from tornado.web import HTTPError, RequestHandler
from traitlets.config import Config
from voila.app import Voila
from voila.voila_identity_provider import VoilaIdentityProvider

IP = "127.0.0.1"
MOST_KERNELS = 4  # about 550 MB each with the storybook model
UNSEEN = timedelta(seconds=10)  # after so long without a page, a kernel makes way for another
LARGEST = 100 * 2**20  # bytes of an uploaded image; tornado's own limit is 10 MB
TEMPLATES = Path(__file__).with_name("templates")  # of the page, in addition to Voilà's own
ASK = "open the address that `sdlearn playground` printed, with its token"


def bind(port: int) -> list[socket.socket]:
    """Take a port of this computer, which other computers cannot reach.

    Raises:
        OSError: If the port is in use or may not be used.
    """
    try:
        return bind_sockets(port, IP)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise OSError(f"--port {port} cannot be used ({reason}); give another one") from error


def serve(notebook: Path, sockets: list[socket.socket], open_browser: bool) -> None:
    """Serve a notebook as a page, without its code, until the process is interrupted."""
    port = sockets[0].getsockname()[1]
    server = Server(config=settings(notebook, port, open_browser))
    server.sockets = sockets
    server.initialize([])
    server.start()


def settings(notebook: Path, port: int, open_browser: bool) -> Config:
    """Voilà's configuration. It holds the token, which no process has in its arguments."""
    config = Config()
    config.Voila.notebook_path = str(notebook)
    config.Voila.ip, config.Voila.port = IP, port
    config.Voila.open_browser = open_browser
    config.Voila.token = secrets.token_urlsafe(24)
    config.Voila.base_url = base = f"/{secrets.token_urlsafe(12)}/"
    config.Voila.identity_provider_class = Visitors
    config.Voila.config_file_paths = []  # no settings from the folder that it is started in
    config.Voila.log_level = logging.WARNING
    config.Voila.tornado_settings = {
        "allow_remote_access": False,
        "websocket_max_message_size": LARGEST,
        "log_function": log,
        "default_handler_class": Elsewhere,
        "xsrf_cookie_kwargs": {"samesite": "Strict", "path": base},
    }
    config.VoilaConfiguration.theme = "light"
    config.VoilaConfiguration.file_allowlist = []  # the notebook needs no files
    config.VoilaConfiguration.multi_kernel_manager_class = FewKernels
    # Two playgrounds have two cookies.
    config.IdentityProvider.cookie_name = f"sdlearn-playground-{port}"
    config.IdentityProvider.cookie_options = {"samesite": "Strict", "expires_days": None}
    # A kernel ends with its page, or five minutes later if the browser could not report that.
    config.MappingKernelManager.cull_idle_timeout = 300
    config.MappingKernelManager.cull_interval = 60
    return config


class Server(Voila):
    """Voilà with a gate before each handler, on sockets that are already bound."""

    sockets: list[socket.socket]
    template_paths: list[str]  # Voilà has no annotations

    def init_handlers(self) -> list[tuple[Any, ...]]:
        """Voilà's handlers, each behind the gate."""
        handlers = super().init_handlers()
        return [(pattern, gated(handler), *rest) for pattern, handler, *rest in handlers]

    def setup_template_dirs(self) -> None:
        """Put the playground's template before Voilà's."""
        super().setup_template_dirs()
        self.template_paths = [str(TEMPLATES), *self.template_paths]

    def listen(self) -> None:
        """Serve until the process is interrupted."""
        # Images come through the WebSocket; what comes before the gate is small.
        HTTPServer(self.app, max_body_size=2**20).add_sockets(self.sockets)
        address = f"http://{IP}:{self.port}{self.base_url}?token={self.token}"
        print(f"The playground is at\n\n    {address}\n\nCtrl-C ends it.", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            if self.open_browser:
                open_page(address, Path(folder))
            self.ioloop = IOLoop.current()
            try:
                self.ioloop.start()
            except KeyboardInterrupt:
                print()
            finally:
                self.stop()


class Visitors(VoilaIdentityProvider):
    """Those who have the token. There is no login page: it would be a second way in."""

    login_available = False
    logout_available = False


class FewKernels(AsyncMappingKernelManager):
    """The kernels of the open pages, of which there are at most MOST_KERNELS."""

    turn = asyncio.Lock()  # they are counted and started one after the other

    async def start_kernel(self, **options: Any) -> str:  # type: ignore[override]
        """Start a kernel; Refused if there are too many."""
        async with self.turn:
            if len(self) >= MOST_KERNELS:
                await self.end_unseen()
            if len(self) >= MOST_KERNELS:
                raise Refused(
                    503,
                    f"{MOST_KERNELS} pages of the playground are open, and each holds a model of "
                    "its own; close one of them, wait ten seconds and load this page again.",
                )
            return await super().start_kernel(**options)

    async def end_unseen(self) -> None:
        """End the kernels of pages that were closed, or loaded again, before they could say so."""
        manager: Any = self  # its methods have no annotations
        for kernel_id in manager.list_kernel_ids():
            quiet = datetime.now(UTC) - manager.get_kernel(kernel_id).last_activity
            if not manager.kernel_model(kernel_id)["connections"] and quiet > UNSEEN:
                await manager.shutdown_kernel(kernel_id)


class Refused(HTTPError):
    """A request that is answered with one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(status)
        self.sentence = sentence


class Gate(RequestHandler):
    """The part of every handler that comes first."""

    async def prepare(self) -> None:
        """Let a request through to its handler, or raise Refused."""
        request = self.request
        # From here on, the token is not in a log or in the environment of a kernel.
        request.uri, request.query = request.path, ""
        check_place(request, self.settings["voila"].port)
        self.check_token()
        result = super().prepare()
        if isinstance(result, Awaitable):
            await result
        if request.path == self.settings["base_url"]:
            # Sets the cookie that the page repeats when it is closed, to end its kernel.
            self.xsrf_token  # noqa: B018

    def check_token(self) -> None:
        """Raise Refused unless the request has the token, or the cookie and comes from our page."""
        visitors = self.settings["identity_provider"]
        given = visitors.get_token(self) or ""
        if hmac.compare_digest(given.encode(), visitors.token.encode()):
            return
        # Pages of other servers on this computer share our cookies.
        ours = self.request.headers.get("Sec-Fetch-Site", "none") in ("same-origin", "none")
        if not (ours and self.get_signed_cookie(visitors.cookie_name)):
            raise Refused(403, f"Only the person who started this page can open it: {ASK}.")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with one sentence: that of Refused, else what the status means."""
        error = kwargs.get("exc_info", (None, None))[1]
        sentence = error.sentence if isinstance(error, Refused) else f"{responses[status_code]}."
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(sentence + "\n")


class Elsewhere(Gate):
    """What is outside the folder of the pages: nothing."""

    async def prepare(self) -> None:
        """Raise Refused."""
        raise Refused(404, f"There is nothing here: {ASK}.")


def check_place(request: HTTPServerRequest, port: int) -> None:
    """Raise Refused unless a request is for this server, and not from another server's page."""
    names = (IP, "localhost", "[::1]")
    hosts = {f"{name}:{port}" for name in names} | {name for name in names if port == 80}
    if request.headers.get_list("Host") != [request.host] or request.host.lower() not in hosts:
        raise Refused(403, f"The request names another server: {ASK}.")
    origins = request.headers.get_list("Origin") + request.headers.get_list("Sec-Websocket-Origin")
    if any(origin != f"http://{request.host}" for origin in origins):
        raise Refused(403, f"Pages of other servers have no access: {ASK}.")


def gated(handler: type[RequestHandler]) -> type[RequestHandler]:
    """The handler behind the gate."""
    return type(handler.__name__, (Gate, handler), {})


def log(handler: RequestHandler) -> None:
    """Log a request that was answered with an error."""
    if handler.get_status() >= 400:
        request = handler.request
        access_log.warning("%d %s %s", handler.get_status(), request.method, request.path)


def open_page(address: str, folder: Path) -> None:
    """Open the browser at a file that leads to the address; other users can see arguments.

    Only this user can read the file and its folder.
    """
    page = folder / "playground.html"
    target = html.escape(address)
    page.write_text(
        f'<!doctype html><meta charset="utf-8"><title>Playground</title>'
        f'<meta http-equiv="refresh" content="0; url={target}"><a href="{target}">Playground</a>',
        encoding="utf-8",
    )

    def show() -> None:
        with suppress(webbrowser.Error):
            webbrowser.open(page.as_uri())

    threading.Thread(target=show, daemon=True).start()
