"""Thousands of changes of keys in seconds, each a revision of its own: by etcd's JSON gateway, several at once."""

import base64
import http.client
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pyflanneld.lab import topology


@dataclass(frozen=True, slots=True)
class Change:
    """A key and its new value, with its etcd lease (0: none); value ``None``: it is deleted."""

    key: str
    value: str | None
    lease: int = 0


def change_all(namespace: str, addresses: Sequence[str], changes: Sequence[Change]) -> None:
    """Make all changes, those of one key in their order, by the members at *addresses*, seen from a namespace."""
    sys.audit("tests.action", "gateway", "txn")  # for the observers
    lanes: list[list[Change]] = [[] for _ in range(4 * len(addresses))]
    for change in changes:
        lanes[hash(change.key) % len(lanes)].append(change)
    with ThreadPoolExecutor(len(lanes)) as pool:
        jobs = [pool.submit(_make, namespace, addresses[at % len(addresses)], lane) for at, lane in enumerate(lanes)]
        for job in jobs:
            job.result()


def _make(namespace: str, address: str, changes: Sequence[Change]) -> None:
    connection = http.client.HTTPConnection(address, 2379)
    connection.sock = topology.connect_namespaces(namespace, address, 2379, 10.0)
    try:
        for change in changes:
            body = {"key": base64.b64encode(change.key.encode()).decode()}
            if change.value is not None:
                body |= {"value": base64.b64encode(change.value.encode()).decode(), "lease": str(change.lease)}
            path = "/v3/kv/deleterange" if change.value is None else "/v3/kv/put"
            connection.request("POST", path, json.dumps(body))
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == http.client.OK, text
    finally:
        connection.close()
