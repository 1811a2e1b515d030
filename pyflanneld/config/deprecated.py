"""Flags of flanneld that do nothing here, known so that an old command line or environment still starts. Pure.

``RETIRED`` are those of earlier versions and of its log library: accepted, with a warning that says what to do.
``KUBERNETES`` are those of the mode that pyflanneld does not have. At flanneld's own default they ask for nothing and
are ignored without a word, because start scripts do write ``--kube-subnet-mgr=false``. With any other value somebody
expects Kubernetes, and would get a daemon that waits for etcd for ever: that is refused.
"""

from collections.abc import Mapping

from pyflanneld.config.go_flags import Flag, FlagKind, Given
from pyflanneld.config.settings import FLAGS
from pyflanneld.errors import UsageError

_MODES = "flannel's client and server mode ended with v0.8.0; etcd is asked directly, see --etcd-endpoints"
_LOG = "has no effect: the log goes to stderr, see -v and --log-format"
_KUBERNETES = "pyflanneld is for hosts with etcd and without Kubernetes; in a Kubernetes cluster run flannel itself"


def _old(name: str, text: str, default: str | bool = "") -> Flag:
    return Flag(name, FlagKind.BOOL if isinstance(default, bool) else FlagKind.STRING, default, text, hidden=True)


RETIRED: tuple[Flag, ...] = (
    *(_old(old, f"the old name of --{new.name}; used if that is not given") for new in FLAGS for old in new.old_names),
    _old("remote", _MODES),
    _old("remote-keyfile", _MODES),
    _old("remote-certfile", _MODES),
    _old("remote-cafile", _MODES),
    _old("listen", _MODES),
    _old("networks", "one daemon serves one network, that of --etcd-prefix; start one more for every other one"),
    _old("subnet-dir", "the directory went with --networks; see --subnet-file"),
    _old("vmodule", _LOG),
    _old("log_backtrace_at", _LOG),
    _old("log_dir", _LOG),
    _old("logtostderr", _LOG, default=True),
    _old("alsologtostderr", _LOG, default=False),
    _old("stderrthreshold", _LOG),
)

KUBERNETES: tuple[Flag, ...] = (
    _old("kube-subnet-mgr", _KUBERNETES, default=False),
    _old("kube-api-url", _KUBERNETES),
    _old("kubeconfig-file", _KUBERNETES),
    _old("kube-annotation-prefix", _KUBERNETES, default="flannel.alpha.coreos.com"),
    _old("net-config-path", _KUBERNETES, default="/etc/kube-flannel/net-conf.json"),
    _old("set-node-network-unavailable", _KUBERNETES, default=True),
    _old("use-multi-cluster-cidr", _KUBERNETES, default=False),
)


def apply_deprecated(given: Mapping[str, Given]) -> tuple[dict[str, Given], tuple[str, ...]]:
    """Return *given* with old names replaced by the new ones, and a warning for each old flag that asks for something.

    Raises:
        UsageError: Kubernetes mode is asked for.
    """
    settled, warnings = dict(given), []
    for flag in (*KUBERNETES, *RETIRED):
        item = given.get(flag.name)
        if item is None or item.value == flag.default:
            continue
        if flag in KUBERNETES:
            raise UsageError(f"{item.written}: {flag.text}")
        warnings.append(f"{item.written}: {flag.text}")
        for new in (new for new in FLAGS if flag.name in new.old_names and given[new.name].is_default):
            settled[new.name] = item
    return settled, tuple(warnings)
