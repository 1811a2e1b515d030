"""``pyflanneld config``: the network configuration, checked before anybody writes it. Shell side.

The parser is the daemon's. Writing is guarded by what was read a moment before, configuration and leases alike.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyflanneld.commands.common_flags import OUTPUT, is_on, own_switch, wants_json
from pyflanneld.commands.output import GREEN, RED, YELLOW, Paint, columns
from pyflanneld.config.flags import ETCD, FLAGS
from pyflanneld.config.settings import Settings, load_words
from pyflanneld.core.etcd_types import ConfigRecord
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.link.selection import Link
from pyflanneld.core.network import review as configreview
from pyflanneld.core.network.config import NetworkConfig
from pyflanneld.core.network.review import Effect, LeaseFate
from pyflanneld.errors import KernelError, PyflanneldError, RegistryError, UnsupportedConfig, UsageError
from pyflanneld.logs.setup import configure_logging
from pyflanneld.ports import FullRegistry
from pyflanneld.tasks.network import usable_config

TITLE = """\
pyflanneld config: the network configuration in etcd.

Usage: pyflanneld config check FILE|-            is it valid, and what does it come to? Asks nobody.
       pyflanneld config show                    what is in etcd, with its verdict
       pyflanneld config set FILE|- [--dry-run] [--force]

FILE holds the JSON document, - is the standard input. Set checks it first and says what becomes of the leases there
are; where a live one would not fit any more it refuses, unless --force is given. It writes the file's bytes, only if
nobody has changed the configuration meanwhile. Running daemons take a new one at their next start.

Exit codes: 0 valid, shown, written, or there already; 1 not valid, none there, refused or failed; 2 wrong usage.
"""
_DRY_RUN = own_switch("dry-run", "Set: only say what would be done.")
_FORCE = own_switch("force", "Set: write it although live leases do not fit.")
CONFIG_FLAGS = (OUTPUT, _DRY_RUN, _FORCE, *(flag for flag in FLAGS if flag.group == ETCD))
_MAX_BYTES = 64 * 1024


_Connect = Callable[[Settings], AbstractAsyncContextManager[FullRegistry]]


class Refusal(PyflanneldError):
    """What was asked for must not be done, or somebody was quicker."""


@dataclass(frozen=True, slots=True)
class Review:
    """A document and what is known of it; *config* is ``None`` where it is not usable, *problem* says why."""

    where: str
    document: bytes
    config: NetworkConfig | None
    problem: str
    remarks: tuple[str, ...]


def main(words: Sequence[str], *, connect: _Connect) -> int:
    """Do what *words* (those after ``config``) ask for; return the exit code.

    Raises:
        UsageError: they cannot be understood.
        SystemExit: 0, after ``--help`` was answered.
    """
    plain, settings, given = load_words(words, os.environ, title=TITLE, flags=CONFIG_FLAGS)
    as_json = wants_json(given)
    configure_logging(settings.log_format, settings.verbosity)
    try:
        match plain:
            case ["check", file]:
                return _tell(_review(file, _read(file), asyncio.run(_links())), as_json=as_json)
            case ["show"]:
                return asyncio.run(_show(settings, connect, as_json=as_json))
            case ["set", file]:
                force, dry_run = is_on(given, _FORCE), is_on(given, _DRY_RUN)
                return asyncio.run(_set(settings, connect, file, force=force, dry_run=dry_run))
    except (RegistryError, Refusal) as error:
        sys.stderr.write(f"pyflanneld config: {error}\n")
        return 1
    raise UsageError("config needs one of: check FILE, show, set FILE; FILE may be - for the standard input")


def _read(file: str) -> bytes:
    try:
        if file == "-":
            return sys.stdin.buffer.read(_MAX_BYTES + 1).strip()
        with Path(file).open("rb") as source:
            return source.read(_MAX_BYTES + 1).strip()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from None


async def _links() -> tuple[Link, ...]:
    """Return this host's links, nothing where they cannot be asked for."""
    from pyflanneld.netlink.kernel import NetlinkKernel

    kernel = NetlinkKernel(protocol=103)  # any: nothing is put here
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
    return Review(where, document, config, "", tuple(configreview.remarks(document, config, links)))


def _tell(review: Review, *, as_json: bool) -> int:
    """Say what is known of a document; return the exit code."""
    facts = configreview.config_facts(review.config) if review.config else []
    if as_json:
        told: dict[str, Any] = {
            "valid": review.config is not None, "problem": review.problem or None, "remarks": list(review.remarks),
            "facts": dict(facts),
        }  # fmt: skip
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
    else:
        sys.stdout.write(_text(review, facts))
    return 0 if review.config is not None else 1


def _text(review: Review, facts: Sequence[tuple[str, str]]) -> str:
    paint = Paint(sys.stdout)
    verdict = paint("valid", GREEN) if review.config else paint("not usable", RED)
    lines = [f"{review.where}: {verdict}" + (f": {review.problem}" if review.problem else "")]
    lines += [f"  {line}" for line in columns(facts)] if facts else []
    lines += [f"{paint('!', YELLOW)} {remark}" for remark in review.remarks]
    return "\n".join(lines) + "\n"


async def _show(settings: Settings, connect: _Connect, *, as_json: bool) -> int:
    async with connect(settings) as store:
        record = await store.read_config()
        where = f"{settings.etcd_prefix}/config ({store.endpoint}, API v{store.api})"
    if record.value is None:
        raise Refusal(f"there is no network configuration at {where}")
    if not as_json:
        sys.stdout.write(record.value.decode(errors="backslashreplace").strip() + "\n")
    return _tell(_review(where, record.value, await _links()), as_json=as_json)


async def _set(
    settings: Settings, connect: _Connect, file: str, *, force: bool, dry_run: bool
) -> int:
    review = _review(file, _read(file), await _links())
    if _tell(review, as_json=False):
        return 1
    assert review.config is not None  # noqa: S101 - told as not usable otherwise
    async with connect(settings) as store:
        seen = await store.read_config()
        where = f"{settings.etcd_prefix}/config ({store.endpoint}, API v{store.api})"
        if seen.value == review.document:
            _say(f"{where} says exactly this already")
            return 0
        effects = configreview.effects((await store.list_subnets()).records, review.config)
        _say_changes(seen, review.config, effects)
        _refuse(effects, review.config, force=force)
        if dry_run:
            _say(f"{where} would be written")
        elif not await store.write_config(review.document, seen=seen):
            raise Refusal("somebody has changed the configuration this moment; nothing was done")
        else:
            _say(f"{where} is written; daemons that run take it at their next start")
    return 0


def _say_changes(seen: ConfigRecord, config: NetworkConfig, effects: Sequence[Effect]) -> None:
    before = None
    if seen.value is not None:
        with suppress(Invalid, UnsupportedConfig):
            before = usable_config(seen.value, "it")[0]
    _say("what changes:")
    for line in configreview.differences(before, config) or ["nothing but its spelling"]:
        _say(f"  {line}")
    if before is not None and before.backend_type != config.backend_type:
        _say("! another backend: until every host has been restarted, hosts of the two do not reach each other")
    stays = sum(one.fate is LeaseFate.STAYS for one in effects)
    _say(f"{stays} of {len(effects)} leases stay as they are")
    for one in effects:
        if one.fate is not LeaseFate.STAYS:
            _say(f"  {one.text}")


def _refuse(effects: Sequence[Effect], config: NetworkConfig, *, force: bool) -> None:
    """Raise ``Refusal`` where live leases would not fit, or not find room, and nobody says that it is meant."""
    moving = sum(one.fate is LeaseFate.MOVES for one in effects)
    crowd = configreview.crowded(effects, config)
    reasons = [f"{moving} live lease{'s' if moving > 1 else ''} would not fit any more"] if moving else []
    reasons += [f"there would be {crowd}"] if crowd else []
    if reasons and not force:
        raise Refusal(f"{' and '.join(reasons)}; nothing was done; --force writes it all the same")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
