"""Command lines and environments of flannel's past: what starts with a warning, and what is refused."""

import pytest

from pyflanneld.config.deprecated import KUBERNETES, RETIRED
from pyflanneld.config.go_flags import Flag
from pyflanneld.config.load import load
from pyflanneld.config.settings import FLAGS, Settings
from pyflanneld.config.usage import default_text, usage
from pyflanneld.errors import UsageError

OLD = (*RETIRED, *KUBERNETES)


def other_value(flag: Flag) -> str:
    """Return a value that is not flanneld's default."""
    return str(not flag.default).lower() if isinstance(flag.default, bool) else "http://10.0.0.1:4001"


@pytest.mark.parametrize("flag", RETIRED, ids=lambda flag: flag.name)
def test_a_retired_flag_starts_with_a_warning(flag: Flag) -> None:
    """On the command line and as a variable it is accepted, and one sentence names it as it was written."""
    for written, warnings in (
        (f"--{flag.name}", load([f"--{flag.name}={other_value(flag)}"], {}).warnings),
        (flag.env, load([], {flag.env: other_value(flag)}).warnings),
    ):
        assert warnings == (f"{written}: {flag.text}",)


@pytest.mark.parametrize("flag", KUBERNETES, ids=lambda flag: flag.name)
def test_kubernetes_mode_is_refused_in_one_line(flag: Flag) -> None:
    """Asked for by flag or variable, it ends with exit code 2 and a line that says what pyflanneld is for."""
    for argv, environ in (([f"-{flag.name}={other_value(flag)}"], {}), ([], {flag.env: other_value(flag)})):
        with pytest.raises(UsageError, match="hosts with etcd and without Kubernetes") as caught:
            load(argv, environ)
        assert caught.value.exit_code == 2
        assert str(caught.value).startswith(argv[0].partition("=")[0] if argv else flag.env)


@pytest.mark.parametrize("flag", OLD, ids=lambda flag: flag.name)
def test_flanneld_s_defaults_ask_for_nothing(flag: Flag) -> None:
    """Written out, such as --kube-subnet-mgr=false, they change nothing and are not worth a word."""
    assert load([f"--{flag.name}={default_text(flag)}"], {}) == Settings()


def test_bare_kube_subnet_mgr_is_kubernetes_mode() -> None:
    """As in Go, the bare flag is true."""
    with pytest.raises(UsageError, match="Kubernetes"):
        load(["--kube-subnet-mgr"], {})


def test_the_old_endpoint_is_used_unless_there_is_a_new_one() -> None:
    """etcd-endpoint stands in for etcd-endpoints, is checked like it, and gives way to it wherever that was given."""
    old = "--etcd-endpoint=http://10.0.0.1:4001"
    assert load([old], {}).etcd_endpoints == ("http://10.0.0.1:4001",)
    assert load([], {"FLANNELD_ETCD_ENDPOINT": "http://10.0.0.1:4001"}).etcd_endpoints == ("http://10.0.0.1:4001",)
    assert load([old, "--etcd-endpoints=http://10.0.0.2:2379"], {}).etcd_endpoints == ("http://10.0.0.2:2379",)
    assert load([old], {"FLANNELD_ETCD_ENDPOINTS": "http://10.0.0.2"}).etcd_endpoints == ("http://10.0.0.2:2379",)
    with pytest.raises(UsageError, match="--etcd-endpoint: 'ftp://a' is not usable: 'ftp://a' has to start with"):
        load(["--etcd-endpoint=ftp://a"], {})


def test_several_warnings_keep_their_order() -> None:
    """Each gets its sentence, the old flags first; the rest of the command line means what it says."""
    settings = load(["-vmodule=main=2", "--networks=blue,green", "--iface=eth1"], {"FLANNELD_NOPE": "1"})
    assert [warning.partition(":")[0].partition(" ")[0] for warning in settings.warnings] == [
        "--networks", "-vmodule", "FLANNELD_NOPE"
    ]  # fmt: skip
    assert settings.iface == ("eth1",)


def test_old_flags_are_neither_listed_nor_suggested() -> None:
    """--help is about what there is; a misspelling is not answered with a flag that does nothing."""
    text = usage("title", FLAGS)
    assert not [flag.name for flag in OLD if f"--{flag.name}=" in text]
    with pytest.raises(UsageError, match="--help lists all flags"):
        load(["--kube-subnet-mngr"], {})
