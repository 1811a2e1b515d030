"""The policy rules (``ip rule``), read by pyroute2: few in number, and asked for by a command only."""

from ipaddress import IPv4Network
from socket import AF_INET
from typing import Any

from pyroute2.iproute import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.fibmsg import FR_ACT_TO_TBL

from pyflanneld.core.host import PolicyRule
from pyflanneld.errors import KernelError

_MORE = ("FRA_FWMARK", "FRA_IIFNAME", "FRA_OIFNAME", "FRA_UID_RANGE", "FRA_IP_PROTO", "FRA_SPORT_RANGE")
_EVERYTHING = IPv4Network("0.0.0.0/0")


def list_policy_rules() -> tuple[PolicyRule, ...]:
    """Return the IPv4 rules that lead to a table, in the kernel's order. Blocking. Raises ``KernelError``."""
    try:
        with IPRoute() as kernel:
            rules = [_rule(message) for message in kernel.get_rules(family=AF_INET)]
    except (NetlinkError, OSError) as error:
        raise KernelError(f"netlink: the policy rules: {error}") from error
    return tuple(rule for rule in rules if rule is not None)


def _rule(message: Any) -> PolicyRule | None:
    if message["action"] != FR_ACT_TO_TBL or message.get_attr("FRA_L3MDEV"):
        return None
    return PolicyRule(
        priority=message.get_attr("FRA_PRIORITY") or 0,
        table=message.get_attr("FRA_TABLE") or message["table"],
        source=_side(message.get_attr("FRA_SRC"), message["src_len"]),
        destination=_side(message.get_attr("FRA_DST"), message["dst_len"]),
        narrowed=any(message.get_attr(name) for name in _MORE),
    )


def _side(address: str | None, length: int) -> IPv4Network:
    return IPv4Network((address, length), strict=False) if address else _EVERYTHING
