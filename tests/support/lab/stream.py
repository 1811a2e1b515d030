"""Packets between the pods of two hosts, while something is done to these."""

import json
import subprocess
import sys
import time
from typing import Any

from pyflanneld.lab.node import LabHost
from tests.support.network import udp_stream


class Stream:
    """A thousand packets a second from the first host's pod to the second's and back, while the block lasts."""

    def __init__(self, source: LabHost, target: LabHost) -> None:
        self._ends = source, target
        self._programs: list[subprocess.Popen[str]] = []
        self.result: dict[str, Any] = {}

    def __enter__(self) -> "Stream":
        source, target = self._ends
        source.pod_exec("ping", "-c1", "-W2", str(target.pod_address))  # neighbours are known from now on
        echo = self._start(target, "echo", str(target.pod_address))
        assert echo.stdout is not None
        assert echo.stdout.readline() == "ready\n"
        self._start(source, "send", str(source.pod_address), str(target.pod_address))
        time.sleep(0.3)
        return self

    def _start(self, node: LabHost, *words: str) -> subprocess.Popen[str]:
        command = ("ip", "netns", "exec", node.pod_namespace, sys.executable, udp_stream.__file__, *words)
        program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._programs.append(program)
        return program

    def __exit__(self, kind: object, *_: object) -> None:
        echo, sender = self._programs
        try:
            said, _ = sender.communicate(timeout=10)
            if kind is None:
                self.result = json.loads(said)
        finally:
            for program in (sender, echo):
                program.kill()
                program.communicate()

    def check(self, at_least_s: float) -> None:
        """Not one packet was lost, and none came under another address."""
        print({**self.result, "lost": len(self.result["lost"])})
        assert self.result["lost"] == []
        assert self.result["changed"] == []
        assert at_least_s < self.result["took_s"] < udp_stream.LIMIT_S  # it was ended, and ran all the time
        assert self.result["sent"] > 900 * self.result["took_s"]
