"""The page for browsers, and the report that it polls every two seconds while somebody sees it.

Nothing runs here between two polls. A poll costs the status, a few KiB; the peers and the events come only when they
differ from those that the page has. The peers' rows are made again when the log has a new event, else after five
seconds (for what has no event: the neighbours' states), once for all pages. With 4,000 peers an unchanged poll takes
5 ms and 2 KB; new rows take 0.2 s on a thread and are 2 MB.
"""

import asyncio
import base64
import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from aiohttp import web

from pyflanneld.core.status.table_view import PeerRow
from pyflanneld.errors import KernelError
from pyflanneld.http.reports import JSON, to_json
from pyflanneld.http.source import LogAccess, StatusSource

PEERS_S = 5.0
_NOTHING = b"null"


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows as JSON, with a version that differs when they differ."""

    version: str
    body: bytes


class PageReport:
    """``{"status": {}, "peers": {"version": "", "rows": []} | null, "events": likewise}``, rows as in the reports.

    The query says what the page has: ``?peers=VERSION&events=VERSION``. *null*: it has these, or the kernel cannot be
    read, which the status says.
    """

    def __init__(self, source: StatusSource, log: LogAccess) -> None:
        self._source = source
        self._log = log
        self._making = asyncio.Lock()
        self._peers = _Part("", _NOTHING)
        self._event = 0
        self._made_at_s = float("-inf")

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one poll."""
        with suppress(KernelError):
            await self._make_peers()
        events, status = _part(self._log.events()), to_json(self._source.status(self._log.level()))
        peers_body, events_body = (
            _NOTHING if request.query.get(name) == part.version else part.body
            for name, part in (("peers", self._peers), ("events", events))
        )
        body = b'{"status": %b, "peers": %b, "events": %b}' % (status, peers_body, events_body)
        return web.Response(body=body, headers={"Content-Type": JSON})

    async def _make_peers(self) -> None:
        """Make the rows again, unless nothing can have changed much. Raises ``KernelError``."""
        async with self._making:
            now_s, events = asyncio.get_running_loop().time(), self._log.events()
            event = events[-1]["number"] if events else 0
            if event != self._event or now_s - self._made_at_s > PEERS_S:
                rows = await self._source.peers()
                self._peers = await asyncio.to_thread(lambda: _part([_steady(row) for row in rows]))
                self._event, self._made_at_s = event, now_s


def _part(rows: Sequence[object]) -> _Part:
    body = to_json(rows)
    version = hashlib.sha256(body).hexdigest()[:16]
    return _Part(version, b'{"version": "%b", "rows": %b}' % (version.encode(), body))


def _steady(row: PeerRow) -> PeerRow:
    """Return *row* without what differs at each poll: whole minutes of quarantine, and no round trip times."""
    quarantined_s = None if row.quarantined_s is None else row.quarantined_s // 60 * 60
    return replace(row, quarantined_s=quarantined_s, probe=None)


async def page(_request: web.Request) -> web.Response:
    """Answer with the page; its Content-Security-Policy lets its own style and script run and nothing else."""
    text, policy = _page()
    return web.Response(text=text, content_type="text/html", headers={"Content-Security-Policy": policy})


@cache
def _page() -> tuple[str, str]:
    text = Path(__file__).with_name("page.html").read_text("utf-8")
    style, script = (_hash_of(tag, text) for tag in ("style", "script"))
    return text, (
        f"default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    )


def _hash_of(tag: str, text: str) -> str:
    """Return the source expression for the content of the page's only *tag*."""
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
