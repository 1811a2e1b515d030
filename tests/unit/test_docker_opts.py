"""Docker's options, byte for byte, and the values that are errors."""

import json
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflanneld.commands import docker_opts
from pyflanneld.core import docker
from pyflanneld.core.docker import DockerVersion, Leased
from pyflanneld.core.invalid import Invalid
from pyflanneld.system.atomic_files import write_file

ENV = {
    "FLANNEL_NETWORK": "10.1.0.0/16",
    "FLANNEL_SUBNET": "10.1.74.1/24",
    "FLANNEL_MTU": "1472",
    "FLANNEL_IPMASQ": "false",
}
BIP = 'DOCKER_OPT_BIP="--bip=10.1.74.1/24"\n'
IPMASQ = 'DOCKER_OPT_IPMASQ="--ip-masq=true"\n'
MTU = 'DOCKER_OPT_MTU="--mtu=1472"\n'
TRUSTED = ["--trusted-interface=eth1", "--trusted-interface=wg0"]
ALL = " --bip=10.1.74.1/24 --ip-masq=true --mtu=1472"

Tool = Callable[..., int]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """Run docker-opts from subnet.env to out.env in an empty environment; no Docker is installed."""
    for name in ("FLANNEL_", "DOCKER_OPT"):
        for variable in [known for known in docker_opts.os.environ if known.startswith(name)]:
            monkeypatch.delenv(variable)
    monkeypatch.setattr(docker_opts, "installed_version", lambda: None)
    (tmp_path / "subnet.env").write_text("".join(f"{name}={value}\n" for name, value in ENV.items()))

    def run(*argv: str) -> int:
        return docker_opts.main(["-f", f"{tmp_path}/subnet.env", "-d", f"{tmp_path}/out.env", *argv])

    return run


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ((), BIP + IPMASQ + MTU + f'DOCKER_OPTS="{ALL}"\n'),
        (("-i", "-c"), BIP + IPMASQ + MTU + f'DOCKER_OPTS="{ALL}"\n'),
        (("-i",), BIP + IPMASQ + MTU),
        (("-c",), f'DOCKER_OPTS="{ALL}"\n'),
        (("-k", "DOCKER_NETWORK_OPTIONS"), BIP + IPMASQ + MTU + f'DOCKER_NETWORK_OPTIONS="{ALL}"\n'),
        (("-ckKEY",), f'KEY="{ALL}"\n'),
        (("-m",), BIP + MTU + 'DOCKER_OPTS=" --bip=10.1.74.1/24 --mtu=1472"\n'),
        (("-im",), BIP + MTU),
        (("--docker-version=27.5.1",), BIP + IPMASQ + MTU + f'DOCKER_OPTS="{ALL}"\n'),
        (("--docker-version=28.1.1",), BIP + IPMASQ + MTU + f'DOCKER_OPTS="{ALL}"\n'),
        (
            ("--docker-version=28.2.0",),
            'DOCKER_OPT_ALLOW_DIRECT_ROUTING="--allow-direct-routing=true"\n'
            + BIP + IPMASQ + MTU + f'DOCKER_OPTS=" --allow-direct-routing=true{ALL}"\n',
        ),
        (("--docker-version=29.1", "--no-direct-routing", "-c"), f'DOCKER_OPTS="{ALL}"\n'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_the_bytes_are_the_scripts(tool: Tool, tmp_path: Path, argv: tuple[str, ...], text: str) -> None:
    """Every option of mk-docker-opts.sh writes what the script writes; Docker 28.2 and later gets one option more."""
    assert tool(*argv) == 0
    assert (tmp_path / "out.env").read_bytes() == text.encode()


@pytest.mark.parametrize(("told", "flag"), [("true", "false"), ("false", "true")])
def test_ip_masq_is_the_opposite(tool: Tool, tmp_path: Path, told: str, flag: str) -> None:
    """One of the two masquerades: Docker does where the daemon does not."""
    (tmp_path / "subnet.env").write_text(f"FLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_IPMASQ={told}\n")
    assert tool("-c") == 0
    assert (tmp_path / "out.env").read_text() == f'DOCKER_OPTS=" --bip=10.1.74.1/24 --ip-masq={flag}"\n'


def test_what_is_set_already_comes_along(tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options in the environment or the subnet file stay, the combined ones in front, with the script's two spaces."""
    monkeypatch.setenv("DOCKER_OPTS", "-H fd://")
    monkeypatch.setenv("DOCKER_OPT_DNS", "--dns=10.0.0.1")
    with (tmp_path / "subnet.env").open("a") as file:
        file.write("DOCKER_OPT_LOG='--log-level=debug'\nDOCKER_OPT_MTU=--mtu=9000\n")
    assert tool() == 0
    dns, log = 'DOCKER_OPT_DNS="--dns=10.0.0.1"\n', 'DOCKER_OPT_LOG="--log-level=debug"\n'
    combined = "-H fd://  --bip=10.1.74.1/24 --dns=10.0.0.1 --ip-masq=true --log-level=debug --mtu=1472"
    assert (tmp_path / "out.env").read_text() == BIP + dns + IPMASQ + log + MTU + f'DOCKER_OPTS="{combined}"\n'


def test_the_environment_alone_is_enough(tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for the script: variables that were read by somebody else count, and those of the file count more."""
    monkeypatch.setenv("FLANNEL_SUBNET", "10.9.9.1/24")
    monkeypatch.setenv("FLANNEL_MTU", "1400")
    (tmp_path / "subnet.env").write_text("FLANNEL_MTU=1300\n")
    assert tool("-c") == 0
    assert (tmp_path / "out.env").read_text() == 'DOCKER_OPTS=" --bip=10.9.9.1/24 --mtu=1300"\n'


@given(st.text(alphabet=st.characters(blacklist_categories=("Cs", "Cc")), max_size=40))
def test_nothing_is_expanded(text: str) -> None:
    """Whatever stands in front, the shell's four special characters are escaped inside the quotes."""
    leased = Leased.read(ENV)
    line = docker.environment_text(
        docker.docker_options(leased, None), {"OPTS": text}, "OPTS", single=False, combined=True
    ).removeprefix('OPTS="')  # fmt: skip
    assert line.endswith(f'{ALL}"\n')
    inside = line.removesuffix(f'{ALL}"\n').removesuffix(" " if text else "")
    assert re.sub(r'\\([\\"$`])', r"\1", inside) == text
    assert re.search(r'(?<!\\)(?:\\\\)*["$`]', inside) is None


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("FLANNEL_SUBNET", "", "FLANNEL_SUBNET: '' is not usable: the bridge's address and length"),
        ("FLANNEL_SUBNET", "10.1.74.1", "such as 172.7.21.1/24"),
        ("FLANNEL_SUBNET", "10.1.74.0/24", "such as 172.7.21.1/24"),
        ("FLANNEL_SUBNET", "10.1.74.1/31", "such as 172.7.21.1/24"),
        ("FLANNEL_SUBNET", "10.1.74.1/24,10.2.0.1/24", "such as 172.7.21.1/24"),
        ("FLANNEL_SUBNET", "10.1.74.1/24 --insecure", "such as 172.7.21.1/24"),
        ("FLANNEL_MTU", "14x", "FLANNEL_MTU: '14x' is not usable: a number from 68 to 65535"),
        ("FLANNEL_MTU", "0", "a number from 68"),
        ("FLANNEL_MTU", "9" * 5000, "a number from 68"),
        ("FLANNEL_IPMASQ", "yes", "FLANNEL_IPMASQ: 'yes' is not usable: true or false"),
        ("FLANNEL_NETWORK", "10/8", "a network such as"),
    ],
)
def test_an_unusable_value_is_an_error(
    tool: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str], variable: str, value: str, told: str
) -> None:
    """Exit code 1 with one line that names file, variable and value; Docker's file stays as it was."""
    values = {**ENV, variable: value}
    (tmp_path / "subnet.env").write_text("".join(f"{name}={text}\n" for name, text in values.items()))
    (tmp_path / "out.env").write_text("before")
    assert tool() == 1
    error = capsys.readouterr().err
    assert error.startswith(f"pyflanneld docker-opts: {tmp_path}/subnet.env: {variable}: ")
    assert told in error
    assert error.count("\n") == 1
    assert (tmp_path / "out.env").read_text() == "before"


def test_without_a_subnet_nothing_is_written(tool: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other than with the script, which writes empty options: Docker would start on a subnet of its own."""
    (tmp_path / "subnet.env").unlink()
    assert tool() == 1
    assert "subnet.env: there is no such file, and so no subnet yet" in capsys.readouterr().err
    assert not (tmp_path / "out.env").exists()


def test_without_ip_masq_its_value_does_not_matter(tool: Tool, tmp_path: Path) -> None:
    """With -m it is not read, as in the script."""
    (tmp_path / "subnet.env").write_text("FLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_IPMASQ=yes\n")
    assert tool("-m", "-i") == 0
    assert (tmp_path / "out.env").read_text() == BIP


@pytest.mark.parametrize("argv", [["-h"], ["-x"], ["-?"], ["-k"], ["-k", "A B"], ["--format=xml"], ["extra"],
    ["--docker-version=new"], ["--into=/x", "--format=env"], ["--trusted-interface=eth1"],
    ["--format=network", "--trusted-interface=a:b"]], ids=" ".join)  # fmt: skip
def test_how_to_use_it_goes_to_stderr(tool: Tool, capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    """With exit code 1, as the script has it."""
    with pytest.raises(SystemExit) as caught:
        tool(*argv)
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (1, "")
    assert err.startswith("usage: pyflanneld docker-opts")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("28.2.2", (28, 2, 2)),
        ("v28", (28, 0, 0)),
        ("28.3", (28, 3, 0)),
        ("20.10.24+dfsg1", (20, 10, 24)),
        ("29.0.0-rc.3", (29, 0, 0)),
        ("17.05.0-ce", (17, 5, 0)),
        ("Docker version 28.2.2, build e6534b4", (28, 2, 2)),
        ("Docker version 26.1.5+dfsg1, build a72d7cd", (26, 1, 5)),
    ],
)
def test_versions_are_read(text: str, found: tuple[int, int, int]) -> None:
    """As dockerd, docker and operators write them."""
    assert DockerVersion.parse(text) == DockerVersion(*found)


@pytest.mark.parametrize("text", ["", "new", "x28", "Docker version unknown-version, build library-import"])
def test_no_version_is_no_version(text: str) -> None:
    """Text without a number of its own is an error."""
    with pytest.raises(Invalid):
        DockerVersion.parse(text)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--docker-version=27.5.1"], ""),
        (["--docker-version=29", "--no-direct-routing"], ""),
        ([], "Docker's version is not known"),
        (["--docker-version=28.1.1"], "Docker 28.1.1 drops packets of other nodes to its containers; 28.2 is"),
        (["--docker-version=28.2.0"], "iptables -I DOCKER-USER -s 10.1.0.0/16 -d 10.1.0.0/16 -j ACCEPT"),
    ],
)
def test_direct_routing_of_docker_28_is_explained(
    tool: Tool, capsys: pytest.CaptureFixture[str], argv: list[str], told: str
) -> None:
    """One line on stderr where other nodes do not reach every port by themselves, and what helps."""
    assert tool(*argv) == 0
    error = capsys.readouterr().err
    assert (told in error) is True
    assert error.count("\n") == bool(told)


def test_json_is_what_daemon_json_takes(tool: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers and booleans are such, and stdout holds nothing else; no file is written."""
    assert tool("--format=json", "--docker-version=28.2.2") == 0
    wanted = {"bip": "10.1.74.1/24", "mtu": 1472, "ip-masq": True, "allow-direct-routing": True}
    assert json.loads(capsys.readouterr().out) == wanted
    assert tool("--format=json", "-m") == 0
    assert json.loads(capsys.readouterr().out) == {"bip": "10.1.74.1/24", "mtu": 1472}
    assert not (tmp_path / "out.env").exists()


def test_a_daemon_json_keeps_its_other_keys(tool: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Order, other keys, mode and a symbolic link stay; what has changed is said; a second time nothing is written."""
    real, file = tmp_path / "real.json", tmp_path / "daemon.json"
    document = {"data-root": "/d\u00fc", "bip": "10.0.0.1/8", "fixed-cidr": "10.1.74.128/25", "hosts": ["fd://"]}
    real.write_text(json.dumps(document))
    real.chmod(0o600)
    file.symlink_to(real)
    assert tool(f"--into={file}", "--docker-version=27") == 0
    assert list(json.loads(real.read_text()).items()) == [
        ("data-root", "/d\u00fc"), ("bip", "10.1.74.1/24"), ("fixed-cidr", "10.1.74.128/25"), ("hosts", ["fd://"]),
        ("mtu", 1472), ("ip-masq", True),
    ]  # fmt: skip
    assert f"{file}: bip, mtu, ip-masq set; restart Docker" in capsys.readouterr().err
    assert (file.is_symlink(), stat.S_IMODE(real.stat().st_mode)) == (True, 0o600)
    before = real.stat()
    assert tool(f"--into={file}", "--docker-version=27") == 0
    assert f"{file}: nothing to change" in capsys.readouterr().err
    assert (real.stat().st_ino, real.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["daemon.json", "real.json", "subnet.env"]


@pytest.mark.parametrize("text", [None, "", "{}"])
def test_a_missing_daemon_json_is_made(tool: Tool, tmp_path: Path, text: str | None) -> None:
    """Where there is none, or an empty one, it is created with its directory."""
    file = tmp_path / "docker" / "daemon.json"
    if text is not None:
        file.parent.mkdir()
        file.write_text(text)
    assert tool(f"--into={file}", "-m") == 0
    assert file.read_text() == '{\n  "bip": "10.1.74.1/24",\n  "mtu": 1472\n}\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is not JSON; nothing was changed"),
        ("[]", "is not a JSON object; nothing was changed"),
        ("[" * 100_000, "is not JSON"),
        ('{"bridge": "br0"}', "bridge: 'br0' is not usable: no such key next to bip"),
        ('{"bridge": "none"}', "bridge: 'none' is not usable"),
        ('{"fixed-cidr": "10.1.75.0/25"}', "is not usable: a part of the leased subnet 10.1.74.0/24"),
        ('{"fixed-cidr": 7}', "fixed-cidr: 7 is not usable"),
    ],
    ids=["cut", "list", "deep", "bridge", "no bridge", "fixed-cidr", "number"],
)  # fmt: skip
def test_a_daemon_json_that_would_not_work_stays(
    tool: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, told: str
) -> None:
    """No JSON object, or keys with which Docker would not start or not use the subnet: exit code 1, nothing written."""
    file = tmp_path / "daemon.json"
    file.write_text(text)
    assert tool(f"--into={file}") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"pyflanneld docker-opts: {file}: ")
    assert told in error
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("argv", "last"),
    [
        ([], None),
        (["--docker-version=27.5"], None),
        (["--docker-version=28.0.0"], "gateway_mode_ipv4=nat-unprotected"),
        (["--docker-version=28.2", *TRUSTED], "trusted_host_interfaces=eth1:wg0"),
    ],
)
def test_arguments_for_a_second_network(
    tool: Tool, capsys: pytest.CaptureFixture[str], argv: list[str], last: str | None
) -> None:
    """The arguments of ``docker network create`` put it on the leased subnet, and open it where Docker closes it."""
    assert tool("--format=network", *argv) == 0
    arguments = capsys.readouterr().out.split()
    assert arguments[:5] == [
        "--driver=bridge", "--subnet=10.1.74.0/24", "--gateway=10.1.74.1", "--opt=com.docker.network.driver.mtu=1472",
        "--opt=com.docker.network.bridge.enable_ip_masquerade=true",
    ]  # fmt: skip
    assert arguments[5:] == ([f"--opt=com.docker.network.bridge.{last}"] if last else [])


def test_trusted_interfaces_need_a_docker_that_knows_them(tool: Tool, capsys: pytest.CaptureFixture[str]) -> None:
    """Before 28.2 Docker would ignore the option."""
    for argv in (["--docker-version=28.1"], []):
        assert tool("--format=network", "--trusted-interface=eth1", *argv) == 1
        assert "--trusted-interface needs Docker 28.2.0 or later" in capsys.readouterr().err


def test_the_subnet_file_is_not_the_place(tool: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Writing over the subnet file, as some guides do, is warned about: the daemon restores that file."""
    assert tool("-c", "-d", f"{tmp_path}/subnet.env") == 0
    assert "is the subnet file, which pyflanneld rewrites" in capsys.readouterr().err


def test_stdout_is_a_file_too(tool: Tool, capsys: pytest.CaptureFixture[str]) -> None:
    """``-d -`` and ``-d /dev/stdout`` print."""
    for name in ("-", "/dev/stdout"):
        assert tool("-c", "-d", name) == 0
        assert capsys.readouterr().out == f'DOCKER_OPTS="{ALL}"\n'


def test_a_special_file_is_written_in_place() -> None:
    """A device is not replaced by a file."""
    write_file(Path("/dev/null"), "x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_directory_that_cannot_be_written_is_one_line(
    tool: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the file and the reason."""
    (tmp_path / "file").write_text("")
    assert tool("-d", f"{tmp_path}/file/out.env") == 1
    assert capsys.readouterr().err == f"pyflanneld docker-opts: {tmp_path}/file/out.env: Not a directory\n"
