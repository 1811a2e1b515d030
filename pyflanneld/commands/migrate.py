"""``pyflanneld migrate``: copy configuration and leases from etcd's v2 API to its v3 API. Shell side.

The order makes it safe while daemons run: first the leases, last the configuration. A daemon that starts with
``--etcd-api=auto`` uses the API that holds the configuration, and has to find its lease there. While there are
conflicts the configuration is held back. Nothing is overwritten or deleted on either side, so it can be repeated.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from random import Random

import structlog

from pyflanneld.config.go_flags import Flag, FlagKind
from pyflanneld.config.load import load_some
from pyflanneld.config.settings import ETCD, FLAGS
from pyflanneld.core.etcd_types import ConfigRecord
from pyflanneld.core.invalid import shown
from pyflanneld.core.lease.migration import MigrationFate, MigrationStep, OldKey, plan_migration, same_config
from pyflanneld.daemon.wiring import access
from pyflanneld.errors import RegistryError
from pyflanneld.etcd.access import EtcdAccess
from pyflanneld.etcd.v2.registry import EtcdV2Registry
from pyflanneld.etcd.v3.registry import EtcdV3Registry
from pyflanneld.logs.setup import configure_logging

TITLE = """\
pyflanneld migrate: copy the network configuration and the leases from etcd's v2 API to its v3 API.

Usage: pyflanneld migrate [flags]

Leases keep their remaining time to live; reservations stay without one. Nothing is overwritten or deleted, and it may
be repeated. Exit code 0: v3 holds everything; 1: it does not, and the output says why.
"""
MIGRATE_FLAGS = (
    *(flag for flag in FLAGS if flag.group == ETCD and flag.name != "etcd-api"),
    Flag("dry-run", FlagKind.BOOL, False, "Only show what would be done.", "", "migration", from_env=False),
    Flag("help", FlagKind.BOOL, False, "Print this text and exit.", "", "migration", from_env=False),
)
_VERIFY_SLACK_S = 60


def main(words: Sequence[str]) -> int:
    """Run the command with *words*, those after ``migrate``; return the exit code."""
    settings, given = load_some(words, os.environ, title=TITLE, flags=MIGRATE_FLAGS)
    configure_logging("console", 0)
    print(f"from etcd v2 to v3 at {', '.join(settings.etcd_endpoints)}, below {settings.etcd_prefix}")
    try:
        return asyncio.run(_migrate(access(settings), dry_run=given["dry-run"].value is True))
    except RegistryError as error:
        sys.stderr.write(f"pyflanneld migrate: {error}\n")
        sys.stderr.write("it may be repeated at any time: what is copied already stays as it is\n")
        return 1


@dataclass(frozen=True, slots=True)
class _Stores:
    """Both APIs of one etcd."""

    v2: EtcdV2Registry
    v3: EtcdV3Registry


async def _migrate(access: EtcdAccess, *, dry_run: bool) -> int:
    rng, log = Random(), structlog.get_logger("pyflanneld")
    async with AsyncExitStack() as stack:
        stores = _Stores(EtcdV2Registry(access, rng=rng, log=log), EtcdV3Registry(access, rng=rng, log=log))
        for store in (stores.v2, stores.v3):
            stack.push_async_callback(store.close)
        return await _run(stores, dry_run=dry_run)


async def _run(stores: _Stores, *, dry_run: bool) -> int:
    config = (await stores.v2.read_config()).value
    if config is None:
        print("v2 has no network configuration there: nothing to migrate")
        return 1
    steps = plan_migration(await _old_keys(stores), (await stores.v3.list_subnets()).records)
    for step in steps:
        if step.fate is MigrationFate.COPY and not dry_run:
            await stores.v3.import_subnet(step.key.name, step.value, step.key.ttl_s)
        print(_line(step, dry_run=dry_run))
    conflicts = sum(step.fate is MigrationFate.CONFLICT for step in steps)
    conflicts += await _config(stores, config, held_back=bool(conflicts), dry_run=dry_run)
    print(_summary(steps, conflicts, dry_run=dry_run))
    wrong = [] if dry_run else await _verify(stores, steps)
    for text in wrong:
        print(text)
    if not dry_run and not wrong:
        print("read back from v3: everything is as it should be")
    return 1 if conflicts or wrong else 0


async def _old_keys(stores: _Stores) -> list[OldKey]:
    remaining = await stores.v2.remaining()
    records = (await stores.v2.list_subnets()).records
    there = (record for record in records if record.name in remaining)
    return [OldKey(record.name, record.value, remaining[record.name]) for record in there]


async def _config(stores: _Stores, config: bytes, *, held_back: bool, dry_run: bool) -> int:
    """Copy the configuration; return the number of conflicts."""
    there = (await stores.v3.read_config()).value
    if there is not None:
        same = same_config(config, there)
        print(_row("config", "", "there already" if same else f"conflict: v3 says {shown(there)}"))
        return 0 if same else 1
    if held_back:
        print(_row("config", "", "held back until the conflicts are solved: daemons would move to v3"))
        return 0
    if not dry_run:
        await stores.v3.write_config(config, seen=ConfigRecord(None, 0))
    print(_row("config", shown(config), "would be copied" if dry_run else "copied"))
    return 0


async def _verify(stores: _Stores, steps: Sequence[MigrationStep]) -> list[str]:
    """Read back what was copied; return one line for each key that is wrong."""
    records = (await stores.v3.list_subnets()).records
    found, left = {record.name: record for record in records}, await stores.v3.times_to_live(records)
    wrong = []
    for step in steps:
        record = found.get(step.key.name)
        if step.fate is not MigrationFate.COPY:
            continue
        if record is None or record.value != step.value:
            wrong.append(f"{_name(step)}: v3 does not hold what was written; something else writes there")
            continue
        ttl_s, wanted_s = int(left[record.name].left_s) if record.lease_id else None, step.key.ttl_s
        if (ttl_s is None) != (wanted_s is None) or (ttl_s or 0) > (wanted_s or 0) + _VERIFY_SLACK_S:
            wrong.append(f"{_name(step)}: v3 holds it with another time to live, {_left(ttl_s)}")
    return wrong


def _line(step: MigrationStep, *, dry_run: bool) -> str:
    match step.fate:
        case MigrationFate.COPY:
            text = f"{'would be copied' if dry_run else 'copied'}, {_left(step.key.ttl_s)}"
        case MigrationFate.THERE:
            text = "there already"
        case _:
            text = f"{step.fate.value}: {step.why}"
    return _row(_name(step), shown(step.key.value), text)


def _row(name: str, value: str, text: str) -> str:
    return f"  {name}: {text}" + (f"\n      {value}" if value else "")


def _name(step: MigrationStep) -> str:
    return (
        step.key.name.decode(errors="backslashreplace")
        if step.fate is not MigrationFate.LEFT_OUT
        else shown(step.key.name)
    )


def _left(ttl_s: int | None) -> str:
    return "a reservation (no TTL)" if ttl_s is None else f"{ttl_s // 3600} h {ttl_s % 3600 // 60} min left"


def _summary(steps: Sequence[MigrationStep], conflicts: int, *, dry_run: bool) -> str:
    count = {fate: sum(step.fate is fate for step in steps) for fate in MigrationFate}
    done = "would be copied" if dry_run else "copied"
    return (
        f"{len(steps)} keys in v2: {count[MigrationFate.COPY]} {done}, {count[MigrationFate.THERE]} there already, "
        f"{count[MigrationFate.LEFT_OUT]} left out; {conflicts} conflicts"
    )
