"""What etcd and the daemon count, read from their metrics: the observers' second opinion."""

import contextlib
import re

from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until
from tests.support.lab.testbed import http_answer

METRICS_PORT = 2402


class Counters:
    """All samples at one moment, as ``name{label="value"}``."""

    def __init__(self, text: str) -> None:
        self._samples = re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE)

    def total(self, name: str, **labels: str) -> int:
        """Return the sum of all samples of that name that carry these labels."""
        wanted = {f'{label}="{value}"' for label, value in labels.items()}
        return sum(int(float(value)) for found, text, value in self._samples
                   if found == name and wanted <= set(text.split(",")))  # fmt: skip

    def calls(self, method: str) -> int:
        """Return how many requests of a kind, such as ``Range``, etcd has begun to serve."""
        return self.total("grpc_server_started_total", grpc_method=method)

    @property
    def lists(self) -> int:
        """How many complete lists a daemon has read."""
        return self.total("pyflanneld_peer_lists_total")


def etcd_counters(namespace: str, port: int = 2379) -> Counters:
    """Ask the etcd in a namespace."""
    return Counters(http_answer(namespace, port, b"GET /metrics HTTP/1.0\r\n\r\n").decode())


def daemon_counters(node: LabHost) -> Counters:
    """Ask a host's daemon, which serves metrics a moment after it is ready."""
    found: list[str] = []

    def answers() -> bool:
        with contextlib.suppress(OSError):
            answer = http_answer(node.namespace, METRICS_PORT, b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
            found.append(answer.decode())
        return bool(found)

    until(answers, f"{node.name} serves its metrics", 10, 0.05)
    assert " 200 OK" in found[0].partition("\r\n")[0], found[0]
    return Counters(found[0])
