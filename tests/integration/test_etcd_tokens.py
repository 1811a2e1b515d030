"""Users, passwords and tokens: against a scripted server, because a real one would need minutes."""

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from grpclib.const import Status

from pyflanneld.core.etcd_types import Snapshot
from pyflanneld.errors import RegistryDenied
from pyflanneld.etcd.access import EtcdAccess
from pyflanneld.etcd.v3 import rpc_pb2 as rpc
from pyflanneld.etcd.v3.registry import EtcdV3Registry
from tests.support.fakes.scripted_etcd import CLUSTER, Refusal, ScriptedEtcd, header, refused_creation

SINCE = Snapshot((), revision=10, cluster_id=CLUSTER)
PASSWORD = "sentinel-of-a-password"  # noqa: S105

Connect = Callable[..., EtcdV3Registry]


class TestAuth:
    @pytest.fixture
    def tokens(self, scripted: ScriptedEtcd) -> Callable[[], int]:
        """Let the server hand out tokens and accept the newest only; return what makes it invalid."""
        newest = itertools.count(1)
        state = {"token": ""}

        def authenticate(request: Any) -> Any:
            if request.password != PASSWORD:
                raise Refusal(
                    Status.INVALID_ARGUMENT,
                    "etcdserver: authentication failed, invalid user ID or password",
                )
            state["token"] = f"token-{next(newest)}"
            return rpc.AuthenticateResponse(token=state["token"])

        def guarded(_request: Any) -> Any:
            if scripted.tokens[-1] != state["token"]:
                raise Refusal(Status.UNAUTHENTICATED, "etcdserver: invalid auth token")
            return rpc.RangeResponse(header=header(1))

        scripted.on.update({"Authenticate": authenticate, "Range": guarded})

        def spoil() -> int:
            state["token"] = "spoilt"  # noqa: S105
            return len(scripted.asked["Authenticate"])

        return spoil

    async def test_token_is_renewed_once_for_all(
        self, scripted: ScriptedEtcd, connect: Connect, tokens: Callable[[], int]
    ) -> None:
        """However many calls are refused for an expired token, one request renews it and no call fails."""
        registry = connect(scripted, username="flannel", password=PASSWORD)
        for expected in (1, 2):
            async with asyncio.TaskGroup() as group:
                for _ in range(20):
                    group.create_task(registry.read_config())
            assert tokens() == expected

    async def test_at_most_once_a_second(
        self, scripted: ScriptedEtcd, connect: Connect, tokens: Callable[[], int]
    ) -> None:
        """A token that expires at once does not cause a flood of requests."""
        registry = connect(scripted, username="flannel", password=PASSWORD)
        begun = time.monotonic()
        for _ in range(3):
            await registry.read_config()
            tokens()
        assert len(scripted.asked["Authenticate"]) == 3
        assert time.monotonic() - begun > 1.9

    async def test_wrong_password(self, scripted: ScriptedEtcd, connect: Connect, tokens: Callable[[], int]) -> None:
        """A wrong password is refused, sent once, and appears nowhere but at etcd."""
        tokens()
        wrong = PASSWORD + "x"
        with structlog.testing.capture_logs() as logs:
            registry = connect(scripted, username="flannel", password=wrong)
            errors = []
            for _ in range(5):
                with pytest.raises(RegistryDenied) as raised:
                    await registry.read_config()
                errors.append(repr(raised.value) + repr(raised.value.__cause__))
        assert len(scripted.asked["Authenticate"]) == 1
        assert "authentication failed" in errors[-1]
        assert PASSWORD not in repr((errors, logs, registry, EtcdAccess((), "", password=wrong)))

    async def test_auth_switched_off(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """Credentials for a server that asks for none are not sent again, and that is logged once."""
        scripted.on["Authenticate"] = Refusal(Status.FAILED_PRECONDITION, "etcdserver: authentication is not enabled")
        with structlog.testing.capture_logs() as logs:
            registry = connect(scripted, username="flannel", password=PASSWORD)
            for _ in range(3):
                await registry.read_config()
        assert [entry["event"] for entry in logs].count("auth.not_enabled") == 1
        assert scripted.tokens == [None] * 4

    async def test_auth_switched_on(self, scripted: ScriptedEtcd, connect: Connect, tokens: Callable[[], int]) -> None:
        """When authentication is switched on at run time, the known credentials are used."""
        authenticate, guarded = scripted.on["Authenticate"], scripted.on.pop("Range")
        scripted.on["Authenticate"] = Refusal(Status.FAILED_PRECONDITION, "etcdserver: authentication is not enabled")
        registry = connect(scripted, username="flannel", password=PASSWORD)
        await registry.read_config()
        scripted.on["Authenticate"] = authenticate

        def empty_user(request: Any) -> Any:
            if scripted.tokens[-1] is None:
                raise Refusal(Status.INVALID_ARGUMENT, "etcdserver: user name is empty")
            return guarded(request)

        scripted.on["Range"] = empty_user
        await registry.read_config()
        assert tokens() == 2

    async def test_watch_with_a_dead_token(
        self, scripted: ScriptedEtcd, connect: Connect, tokens: Callable[[], int]
    ) -> None:
        """A watch that is refused for its token is opened again with a new one."""
        registry = connect(scripted, username="flannel", password=PASSWORD)
        await registry.read_config()
        tokens()
        async with registry.watch_subnets(SINCE) as watch:
            opening = asyncio.ensure_future(anext(watch))
            stream = await scripted.watches.get()
            await stream.say(refused_creation())
            stream = await scripted.watches.get()
            await stream.opened(10)
            assert await opening == ()
            assert stream.metadata["token"] == "token-2"  # noqa: S105
