"""A Hugging Face hub of folders on this machine, for tests: same answers, nothing fetched."""

import shutil
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from huggingface_hub import ModelInfo
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from sdlearn.weights import hub

COMMIT = "5ede9e4bf3e3fd1cb0ef2f7a3fff13ee514fdf06"


class LocalHub:
    """Stands in for the two functions of huggingface_hub that the package uses.

    fetched: names of the files that were downloaded, in order. online: whether it answers.
    """

    def __init__(self, repositories: dict[str, Path], cache: Path) -> None:
        self.repositories = repositories
        self.cache = cache
        self.fetched: list[str] = []
        self.online = True

    def names(self, repo: str) -> list[str]:
        folder = self.repositories[repo]
        files = (path for path in folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(folder).as_posix() for path in files)

    def model_info(self, repo: str, timeout: float) -> ModelInfo:
        assert 1 <= timeout <= 30
        if not self.online:
            raise ConnectionError("cannot reach the hub\nand more lines of it")
        if repo not in self.repositories:
            raise EntryNotFoundError(f"404: {repo} is not known")
        siblings = [{"rfilename": name} for name in self.names(repo)]
        return ModelInfo(id=repo, siblings=siblings)  # type: ignore[no-untyped-call]

    def snapshot_download(
        self, repo: str, allow_patterns: list[str], local_files_only: bool = False
    ) -> str:
        place = self.cache / f"models--{repo.replace('/', '--')}" / "snapshots" / COMMIT
        if local_files_only:
            if not place.is_dir():
                raise LocalEntryNotFoundError("not in the cache")
            return str(place)
        if not self.online:
            raise ConnectionError("cannot reach the hub")
        for name in self.names(repo):
            wanted = any(fnmatchcase(name, pattern) for pattern in allow_patterns)
            if wanted and not (place / name).is_file():
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.repositories[repo] / name, place / name)
                self.fetched.append(name)
        return str(place)


def install(
    monkeypatch: pytest.MonkeyPatch, repositories: dict[str, Path], cache: Path
) -> LocalHub:
    """Put a LocalHub in the place of the hub."""
    local = LocalHub(repositories, cache)
    monkeypatch.setattr(hub, "HfApi", lambda: local)
    monkeypatch.setattr(hub, "snapshot_download", local.snapshot_download)
    return local
