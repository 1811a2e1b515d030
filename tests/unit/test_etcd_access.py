"""Endpoints, keys and credentials as values."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from pyflanneld.etcd.access import EtcdAccess, host_port
from pyflanneld.etcd.v3.keyspace import KeySpace


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://192.168.14.12:2379", "192.168.14.12", 2379),
        ("https://192.168.14.12:2379/", "192.168.14.12", 2379),
        ("https://192.168.14.12", "192.168.14.12", 2379),
        ("http://[fd00::12]:2380", "fd00::12", 2380),
        ("https://etcd1.example:4001", "etcd1.example", 4001),
        ("http://localhost:2379", "localhost", 2379),
    ],
)
def test_host_and_port(url: str, host: str, port: int) -> None:
    """Addresses are used as addresses and names as names, with etcd's port where none is given."""
    assert host_port(url) == (host, port)


@pytest.mark.parametrize("prefix", ["/coreos.com/network", "/coreos.com/network/"])
def test_keys(prefix: str) -> None:
    """Keys are flannel's, and the range of the subnets is exact."""
    keys = KeySpace.below(prefix)
    assert keys.config == b"/coreos.com/network/config"
    assert (keys.subnets, keys.subnets_end) == (b"/coreos.com/network/subnets/", b"/coreos.com/network/subnets0")
    assert keys.key(b"172.7.21.0-24") == b"/coreos.com/network/subnets/172.7.21.0-24"


def test_prefix_without_a_slash() -> None:
    """etcd's keys need not begin with a slash, and ours are where the operator put them."""
    assert KeySpace.below("network").config == b"network/config"


@pytest.mark.parametrize("password", ["sentinel", SecretStr("sentinel")])
def test_password_is_never_shown(password: str | SecretStr) -> None:
    """The text form of the settings holds no password; the one request that needs it gets it."""
    access = EtcdAccess(("http://127.0.0.1:2379",), "/net", username="flannel", password=password)
    assert "sentinel" not in repr(access) + str(access)
    assert access.password_text() == "sentinel"


def test_secure() -> None:
    """https endpoints are secure, http ones are not; no password is an empty one."""
    access = EtcdAccess(("https://127.0.0.1:2379",), "/net", ca_file=Path("ca.pem"))
    assert (access.secure, access.password_text()) == (True, "")
    assert not EtcdAccess(("http://127.0.0.1:2379",), "/net").secure


def test_settings_need_no_grpc() -> None:
    """Saying where etcd is does not load gRPC: ``pyflanneld --help`` stays fast."""
    code = "import sys, pyflanneld.etcd.access; sys.exit('grpclib' in sys.modules or 'google.protobuf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
