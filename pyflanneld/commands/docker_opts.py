"""Tool: ``pyflanneld docker-opts``, in the place of flannel's ``mk-docker-opts.sh``.

Same options, same file, and the script's exit code 1 for whatever goes wrong, ``-h`` and a wrong option included. As
its version of v0.28.9 does, and that of v0.11.0 does not, it ends with 1, the file being written, when the routing
table has a way to the own subnet through another node: Docker's bridge would compete with it. Other than the script,
it never writes options without a subnet, with which Docker would start on one of its own: the file stays as it was.
"""

import argparse
import asyncio
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import NoReturn

from pyflanneld.core import docker
from pyflanneld.core.docker import DockerVersion, Leased
from pyflanneld.core.invalid import Invalid, shown
from pyflanneld.core.lease.subnet_env import assignments
from pyflanneld.errors import KernelError, UsageError
from pyflanneld.system import docker_version
from pyflanneld.system.atomic_files import write_file

_SUBNET_FILE = Path("/run/flannel/subnet.env")
_DOCKER_FILE = Path("/run/docker_opts.env")
_STDOUT = frozenset({"-", "/dev/stdout"})
_ROUTE_PROTOCOL = 103  # any: nothing is put here


def main(argv: Sequence[str]) -> int:
    """Run ``pyflanneld docker-opts`` with these arguments (without the word itself) and return the exit code."""
    try:
        return _run(_arguments(argv))
    except (Invalid, UsageError) as error:
        _say(str(error))
    except OSError as error:
        _say(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return 1


def _run(given: argparse.Namespace) -> int:
    values = {**os.environ, **_subnet_file(given.subnet_file)}
    if not given.ip_masq:
        values.pop("FLANNEL_IPMASQ", None)
    try:
        leased = Leased.read(values)
    except Invalid as error:
        missing = not values.get("FLANNEL_SUBNET") and not given.subnet_file.exists()
        why = "there is no such file, and so no subnet yet" if missing else error
        raise UsageError(f"{given.subnet_file}: {why}") from None
    known = _version(given)
    match given.format:
        case "env":
            _write_environment(given, values, leased, known)
        case "json":
            _write_json(given, leased, known)
        case "network":
            print(*docker.network_arguments(leased, known, given.trusted))
    opened = not given.direct_routing or (given.format == "network" and known is not None)
    if not opened and (remark := docker.remark(leased, known)):
        _say(remark)
    return _look_at_routes(leased.bridge.network)


def _subnet_file(path: Path) -> dict[str, str]:
    """Return what the subnet file sets, nothing if there is none: the environment may have it all."""
    try:
        return assignments(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not text") from None


def _version(given: argparse.Namespace) -> DockerVersion | None:
    """Return Docker's version as far as it matters for what was asked for."""
    if not given.direct_routing:
        return None
    found: DockerVersion | None = given.docker_version or docker_version.installed()
    if given.trusted and (found is None or found < docker.ALLOWS):
        raise UsageError(f"--trusted-interface needs Docker {docker.ALLOWS} or later; this is {found or 'not known'}")
    return found


def _write_environment(
    given: argparse.Namespace, values: Mapping[str, str], leased: Leased, known: DockerVersion | None
) -> None:
    if given.docker_file.resolve() == given.subnet_file.resolve():
        _say(f"{given.docker_file} is the subnet file, which pyflanneld will put right again: write elsewhere (-d)")
    both = given.single == given.combined
    wanted = docker.docker_options(leased, known)
    text = docker.environment_text(
        wanted, values, given.key, single=given.single or both, combined=given.combined or both
    )
    if str(given.docker_file) in _STDOUT:
        print(text, end="")  # opened by its name, it would be another file to what writes there before and after us
    else:
        write_file(given.docker_file, text)


def _write_json(given: argparse.Namespace, leased: Leased, known: DockerVersion | None) -> None:
    """Print the options as JSON, or merge them into a ``daemon.json`` and say what has changed."""
    wanted = docker.docker_options(leased, known)
    if given.into is None:
        print(_json(docker.merged({}, wanted, leased)), end="")
        return
    document = _document(given.into)
    try:
        after = docker.merged(document, wanted, leased)
    except Invalid as error:
        raise UsageError(f"{given.into}: {error}") from None
    changed = [key for key, value in after.items() if key not in document or _json(document[key]) != _json(value)]
    if changed:
        write_file(given.into, _json(after))
    _say(f"{given.into}: {', '.join(changed)} set; restart Docker" if changed else f"{given.into} is right already")


def _document(path: Path) -> dict[str, object]:
    try:
        document = json.loads(path.read_text(encoding="utf-8") or "{}")
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        raise UsageError(f"{path}: is no JSON; it stays as it is") from None
    if not isinstance(document, dict):
        raise UsageError(f"{path}: is no JSON object; it stays as it is")
    return document


def _json(document: object) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _look_at_routes(subnet: IPv4Network) -> int:
    """Return 1 when another node is the way to our own subnet; 0 also where nobody may look."""
    from pyflanneld.netlink.kernel import NetlinkKernel  # late: --help needs no netlink

    async def ways() -> list[str]:
        kernel = NetlinkKernel(protocol=_ROUTE_PROTOCOL)
        try:
            return [str(route.gateway) for route in await kernel.routes() if route.dst == subnet and route.gateway]
        finally:
            await kernel.close()

    try:
        found = asyncio.run(ways())
    except KernelError as error:
        _say(f"the routing table cannot be read: {error}")
        return 0
    if found:
        _say(f"the routing table has our own subnet {subnet} via {', '.join(found)}: remove that route")
    return int(bool(found))


def _say(text: str) -> None:
    print(f"pyflanneld docker-opts: {text}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """argparse with the script's manners: how to use it goes to stderr, with exit code 1."""

    def error(self, message: str) -> NoReturn:
        self.print_help(sys.stderr)
        self.exit(1, f"\npyflanneld docker-opts: {message}\n")


class _Help(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        parser.print_help(sys.stderr)
        parser.exit(1)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    reader = parser()
    given = reader.parse_args(argv)
    given.format = given.format or ("json" if given.into else "env")
    if given.into and given.format != "json":
        reader.error(f"--into takes the json form, not --format={given.format}")
    if given.trusted and (given.format != "network" or not given.direct_routing):
        reader.error("--trusted-interface is for --format=network, and not together with --no-direct-routing")
    return given


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = _Parser(
        prog="pyflanneld docker-opts", add_help=False, allow_abbrev=False,
        description="Write the options that put Docker's bridge on the leased subnet.",
    )
    add = made.add_argument
    add("-f", dest="subnet_file", type=Path, default=_SUBNET_FILE, metavar="FILE", help="subnet file (%(default)s)")
    add("-d", dest="docker_file", type=Path, default=_DOCKER_FILE, metavar="FILE", help="to write, or - (%(default)s)")
    add("-i", dest="single", action="store_true", help="only one variable for each option: DOCKER_OPT_MTU, ...")
    add("-c", dest="combined", action="store_true", help="only the variable with all options")
    add("-k", dest="key", type=_variable, default="DOCKER_OPTS", metavar="NAME", help="its name (%(default)s)")
    add("-m", dest="ip_masq", action="store_false", help="leave --ip-masq out")
    add("-h", action=_Help, nargs=0, help="print this on stderr, exit 1")
    add("--help", action="help", help="print this, exit 0")
    add("--format", choices=("env", "json", "network"), help="env, the default: the file above; json: for daemon.json, "
        "on stdout; network: arguments for 'docker network create', on stdout")  # fmt: skip
    add("--into", type=Path, metavar="FILE", help="put the json into this daemon.json; its other keys stay")
    add("--docker-version", type=_docker_version, metavar="X", help="instead of asking dockerd or docker")
    add("--no-direct-routing", dest="direct_routing", action="store_false",
        help="leave out what Docker 28 and later needs to let other nodes in")  # fmt: skip
    add("--trusted-interface", dest="trusted", type=_interface, action="append", default=[], metavar="NAME",
        help="for 'network': let only published ports in, from this interface; may be repeated")  # fmt: skip
    return made


def _variable(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise argparse.ArgumentTypeError(f"{shown(text)} is no name of a shell variable")
    return text


def _docker_version(text: str) -> DockerVersion:
    try:
        return DockerVersion.parse(text)
    except Invalid as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _interface(text: str) -> str:
    if not re.fullmatch(r"[!-.0-9;-~]{1,15}", text):
        raise argparse.ArgumentTypeError(f"{shown(text)} is no interface")
    return text
