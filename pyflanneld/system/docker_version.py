"""Tool: find out which version of Docker is installed here."""

import os
import shutil
import subprocess

from pyflanneld.core.docker import DockerVersion
from pyflanneld.core.invalid import Invalid

_TIMEOUT_S = 5.0
_QUESTIONS = (
    ("dockerd", "--version"),  # answers without a running daemon
    ("docker", "version", "--format", "{{.Server.Version}}"),
)
_ELSEWHERE = frozenset({"DOCKER_HOST", "DOCKER_CONTEXT"})  # point the client at another machine's daemon


def installed() -> DockerVersion | None:
    """Return the version of this host's Docker daemon; ``None`` where nothing can tell it."""
    for program, *words in _QUESTIONS:
        path = shutil.which(program)
        if path is None:
            continue
        try:
            return DockerVersion.parse(_output(path, *words))
        except (OSError, subprocess.SubprocessError, Invalid):
            continue
    return None


def _output(*command: str) -> str:
    environ = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    done = subprocess.run(  # noqa: S603 - Docker's own programs, with arguments that stand above
        command,
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=environ,
        timeout=_TIMEOUT_S,
    )
    return done.stdout
