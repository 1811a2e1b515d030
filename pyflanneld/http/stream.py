"""What the page is sent while it is open: the state of the first moment, then what has changed, as server-sent events.

Each client's handler looks twice a second and sends the difference to what this client has got; so a slow one gets
fewer and larger steps, and there are no queues. The look itself is shared. Without a client nothing runs.

Messages (``event:``, and ``data:`` as JSON):

* ``state``: the report, as ``/status`` has it; when something in it but its clock has changed, and every few seconds;
* ``peers``: ``{"all": bool, "rows": {id: row}, "gone": [id]}``, rows as in ``/peers``; *all*: forget what was before;
* ``log``: a list of events, as in ``/events``.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from aiohttp import web

from pyflanneld.core.status.table_view import PeerRow
from pyflanneld.errors import KernelError
from pyflanneld.http.listener import STREAM
from pyflanneld.http.operator import StatusSource
from pyflanneld.state.wakeup import set_within

CLIENTS = 8
LOOK_S = 0.5
STATE_S = 5.0   # a sign of life too
PEERS_S = 5.0   # what no event tells of: the neighbours' states
SLOW_S = 10.0
_MANY = 200
_CLOCKS = frozenset({
    "uptime_s", "for_s", "left_s", "confirmed_s_ago", "heard_s_ago", "lag_s", "event_s_ago", "certificates_left_s",
})  # fmt: skip

Rows = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Moment:
    """What there was at one look.

    Attributes:
        steady: the report without its clocks.
        number: of the last event.
        rows_at_s: when the rows were made.
    """

    at_s: float
    report: Mapping[str, Any]
    steady: Any
    rows: Rows
    rows_at_s: float
    events: Sequence[Mapping[str, Any]]
    number: int


@dataclass(slots=True)
class _Sent:
    """What one client has got."""

    state_at_s: float = float("-inf")
    steady: Any = None
    rows: Rows | None = None
    number: int = 0


class Stream:
    """Answers the clients that listen.

    Args:
        told: what is told of.
    """

    def __init__(self, told: StatusSource) -> None:
        self._told = told
        self._ending = asyncio.Event()
        self._looking = asyncio.Lock()
        self._moment: Moment | None = None
        self._clients = 0

    async def end(self, _app: object = None) -> None:
        """Let every client go."""
        self._ending.set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Stream to one client until it goes, is too slow, or the daemon ends."""
        if self._clients >= CLIENTS:
            raise web.HTTPServiceUnavailable(text=f"{CLIENTS} pages are open already, which is all there can be")
        self._clients += 1
        try:
            response = web.StreamResponse(headers={"Content-Type": STREAM})
            await response.prepare(request)
            with suppress(ConnectionError):
                await self._follow(request, response)
            return response
        finally:
            self._clients -= 1
            if not self._clients:
                self._moment = None

    async def _follow(self, request: web.Request, response: web.StreamResponse) -> None:
        sent = _Sent()
        while not self._ending.is_set() and request.transport is not None and not request.transport.is_closing():
            moment = await self._look()
            many = len(moment.rows) > _MANY and moment.rows is not sent.rows
            data = await asyncio.to_thread(_news, moment, sent) if many else _news(moment, sent)
            if data and not await _written(request, response, data):
                return
            await set_within(self._ending, LOOK_S)

    async def _look(self) -> Moment:
        """Return this moment, or one that is no older than half the time between two looks."""
        async with self._looking:
            now_s = asyncio.get_running_loop().time()
            if self._moment is None or now_s - self._moment.at_s > LOOK_S / 2:
                self._moment = await self._made(now_s, self._moment)
            return self._moment

    async def _made(self, now_s: float, before: Moment | None) -> Moment:
        report, events = asdict(self._told.source.status(self._told.level())), self._told.events()
        number = events[-1]["number"] if events else 0
        rows, rows_at_s = (before.rows, before.rows_at_s) if before else ({}, float("-inf"))
        if before is None or number != before.number or now_s - rows_at_s > PEERS_S:
            with suppress(KernelError):  # the report tells
                found = await self._told.source.peers()
                rows = await asyncio.to_thread(_by_id, found) if len(found) > _MANY else _by_id(found)
                rows_at_s = now_s
        return Moment(now_s, report, _steady(report), rows, rows_at_s, events, number)


async def _written(request: web.Request, response: web.StreamResponse, data: bytes) -> bool:
    """Send *data*; cut a client off that does not take it, for aiohttp would wait for it to take the rest."""
    try:
        async with asyncio.timeout(SLOW_S):
            await response.write(data)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        return False
    return True


def _by_id(rows: Sequence[PeerRow]) -> Rows:
    """Return the rows by key and, for the halves of a dual-stack key, subnet; whole minutes of doubt."""
    found = {}
    for row in rows:
        value = asdict(row)
        if row.quarantined_s is not None:
            value["quarantined_s"] = row.quarantined_s // 60 * 60
        found[f"{row.key} {row.subnet}"] = value
    return found


def _steady(value: Any) -> Any:
    """Return *value* without what changes by itself as time goes by."""
    if isinstance(value, Mapping):
        return {key: _steady(item) for key, item in value.items() if key not in _CLOCKS}
    return tuple(map(_steady, value)) if isinstance(value, list | tuple) else value


def _news(moment: Moment, sent: _Sent) -> bytes:
    """Return the messages for a client that has got *sent*, and take note of them there."""
    return b"".join(_messages(moment, sent))


def _messages(moment: Moment, sent: _Sent) -> Iterator[bytes]:
    if moment.steady != sent.steady or moment.at_s - sent.state_at_s > STATE_S:
        sent.steady, sent.state_at_s = moment.steady, moment.at_s
        yield _message("state", moment.report)
    if moment.rows is not sent.rows:
        before, sent.rows = sent.rows, moment.rows
        changed = {key: row for key, row in moment.rows.items() if before is None or before.get(key) != row}
        gone = [key for key in before or () if key not in moment.rows]
        if before is None or changed or gone:
            yield _message("peers", {"all": before is None, "rows": changed, "gone": gone})
    if moment.number > sent.number:
        fresh = [event for event in moment.events if event["number"] > sent.number]
        sent.number = moment.number
        yield _message("log", fresh)


def _message(kind: str, value: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(value, allow_nan=False)}\n\n".encode()
