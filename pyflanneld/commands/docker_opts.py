"""Tool: ``pyflanneld docker-opts``, which replaces flannel's ``mk-docker-opts.sh``.

It has the script's options, file and exit code: 1 for every failure, and for ``-h`` and a wrong option. As the script
of v0.28.9 (not that of v0.11.0), it writes the file and then ends with 1 when the routing table has a route to this
host's subnet through another node, because Docker's bridge would compete with that route. Unlike the script, it writes
nothing without a subnet: with empty options Docker would start on a subnet of its own.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
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
from pyflanneld.netlink.kernel import NetlinkKernel
from pyflanneld.system.atomic_files import write_file

_SUBNET_FILE = Path("/run/flannel/subnet.env")
_DOCKER_FILE = Path("/run/docker_opts.env")
_STDOUT = frozenset({"-", "/dev/stdout"})
_ROUTE_PROTOCOL = 103  # any: this command changes no route
_VERSION_TIMEOUT_S = 5.0
_VERSION_COMMANDS = (
    ("dockerd", "--version"),  # needs no running daemon
    ("docker", "version", "--format", "{{.Server.Version}}"),
)
_REMOTE_VARIABLES = frozenset({"DOCKER_HOST", "DOCKER_CONTEXT"})  # the client would ask another machine's daemon


def main(argv: Sequence[str]) -> int:
    """Run ``pyflanneld docker-opts`` with these arguments (without the word itself) and return the exit code."""
    try:
        return _run(_arguments(argv))
    except (Invalid, UsageError) as error:
        _report(str(error))
    except OSError as error:
        _report(f"{error.filename}: {error.strerror}" if error.filename else str(error))
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
    settled = not given.direct_routing or (given.format == "network" and known is not None)
    if not settled and (hint := docker.direct_routing_hint(leased, known)):
        _report(hint)
    return _check_routes(leased.bridge.network)


def _subnet_file(path: Path) -> dict[str, str]:
    """Return the variables that the subnet file sets; without a file none, for the environment may have them all."""
    try:
        return assignments(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not UTF-8 text") from None


def _version(given: argparse.Namespace) -> DockerVersion | None:
    """Return Docker's version; ``None`` where it is unknown, or does not matter."""
    if not given.direct_routing:
        return None
    found: DockerVersion | None = given.docker_version or installed_version()
    if given.trusted and (found is None or found < docker.FIRST_ALLOWING):
        needed = f"--trusted-interface needs Docker {docker.FIRST_ALLOWING} or later"
        raise UsageError(f"{needed}; this is {found or 'not known'}")
    return found


def installed_version() -> DockerVersion | None:
    """Return the version of this host's Docker daemon; ``None`` where no program reports it."""
    for program, *words in _VERSION_COMMANDS:
        path = shutil.which(program)
        if path is None:
            continue
        try:
            return DockerVersion.parse(_output(path, *words))
        except (OSError, subprocess.SubprocessError, Invalid):
            continue
    return None


def _output(*command: str) -> str:
    environ = {name: value for name, value in os.environ.items() if name not in _REMOTE_VARIABLES}
    done = subprocess.run(  # noqa: S603 - Docker's own programs, with constant arguments
        command, check=True, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace",
        env=environ, timeout=_VERSION_TIMEOUT_S,
    )
    return done.stdout


def _write_environment(
    given: argparse.Namespace, values: Mapping[str, str], leased: Leased, known: DockerVersion | None
) -> None:
    if given.docker_file.resolve() == given.subnet_file.resolve():
        _report(f"{given.docker_file} is the subnet file, which pyflanneld rewrites: write to another file (-d)")
    both = given.single == given.combined
    wanted = docker.docker_options(leased, known)
    text = docker.environment_text(
        wanted, values, given.key, single=given.single or both, combined=given.combined or both
    )
    if str(given.docker_file) in _STDOUT:
        print(text, end="")  # opened by its name, it would be a second file for others that write to it
    else:
        write_file(given.docker_file, text)


def _write_json(given: argparse.Namespace, leased: Leased, known: DockerVersion | None) -> None:
    """Print the options as JSON, or merge them into a ``daemon.json`` and report what has changed."""
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
    done = f"{', '.join(changed)} set; restart Docker" if changed else "nothing to change"
    _report(f"{given.into}: {done}")


def _document(path: Path) -> dict[str, object]:
    try:
        document = json.loads(path.read_text(encoding="utf-8") or "{}")
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        raise UsageError(f"{path}: is not JSON; nothing was changed") from None
    if not isinstance(document, dict):
        raise UsageError(f"{path}: is not a JSON object; nothing was changed")
    return document


def _json(document: object) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _check_routes(subnet: IPv4Network) -> int:
    """Return 1 when a route to this host's subnet leads to another node; 0 also where routes cannot be read."""
    async def gateways() -> list[str]:
        kernel = NetlinkKernel(protocol=_ROUTE_PROTOCOL)
        try:
            return [str(route.gateway) for route in await kernel.routes() if route.dst == subnet and route.gateway]
        finally:
            await kernel.close()

    try:
        found = asyncio.run(gateways())
    except KernelError as error:
        _report(f"the routing table cannot be read: {error}")
        return 0
    if found:
        _report(f"the routing table has this host's subnet {subnet} via {', '.join(found)}: remove that route")
    return int(bool(found))


def _report(text: str) -> None:
    print(f"pyflanneld docker-opts: {text}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """An argparse parser that behaves as the script: usage goes to stderr, with exit code 1."""

    def error(self, message: str) -> NoReturn:
        self.print_help(sys.stderr)
        self.exit(1, f"\npyflanneld docker-opts: {message}\n")


class _Help(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        parser.print_help(sys.stderr)
        parser.exit(1)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    made = parser()
    given = made.parse_args(argv)
    given.format = given.format or ("json" if given.into else "env")
    if given.into and given.format != "json":
        made.error(f"--into takes the json form, not --format={given.format}")
    if given.trusted and (given.format != "network" or not given.direct_routing):
        made.error("--trusted-interface is for --format=network, and not together with --no-direct-routing")
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
        raise argparse.ArgumentTypeError(f"{shown(text)} is not the name of a shell variable")
    return text


def _docker_version(text: str) -> DockerVersion:
    try:
        return DockerVersion.parse(text)
    except Invalid as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _interface(text: str) -> str:
    if not re.fullmatch(r"[!-.0-9;-~]{1,15}", text):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not the name of an interface")
    return text
