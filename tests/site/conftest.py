"""The built site, once for all tests and all workers."""

import os
from pathlib import Path

import pytest
import website
from filelock import FileLock

from tests.site_parts import missing


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site, to read only.

    The variable SITE names one that was built before, which takes no time. Otherwise the first
    worker that needs it builds it, and the others wait.
    """
    if given := os.environ.get("SITE"):
        folder = Path(given).resolve()
        assert (folder / website.MARK).is_file(), f"SITE is {folder}, which is not a built site"
        return folder
    if absent := website.missing_tools():
        missing(f"{', '.join(absent)} cannot be imported; `python lab.py site` installs them")
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):  # the workers' folders are side by side in one
        shared = shared.parent
    folder, failed = shared / "site", shared / "site-failed.txt"
    with FileLock(shared / "site.lock"):
        if failed.exists():
            pytest.fail(failed.read_text("utf-8"))
        if not folder.exists():
            try:
                website.install_modules()
            except website.Problem as problem:
                missing(str(problem))
            try:
                website.build(folder)
            except BaseException as error:
                failed.write_text(f"the site could not be built: {error}", "utf-8")
                raise
    return folder
