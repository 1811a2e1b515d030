"""The settings: what is taken, what is refused, and that a refusal names the flag and what would be right."""

import subprocess
import sys
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from pyflanneld import __version__
from pyflanneld.config.deprecated import KUBERNETES, RETIRED
from pyflanneld.config.load import load
from pyflanneld.config.settings import FLAGS, Settings
from pyflanneld.errors import UsageError

HTTPS = "--etcd-endpoints=https://etcd1:2379"


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``ca.pem``, ``client.pem``, ``client-key.pem`` (0600), and ``other-key.pem`` of another certificate."""
    path = tmp_path_factory.mktemp("certs")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(path / "ca.pem")
    client, other = ca.issue_cert("client"), ca.issue_cert("other")
    client.cert_chain_pems[0].write_to_path(path / "client.pem")
    client.private_key_pem.write_to_path(path / "client-key.pem")
    other.private_key_pem.write_to_path(path / "other-key.pem")
    (path / "client-key.pem").chmod(0o600)
    return path


def refusal(*argv: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        load(argv, environ or {})
    assert caught.value.exit_code == 2
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_without_flags_the_defaults_hold() -> None:
    """The defaults shown in --help and those of the model are the same, and are flannel's where flannel has them."""
    settings = load([], {})
    assert settings == Settings()
    assert settings.etcd_endpoints == ("http://127.0.0.1:4001", "http://127.0.0.1:2379")
    assert settings.etcd_prefix == "/coreos.com/network"
    assert settings.subnet_file == Path("/run/flannel/subnet.env")
    assert (str(settings.healthz_ip), settings.healthz_port) == ("0.0.0.0", 2401)  # noqa: S104
    assert settings.metrics_bind == (IPv4Address("127.0.0.1"), 2402)
    assert settings.subnet_lease_renew_margin_s == 3600.0


def test_what_was_asked_for_is_known() -> None:
    """A value is asked for on the command line, also at its default, or in the environment; else it is not."""
    assert not load([], {}).asked_for("healthz_port")
    assert not load([], {"FLANNELD_HEALTHZ_PORT": ""}).asked_for("healthz_port")
    assert load(["--healthz-port=2401"], {}).asked_for("healthz_port")
    assert load([], {"FLANNELD_HEALTHZ_PORT": "2401"}).asked_for("healthz_port")
    by_old_name = load(["--etcd-endpoint=http://192.168.14.12:2379"], {})
    assert by_old_name.asked_for("etcd_endpoints")
    assert not by_old_name.asked_for("etcd_prefix")


def test_the_walkthroughs_command_line_is_taken(certs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flags of the usual start script, relative paths included, mean what they say."""
    monkeypatch.chdir(certs.parent)
    settings = load(
        [
            "--public-ip=192.168.14.21",
            "--etcd-endpoints=https://192.168.14.12:2379,https://192.168.14.21:2379,https://192.168.14.22:2379",
            f"--etcd-cafile=./{certs.name}/ca.pem",
            f"--etcd-certfile=./{certs.name}/client.pem",
            f"--etcd-keyfile=./{certs.name}/client-key.pem",
            "--iface=eth1",
            "--subnet-file=./subnet.env",
            "--healthz-port=2401",
        ],
        {},
    )
    assert settings.public_ip == IPv4Address("192.168.14.21")
    assert len(settings.etcd_endpoints) == 3
    assert settings.iface == ("eth1",)
    assert settings.subnet_file == Path("subnet.env")
    assert settings.warnings == ()


@pytest.mark.parametrize(
    ("text", "endpoints"),
    [
        ("http://a", ("http://a:2379",)),
        ("HTTPS://a:1/", ("https://a:1",)),
        (" http://a:1 , http://b:2 ", ("http://a:1", "http://b:2")),
        ("http://[::1]:1,http://[fe80::1]", ("http://[::1]:1", "http://[fe80::1]:2379")),
        ("http://a:1,http://a:1", ("http://a:1",)),
        ("http://etcd-1.example.org.:02379", ("http://etcd-1.example.org.:2379",)),
        ("http://a,,http://b", ("http://a:2379", "http://b:2379")),
        (",http://a, ,", ("http://a:2379",)),
        ("a:1,http://b", ("http://a:1", "http://b:2379")),
        ("10.0.0.1:1,[::1]:2,etcd-1", ("http://10.0.0.1:1", "http://[::1]:2", "http://etcd-1:2379")),
        ("https://a,b:1", ("https://a:2379", "https://b:1")),
        ("http://a:1/etcd/,http://b/v3", ("http://a:1/etcd", "http://b:2379/v3")),
        ("http://user:hush@a:1/x?y=/@z#w,user@b", ("http://a:1/x", "http://b:2379")),
        ("http://a?x,http://b#x", ("http://a:2379", "http://b:2379")),
        ("http://[::ffff:192.168.14.5]:1,[::FFFF:c0a8:e06]", ("http://192.168.14.5:1", "http://192.168.14.6:2379")),
    ],
)
def test_endpoints_are_read(text: str, endpoints: tuple[str, ...]) -> None:
    """Spaces, empty items, no scheme or port, a path, and what Go leaves out are no obstacle; doubles count once."""
    assert load([f"--etcd-endpoints={text}"], {}).etcd_endpoints == endpoints


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "at least one endpoint"),
        (" ,, ", "at least one endpoint"),
        ("unix:///run/etcd", "http:// or https://"),
        ("unix:/run/etcd", "scheme://host:port"),
        ("http://a:2379/a b", "printable ASCII"),
        ("http:///v3", "scheme://host:port"),
        ("http://?x", "scheme://host:port"),
        ("http://a:0", "port from 1"),
        ("http://a:65536", "port from 1"),
        ("http://a:b", "scheme://host:port"),
        ("http://", "scheme://host:port"),
        ("http://192.168.14.300:2379", "host name or address"),
        ("http://a b:1", "host name or address"),
        ("http://[::g]:1", "scheme://host:port"),
        ("http://[fe80::1%25eth1]:1", "scheme://host:port"),
        ("http://[1::2::3]:1", "host name or address"),
        ("http://a:1,https://b:1", "mixed"),
        ("a:1,https://b:1", "mixed"),
        ("http://user:hush@a:0", "port from 1"),
        ("user:hush@a:0,http://b", "port from 1"),
        ("http://user:hu/hush@a:1", "scheme://host:port"),
        ("http://user:hush?@a:1", "scheme://host:port"),
    ],
)
def test_bad_endpoints_are_refused(text: str, why: str) -> None:
    """Each kind of mistake is told apart, under the flag's name, without a password that stands in the URL."""
    line = refusal(f"--etcd-endpoints={text}")
    assert line.startswith("--etcd-endpoints: ")
    assert why in line
    assert "hush" not in line


def test_parts_of_an_endpoint_without_effect_are_warned_about() -> None:
    """v0.11.0 sent user and query to etcd, v0.28.9 does not: whoever relied on them is told, without the password."""
    user = "the user in an endpoint has no effect: use --etcd-username and --etcd-password-file"
    query = "what follows ? or # in an endpoint has no effect"
    assert load(["--etcd-endpoints=http://u:hush@a,http://b/x"], {}).warnings == (f"--etcd-endpoints: {user}",)
    assert load([], {"FLANNELD_ETCD_ENDPOINTS": "http://u:hush@a?x,b#y"}).warnings == (
        f"FLANNELD_ETCD_ENDPOINTS: {user}", f"FLANNELD_ETCD_ENDPOINTS: {query}",
    )  # fmt: skip
    assert load(["--etcd-endpoints=a:1/x,,"], {}).warnings == ()


def test_a_client_certificate_means_tls_where_no_scheme_is_named(certs: Path) -> None:
    """As with v0.28.9; a scheme that is named counts, and half a pair makes no TLS."""
    pair = (f"--etcd-certfile={certs}/client.pem", f"--etcd-keyfile={certs}/client-key.pem")
    assert load(["--etcd-endpoints=,a:1,b", *pair], {}).etcd_endpoints == ("https://a:1", "https://b:2379")
    assert "http://a:1" in refusal("--etcd-endpoints=http://a:1,b", *pair)
    assert "--etcd-keyfile" in refusal("--etcd-endpoints=a:1", pair[0])


@given(st.text())
def test_no_endpoint_text_breaks_the_parser(text: str) -> None:
    """Any text gives endpoints of the form scheme://host:port, or one line."""
    lines, endpoints = "", tuple[str, ...]()
    try:
        endpoints = load([f"--etcd-endpoints={text}"], {}).etcd_endpoints
    except UsageError as error:
        lines = str(error)
    assert len(lines.splitlines()) <= 1
    assert all(endpoint.isascii() and endpoint.count("://") == 1 for endpoint in endpoints)


@pytest.mark.parametrize(
    ("flag", "text", "field", "value"),
    [
        ("etcd-prefix", "/a/b/", "etcd_prefix", "/a/b"),
        ("etcd-prefix", "//a//b", "etcd_prefix", "/a/b"),
        ("etcd-prefix", "/./a/./b/.", "etcd_prefix", "/a/b"),
        ("etcd-prefix", "/x/../../a/b", "etcd_prefix", "/a/b"),
        ("healthz-port", "-1", "healthz_port", 0),
        ("healthz-port", "0", "healthz_port", 0),
        ("metrics-bind", "0.0.0.0:80", "metrics_bind", (IPv4Address("0.0.0.0"), 80)),  # noqa: S104
        ("metrics-bind", "[::1]:2402", "metrics_bind", (IPv6Address("::1"), 2402)),
        ("metrics-bind", "", "metrics_bind", None),
        ("metrics-bind", "0", "metrics_bind", None),
        ("metrics-bind", "off", "metrics_bind", None),
        ("metrics-textfile", "", "metrics_textfile", None),
        ("metrics-textfile", "/x/y.prom", "metrics_textfile", Path("/x/y.prom")),
        ("state-dir", "", "state_dir", None),
        ("state-dir", "/var/lib/pyflanneld/", "state_dir", Path("/var/lib/pyflanneld")),
        ("state-dir", "state", "state_dir", Path("state")),
        ("user", "", "user", None),
        ("user", "flannel:docker", "user", "flannel:docker"),
        ("user", "990:990", "user", "990:990"),
        ("healthz-ip", "::1", "healthz_ip", IPv6Address("::1")),
        ("healthz-ip", "[::]", "healthz_ip", IPv6Address("::")),
        ("healthz-ip", "", "healthz_ip", IPv6Address("::")),
        ("healthz-ip", "localhost", "healthz_ip", "localhost"),
        ("healthz-ip", "::ffff:127.0.0.1", "healthz_ip", IPv4Address("127.0.0.1")),
        ("metrics-bind", "[::ffff:127.0.0.1]:80", "metrics_bind", (IPv4Address("127.0.0.1"), 80)),
        ("subnet-lease-renew-margin", "1", "subnet_lease_renew_margin_s", 60.0),
        ("subnet-lease-renew-margin", "1439", "subnet_lease_renew_margin_s", 1439 * 60.0),
        ("route-protocol", "255", "route_protocol", 255),
        ("log-format", "json", "log_format", "json"),
        ("v", "10", "verbosity", 10),
        ("v", "-1", "verbosity", 0),
        ("public-ip", "", "public_ip", None),
        ("public-ipv6", "", "public_ipv6", None),
        ("public-ipv6", "2001:db8::21", "public_ipv6", IPv6Address("2001:db8::21")),
        ("public-ip", "::ffff:192.168.14.21", "public_ip", IPv4Address("192.168.14.21")),
        ("iface-can-reach", "::ffff:c0a8:e05", "iface_can_reach", IPv4Address("192.168.14.5")),
        ("iface", "::ffff:192.168.14.21", "iface", ("192.168.14.21",)),
        ("iface", "", "iface", ("",)),
        ("ip-blackhole-route", "true", "ip_blackhole_route", True),
        ("iface", "bond0.14@x", "iface", ("bond0.14@x",)),
        ("iface", "192.168.14.21", "iface", ("192.168.14.21",)),
        ("withdraw-guard", "false", "withdraw_guard", False),
    ],
)
def test_good_values_become_typed_fields(flag: str, text: str, field: str, value: object) -> None:
    """Each flag ends in its field, from the command line and from its variable alike."""
    assert getattr(load([f"--{flag}={text}"], {}), field) == value
    if text:
        assert getattr(load([], {f"FLANNELD_{flag.upper().replace('-', '_')}": text}), field) == value


@pytest.mark.parametrize(
    ("flag", "text", "right"),
    [
        ("etcd-prefix", "coreos.com/network", "starts with '/'"),
        ("etcd-prefix", "/", "starts with '/'"),
        ("etcd-prefix", "//.", "starts with '/'"),
        ("etcd-prefix", "/a/../..", "starts with '/'"),
        ("etcd-prefix", "", "starts with '/'"),
        ("etcd-prefix", "/a b", "without spaces"),
        ("etcd-prefix", "/\u00e9", "ASCII"),
        ("healthz-port", "65536", "1 to 65535"),
        ("healthz-port", "http", "whole number"),
        ("metrics-bind", "2402", "an address and a port"),
        ("metrics-bind", ":2402", "an address and a port"),
        ("metrics-bind", "127.0.0.1", "an address and a port"),
        ("metrics-bind", "127.0.0.1:0", "an address and a port"),
        ("metrics-bind", "127.0.0.1:65536", "an address and a port"),
        ("metrics-bind", "127.0.0.256:2402", "an address and a port"),
        ("metrics-bind", "::1:2402", "an address and a port"),
        ("metrics-bind", "[127.0.0.1]:2402", "an address and a port"),
        ("metrics-bind", "localhost:2402", "an address and a port"),
        ("metrics-textfile", "/x/", "path of a file"),
        ("state-dir", "/", "path of a directory"),
        ("state-dir", "/x/..", "path of a directory"),
        ("user", "a b", "user by name or number"),
        ("user", ":docker", "user by name or number"),
        ("healthz-ip", "local host", "IP address or a host name"),
        ("healthz-ip", "10.0.0.256", "IP address or a host name"),
        ("subnet-lease-renew-margin", "0", "1 to 1439"),
        ("subnet-lease-renew-margin", "1440", "1 to 1439"),
        ("route-protocol", "0", "103"),
        ("route-protocol", "2", "the kernel"),
        ("route-protocol", "3", "boot"),
        ("route-protocol", "4", "static"),
        ("route-protocol", "12", "BIRD"),
        ("route-protocol", "186", "BGP"),
        ("route-protocol", "256", "5 to 255"),
        ("route-protocol", "-1", "5 to 255"),
        ("public-ipv6", "192.168.14.21", "IPv6 address"),
        ("public-ipv6", "fe80::1%eth0", "global address"),
        ("public-ipv6", "fe80::1", "global address"),
        ("public-ipv6", "::1", "global address"),
        ("public-ipv6", "::", "global address"),
        ("public-ipv6", "ff02::1", "global address"),
        ("public-ip", "192.168.14", "IPv4 address"),
        ("public-ip", "192.168.014.021", "IPv4 address"),
        ("public-ip", "::1", "IPv4 address"),
        ("public-ip", "::ffff:127.0.0.1", "other nodes can reach"),
        ("public-ipv6", "::ffff:192.168.14.21", "global address"),
        ("iface-can-reach", "2001:db8::1", "IPv4 address"),
        ("public-ip", "127.0.0.1", "other nodes can reach"),
        ("public-ip", "0.0.0.0", "other nodes can reach"),  # noqa: S104
        ("public-ip", "0.1.2.3", "other nodes can reach"),
        ("public-ip", "224.0.0.1", "other nodes can reach"),
        ("public-ip", "255.255.255.255", "other nodes can reach"),
        ("iface", "::ffff:192.168.14.300", "IPv4 address"),
        ("iface", "192.168.14.300", "IPv4 address"),
        ("iface", "fe80::1", "interface name"),
        ("iface", "--public-ip=1.2.3.4", "interface name"),
        ("iface", "eth0/1", "interface name"),
        ("log-format", "xml", "console or json"),
        ("subnet-file", "", "path of a file"),
        ("subnet-file", "/run/flannel/", "path of a file"),
        ("subnet-file", "..", "path of a file"),
        ("etcd-username", " x", "printable"),
    ],
)
def test_bad_values_are_refused_by_name(flag: str, text: str, right: str) -> None:
    """The line names flag or variable, shows the value, and says what would be right."""
    line = refusal(f"--{flag}={text}")
    assert line.startswith(f"--{flag}: ")
    assert right in line
    variable = f"FLANNELD_{flag.upper().replace('-', '_')}"
    if text:
        assert refusal(environ={variable: text}).startswith(f"{variable}: ")


def test_of_a_repeated_flag_only_the_wrong_value_is_shown() -> None:
    """The values that are right are not blamed."""
    line = "--iface: 'a/b' is not usable: an interface name such as eth1 or an IPv4 address is needed"
    assert refusal("--iface=eth1", "--iface=a/b", "--iface=eth2") == line


def test_half_a_client_pair_is_refused() -> None:
    """Certificate without key and key without certificate, wherever they were given."""
    assert "--etcd-keyfile" in refusal(HTTPS, "--etcd-certfile=/x")
    assert refusal(HTTPS, environ={"FLANNELD_ETCD_KEYFILE": "/x"}).startswith("FLANNELD_ETCD_KEYFILE is given without")


def test_tls_files_need_https(certs: Path) -> None:
    """Files that would silently not be used are refused; flanneld ignores them."""
    assert "https://" in refusal(f"--etcd-cafile={certs}/ca.pem")
    pair = (f"--etcd-certfile={certs}/client.pem", f"--etcd-keyfile={certs}/client-key.pem")
    assert "https://" in refusal("--etcd-endpoints=http://a:1", *pair)
    assert "https://" in refusal(*pair)


def test_tls_files_are_looked_at(certs: Path, tmp_path: Path) -> None:
    """A CA alone and a whole set are taken; a missing, garbled or mismatched file is named."""
    ca, cert, key = (f"{certs}/{name}.pem" for name in ("ca", "client", "client-key"))
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    assert load([HTTPS, f"--etcd-cafile={ca}"], {}).etcd_cafile == Path(ca)
    assert f"'{tmp_path}/none'" in refusal(HTTPS, f"--etcd-cafile={tmp_path}/none")
    assert "PEM" in refusal(HTTPS, f"--etcd-cafile={junk}")
    assert "Is a directory" in refusal(HTTPS, f"--etcd-cafile={tmp_path}")
    assert refusal(HTTPS, "--etcd-certfile=/none", f"--etcd-keyfile={key}").startswith("--etcd-certfile: '/none'")
    assert refusal(HTTPS, f"--etcd-certfile={cert}", "--etcd-keyfile=/none").startswith("--etcd-keyfile: '/none'")
    other = f"--etcd-keyfile={certs}/other-key.pem"
    assert "does not belong" in refusal(HTTPS, f"--etcd-certfile={cert}", other)
    assert "PEM" in refusal(HTTPS, f"--etcd-certfile={cert}", f"--etcd-keyfile={junk}")


def test_an_encrypted_key_is_refused_without_asking(certs: Path, tmp_path: Path) -> None:
    """No passphrase prompt ever stops the daemon."""
    key = tmp_path / "encrypted.pem"
    command = [
        "openssl",
        "pkey",
        "-in",
        f"{certs}/client-key.pem",
        "-aes256",
        "-passout",
        "pass:hush",
        "-out",
        str(key),
    ]
    subprocess.run(command, check=True)
    assert "passphrase" in refusal(HTTPS, f"--etcd-certfile={certs}/client.pem", f"--etcd-keyfile={key}")


def test_an_exposed_key_is_a_warning_with_its_cure(certs: Path, tmp_path: Path) -> None:
    """A key copied with an ordinary umask works, and the warning says how to close it."""
    key = tmp_path / "key.pem"
    key.write_bytes((certs / "client-key.pem").read_bytes())
    key.chmod(0o644)
    settings = load([HTTPS, f"--etcd-certfile={certs}/client.pem", f"--etcd-keyfile={key}"], {})
    assert settings.warnings == (
        f"--etcd-keyfile: {key} can be read by group or others (mode 0644); chmod 600 fixes it",
    )


@pytest.mark.parametrize("which", ["etcd-keyfile", "etcd-password-file"])
def test_an_exposed_file_is_refused_where_asked(certs: Path, tmp_path: Path, which: str) -> None:
    """With --refuse-exposed-keys nothing starts until the file is its owner's alone."""
    key, password = tmp_path / "key.pem", tmp_path / "password"
    key.write_bytes((certs / "client-key.pem").read_bytes())
    password.write_text("hush\n")
    for file in (key, password):
        file.chmod(0o600)
    flags = [HTTPS, f"--etcd-certfile={certs}/client.pem", f"--etcd-keyfile={key}", "--refuse-exposed-keys"]
    flags += ["--etcd-username=u", f"--etcd-password-file={password}"]
    assert load(flags, {}).warnings == ()
    exposed = key if which == "etcd-keyfile" else password
    exposed.chmod(0o640)
    assert refusal(*flags).startswith(f"--{which}: {exposed} can be read by group or others (mode 0640); chmod 600")


def test_passwords_come_from_three_places(tmp_path: Path) -> None:
    """Flag, variable and file; the flag gets a warning, because everyone can read a command line."""
    file = tmp_path / "password"
    file.write_text("hush\n")
    file.chmod(0o600)
    from_flag = load(["--etcd-username=u", "--etcd-password=hush"], {})
    from_env = load(["--etcd-username=u"], {"FLANNELD_ETCD_PASSWORD": "hush"})
    from_file = load(["--etcd-username=u", f"--etcd-password-file={file}"], {})
    for settings in (from_flag, from_env, from_file):
        assert settings.etcd_password == SecretStr("hush")
        assert "hush" not in repr(settings) + str(settings)
        assert "hush" not in settings.model_dump_json()
    assert len(from_flag.warnings) == 1
    assert from_env.warnings == from_file.warnings == ()


@pytest.mark.parametrize(
    ("data", "why"),
    [(b"", "empty"), (b"\n", "empty"), (b"a\nb\n", "one line"), (b"\xff", "UTF-8"), (b"x" * 5000, "longer")],
)
def test_bad_password_files_are_refused(data: bytes, why: str, tmp_path: Path) -> None:
    """The line names the flag and the file, and nothing of what is in it."""
    file = tmp_path / "password"
    file.write_bytes(data)
    line = refusal("--etcd-username=u", f"--etcd-password-file={file}")
    assert line.startswith("--etcd-password-file: ")
    assert why in line


def test_incomplete_logins_are_refused() -> None:
    """Password without user, user without password, two passwords, and a password file that is not there."""
    assert "--etcd-username" in refusal("--etcd-password=hush")
    assert "without --etcd-password-file" in refusal("--etcd-username=u")
    assert "both" in refusal("--etcd-username=u", "--etcd-password=hush", "--etcd-password-file=/x")
    assert "No such file" in refusal("--etcd-username=u", "--etcd-password-file=/none")


def test_a_password_does_not_cross_the_network_in_clear_text() -> None:
    """http is for loopback only, unless the operator insists."""
    login = ("--etcd-username=u", "--etcd-password=hush")
    remote = "--etcd-endpoints=http://127.0.0.1:2379,http://10.0.0.1:2379"
    line = refusal(remote, *login)
    assert "http://10.0.0.1:2379" in line
    assert "hush" not in line
    assert load([remote, *login, "--allow-plaintext-auth"], {}).etcd_username == "u"
    for local in ("http://localhost:1", "http://127.8.9.1:1", "http://[::1]:1"):
        assert load([f"--etcd-endpoints={local}", *login], {}).etcd_username == "u"


def test_variables_without_effect_are_warned_about() -> None:
    """FLANNELD_IP_MASK=true, which an operator may have meant otherwise, is not passed over in silence."""
    assert load([], {"FLANNELD_IP_MASK": "true"}).warnings == (
        "FLANNELD_IP_MASK is set, but there is no such flag: it has no effect",
    )


def test_the_firewall_flags_are_flannels() -> None:
    """Names, Go's bool forms, variables and defaults of flanneld; a look every 5 s unless told otherwise."""
    settings = load([], {})
    assert (settings.ip_masq, settings.ip_masq_fully_random_disable) == (False, False)
    assert (settings.iptables_forward_rules, settings.iptables_resync_s) == (True, 5.0)
    settings = load(["-ip-masq", "--iptables-forward-rules=f", "--iptables-resync", "30"], {"FLANNELD_IP_MASQ": "0"})
    assert (settings.ip_masq, settings.iptables_forward_rules, settings.iptables_resync_s) == (True, False, 30.0)
    variables = {"FLANNELD_IP_MASQ": "true", "FLANNELD_IP_MASQ_FULLY_RANDOM_DISABLE": "T"}
    settings = load([], variables | {"FLANNELD_IPTABLES_FORWARD_RULES": "0", "FLANNELD_IPTABLES_RESYNC": "86400"})
    assert (settings.ip_masq, settings.ip_masq_fully_random_disable) == (True, True)
    assert (settings.iptables_forward_rules, settings.iptables_resync_s) == (False, 86400.0)


@pytest.mark.parametrize("text", ["0", "-5", "86401"])
def test_a_resync_that_never_comes_or_never_ends_is_refused(text: str) -> None:
    """flanneld would look without a pause at 0 and below."""
    line = refusal(f"--iptables-resync={text}")
    assert line.startswith("--iptables-resync: ")
    assert "seconds from 1 to 86400" in line


def test_version_and_help_go_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    """Both exit 0 and print to stdout alone; --version comes before the environment is read."""
    for argv, start in ((["--version"], f"pyflanneld {__version__}\n"), (["-h"], f"pyflanneld {__version__}: ")):
        with pytest.raises(SystemExit) as caught:
            load(argv, {"FLANNELD_HEALTHZ_PORT": "bad"})
        out, err = capsys.readouterr()
        assert (caught.value.code, err) == (0, "")
        assert out.startswith(start)
    assert load([], {"FLANNELD_VERSION": "true"}) == Settings()


def test_settings_are_a_value() -> None:
    """Frozen, without unknown fields, checked however they are made."""
    with pytest.raises(ValidationError):
        Settings().healthz_port = 1
    with pytest.raises(ValidationError):
        Settings(nope=1)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        Settings(route_protocol=4)
    assert Settings(iface=("eth1",), subnet_file=Path("x")).iface == ("eth1",)


def test_probing_is_off_until_asked_for() -> None:
    """Every 30 s when it is; the interval counts in seconds."""
    assert (load([], {}).probe, load([], {}).probe_interval_s) == (False, 30.0)
    settings = load(["--probe"], {"FLANNELD_PROBE_INTERVAL": "5"})
    assert (settings.probe, settings.probe_interval_s) == (True, 5.0)


@pytest.mark.parametrize("text", ["4", "3601", "-30"])
def test_a_probe_interval_out_of_bounds(text: str) -> None:
    """Refused, with the bounds."""
    line = refusal(f"--probe-interval={text}")
    assert line == f"--probe-interval: {text} is not usable: seconds from 5 to 3600 are needed"


def test_the_declarations_do_not_contradict_each_other() -> None:
    """No flag is declared twice, or both here and as an old one; every one but two has a field, and every field one."""
    names = [flag.name for flag in (*FLAGS, *RETIRED, *KUBERNETES)]
    assert len(set(names)) == len(names)
    assert {flag.name for flag in FLAGS if not flag.field} == {"help", "version"}
    assert {flag.field for flag in FLAGS if flag.field} == set(Settings.model_fields) - {"warnings"}
    others = {
        "v": "verbosity",
        "subnet-lease-renew-margin": "subnet_lease_renew_margin_s",
        "iptables-resync": "iptables_resync_s",
        "probe-interval": "probe_interval_s",
    }
    expected = {flag.name: others.get(flag.name, flag.name.replace("-", "_")) for flag in FLAGS if flag.field}
    assert {flag.name: flag.field for flag in FLAGS if flag.field} == expected


def test_settings_are_cheap_to_import() -> None:
    """--help does not load the programs that talk to etcd, the kernel or the network, nor what reads a pattern."""
    program = (
        "import sys, pyflanneld.config.load\n"
        "unused = 'grpclib', 'google.protobuf', 'aiohttp', 'pyroute2', 'pyflanneld.config.go_regex'\n"
        "print([m for m in unused if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout == "[]\n"
