"""What a v3 watch that hears nothing asks: a progress request, or else a read that shows that its endpoint works.

Every etcd member since 3.4 answers a progress request on the watch's own stream, which is the best proof there is.
etcd's gRPC proxy does not forward it; before 3.4.20 and 3.5 it even ends with a panic (etcd's pull requests 12311 and
14151), so a proxy is not sent any. It is known by its list of members: itself, without the header that tells the
cluster. What else gives no answer (etcd 3.3, other stores with etcd's API) is remembered by its endpoint.

There the proof is a linearizable read of one key, within the deadline of a call: the endpoint works, and a majority of
the members behind it. It does not prove that the stream itself still gets events: the complete lists find that.
"""

from structlog.typing import FilteringBoundLogger

from pyflanneld.errors import RegistryDenied, RegistryError
from pyflanneld.etcd.v3 import rpc_pb2 as rpc
from pyflanneld.etcd.v3.calls import Caller, metadata
from pyflanneld.etcd.v3.channel import Endpoint
from pyflanneld.etcd.v3.methods import MEMBER_LIST, RANGE, A, Method, Q
from pyflanneld.etcd.v3.status import CallRefused


async def takes_progress_requests(caller: Caller, endpoint: Endpoint, log: FilteringBoundLogger) -> bool:
    """Return whether *endpoint* may be sent a progress request. Never raises."""
    if endpoint.answers_progress is not None:
        return endpoint.answers_progress
    try:
        answer = await _ask(caller, endpoint, MEMBER_LIST, rpc.MemberListRequest())
    except RegistryError:
        return False
    if not answer.header.cluster_id:
        note_no_progress(endpoint, log)
    return bool(answer.header.cluster_id)


def note_no_progress(endpoint: Endpoint, log: FilteringBoundLogger) -> None:
    """Remember that *endpoint* answers no progress requests."""
    endpoint.answers_progress = False
    log.debug("watch.progress_unanswered", endpoint=endpoint.url)


async def read_header(caller: Caller, endpoint: Endpoint, key: bytes) -> rpc.ResponseHeader | None:
    """Read *key* and return the header of the answer; ``None`` for a refusal, which is an answer too.

    Raises:
        RegistryUnavailable: the endpoint does not answer, or etcd behind it does not.
    """
    try:
        return (await _ask(caller, endpoint, RANGE, rpc.RangeRequest(key=key))).header
    except (CallRefused, RegistryDenied):
        return None


async def _ask(caller: Caller, endpoint: Endpoint, method: Method[Q, A], request: Q) -> A:
    shown = metadata(await caller.tokens.current(endpoint))
    return await endpoint.ask(method, request, timeout_s=caller.timing.rpc_s, metadata=shown)
