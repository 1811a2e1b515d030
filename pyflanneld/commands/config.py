"""``pyflanneld config``: check, show and write the network configuration. Shell side.

The parser is the daemon's. A write is conditional on the configuration and the leases that were just read.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyflanneld.commands.common_flags import OUTPUT, is_on, own_switch, wants_json
from pyflanneld.commands.output import GREEN, RED, YELLOW, Paint, columns, json_text
from pyflanneld.config.load import load_words
from pyflanneld.config.settings import ETCD, FLAGS, Settings
from pyflanneld.core.etcd_types import ConfigRecord
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.link.selection import Link
from pyflanneld.core.network import review as config_review
from pyflanneld.core.network.config import NetworkConfig
from pyflanneld.core.network.go_versions import refusals
from pyflanneld.core.network.review import Effect, LeaseFate
from pyflanneld.core.printable import printable
from pyflanneld.errors import KernelError, RegistryError, RequestRefused, UnsupportedConfig, UsageError
from pyflanneld.logs.setup import configure_logging
from pyflanneld.netlink.kernel import NetlinkKernel
from pyflanneld.ports import FullRegistry
from pyflanneld.tasks.network import usable_config

TITLE = """\
pyflanneld config: the network configuration in etcd.

Usage: pyflanneld config check FILE|-            is it valid, what are its effective values? Offline.
       pyflanneld config show                    what is in etcd, with the same check
       pyflanneld config set FILE|- [--dry-run] [--force]

FILE holds the JSON document, - is the standard input. The check names what flanneld v0.11.0 or v0.28.9 cannot read: it
would wait for ever. Set checks the document first and shows its effect on the present leases; if a live lease would no
longer fit, or a flanneld cannot read it, it refuses without --force. It writes the file's bytes, and only if nobody has
changed the configuration meanwhile. A running daemon takes up a network that has grown around the old one, and applies
all else at its next start; it reports config.changed and is not ready when it would not fit the new configuration.

Exit codes: 0 valid, shown, written or unchanged; 1 not valid everywhere, missing, refused or failed; 2 wrong usage.
"""
_DRY_RUN = own_switch("dry-run", "Set: only show what would be done.")
_FORCE = own_switch("force", "Set: write it even if live leases do not fit, or a flanneld cannot read it.")
CONFIG_FLAGS = (OUTPUT, _DRY_RUN, _FORCE, *(flag for flag in FLAGS if flag.group == ETCD))
_MAX_BYTES = 64 * 1024
_SPACE = b" \t\r\n"  # JSON's; other white space is a mistake in the document


_Connect = Callable[[Settings], AbstractAsyncContextManager[FullRegistry]]


@dataclass(frozen=True, slots=True)
class Review:
    """A document and the result of its check.

    Attributes:
        config: ``None`` when no daemon can use it.
        problem: why this daemon, or a flanneld, cannot use it; empty when all can.
    """

    where: str
    document: bytes
    config: NetworkConfig | None
    problem: str
    remarks: tuple[str, ...]


def main(words: Sequence[str], *, connect: _Connect) -> int:
    """Run the command with *words*, those after ``config``; return the exit code.

    Raises:
        UsageError: the command line is wrong.
        SystemExit: 0, after ``--help`` was answered.
    """
    plain, settings, given = load_words(words, os.environ, title=TITLE, flags=CONFIG_FLAGS)
    as_json = wants_json(given)
    configure_logging(settings.log_format, settings.verbosity)
    try:
        match plain:
            case ["check", file]:
                return _report(_review(file, _read(file), asyncio.run(_links())), as_json=as_json)
            case ["show"]:
                return asyncio.run(_show(settings, connect, as_json=as_json))
            case ["set", file]:
                force, dry_run = is_on(given, _FORCE), is_on(given, _DRY_RUN)
                return asyncio.run(_set(settings, connect, file, force=force, dry_run=dry_run))
    except (RegistryError, RequestRefused) as error:
        sys.stderr.write(f"pyflanneld config: {error}\n")
        return 1
    raise UsageError("config needs one of: check FILE, show, set FILE; FILE may be - for the standard input")


def _read(file: str) -> bytes:
    try:
        if file == "-":
            return sys.stdin.buffer.read(_MAX_BYTES + 1).strip(_SPACE)
        with Path(file).open("rb") as source:
            return source.read(_MAX_BYTES + 1).strip(_SPACE)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from None


async def _links() -> tuple[Link, ...]:
    """Return this host's links, none where they cannot be read."""
    kernel = NetlinkKernel(protocol=103)  # any number: nothing is written here
    try:
        with suppress(KernelError):
            return await kernel.links()
        return ()
    finally:
        await kernel.close()


def _review(where: str, document: bytes, links: Sequence[Link]) -> Review:
    try:
        config, _ = usable_config(document, "it")
    except (Invalid, UnsupportedConfig) as error:
        return Review(where, document, None, str(error), ())
    refused = "; ".join(one.text for one in refusals(document))
    return Review(where, document, config, refused, tuple(config_review.remarks(document, config, links)))


def _report(review: Review, *, as_json: bool) -> int:
    """Print the result of a check; return the exit code."""
    facts = config_review.config_facts(review.config) if review.config else []
    if as_json:
        document: dict[str, Any] = {
            "valid": not review.problem, "problem": review.problem or None, "remarks": list(review.remarks),
            "facts": dict(facts),
        }  # fmt: skip
        sys.stdout.write(json_text(document))
    else:
        sys.stdout.write(_text(review, facts))
    return 1 if review.problem else 0


def _text(review: Review, facts: Sequence[tuple[str, str]]) -> str:
    paint = Paint(sys.stdout)
    words = ("not for every flanneld" if review.problem else "valid") if review.config else "not usable"
    verdict = paint(words, RED if review.problem else GREEN)
    lines = [f"{review.where}: {verdict}" + (f": {review.problem}" if review.problem else "")]
    lines += [f"  {line}" for line in columns(facts)] if facts else []
    lines += [f"{paint('!', YELLOW)} {remark}" for remark in review.remarks]
    return "\n".join(lines) + "\n"


async def _show(settings: Settings, connect: _Connect, *, as_json: bool) -> int:
    async with connect(settings) as store:
        record = await store.read_config()
        where = f"{settings.etcd_prefix}/config ({store.endpoint}, API v{store.api})"
    if record.value is None:
        raise RequestRefused(f"there is no network configuration at {where}")
    if not as_json:
        text = record.value.decode(errors="backslashreplace").strip()
        print("".join(char if char in "\n\t" else printable(char) for char in text))
    return _report(_review(where, record.value, await _links()), as_json=as_json)


async def _set(
    settings: Settings, connect: _Connect, file: str, *, force: bool, dry_run: bool
) -> int:
    review = _review(file, _read(file), await _links())
    _report(review, as_json=False)
    if review.config is None:
        return 1
    async with connect(settings) as store:
        seen = await store.read_config()
        where = f"{settings.etcd_prefix}/config ({store.endpoint}, API v{store.api})"
        if seen.value == review.document:
            print(f"{where} holds exactly this already")
            return 0
        effects = config_review.effects((await store.list_subnets()).records, review.config)
        _print_changes(seen, review.config, effects)
        _refuse(effects, review.config, refused=bool(review.problem), force=force)
        if dry_run:
            print(f"{where} would be written")
        elif not await store.write_config(review.document, seen=seen):
            raise RequestRefused("somebody changed the configuration at this moment; nothing was done")
        else:
            print(f"{where} is written; running daemons take up a larger network now, all else at their next start")
    return 0


def _print_changes(seen: ConfigRecord, config: NetworkConfig, effects: Sequence[Effect]) -> None:
    before = None
    if seen.value is not None:
        with suppress(Invalid, UnsupportedConfig):
            before = usable_config(seen.value, "it")[0]
    print("what changes:")
    for line in config_review.differences(before, config) or ["only its spelling"]:
        print(f"  {line}")
    if before is not None and before.backend_type != config.backend_type:
        for line in _backend_change(before, config):
            print(line)
    stays = sum(one.fate is LeaseFate.STAYS for one in effects)
    print(f"{stays} of {len(effects)} leases stay as they are")
    for one in effects:
        if one.fate is not LeaseFate.STAYS:
            print(f"  {one.text}")


def _backend_change(before: NetworkConfig, config: NetworkConfig) -> list[str]:
    """Return what a change of the backend does, and in which order to make it."""
    if not config_review.reaches_on(before, config):
        return ["! another backend: until every host has restarted, hosts of the two backends do not reach each other"]
    lines = [
        "! another backend: restart the daemons one after the other, in any order. Meanwhile hosts of both backends",
        "  reach each other if they are on one LAN and run pyflanneld; a Go flanneld and hosts behind a router do not.",
    ]
    if config.backend_type == "vxlan":
        return [*lines, "  Then restart Docker on each host: its containers get an MTU that fits into the tunnels."]
    return [*lines, "  host-gw leads behind no router: keep vxlan if `pyflanneld peers` has one that is not ON LINK."]


def _refuse(effects: Sequence[Effect], config: NetworkConfig, *, refused: bool, force: bool) -> None:
    """Raise ``RequestRefused`` if live leases would not fit, not all find a subnet, or a flanneld *refused* it."""
    moving = sum(one.fate is LeaseFate.MOVES for one in effects)
    crowd = config_review.crowded(effects, config)
    reasons = [f"{moving} live lease{'s' if moving > 1 else ''} would no longer fit"] if moving else []
    reasons += [f"there would be {crowd}"] if crowd else []
    reasons += ["it is not for every flanneld"] if refused else []
    if reasons and not force:
        raise RequestRefused(f"{' and '.join(reasons)}; nothing was done; --force writes it nevertheless")
