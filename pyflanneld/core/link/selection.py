"""Links and their neighbours as values, and the choice of the link that carries the routes.

The order is current flannel's (``main.go`` and ``pkg/ipmatch/match.go``, v0.28.9): every ``--iface``, then every
``--iface-regex``, then ``--iface-can-reach``; with none of them given, the link that has ``--public-ip``, or the
default route's. So is the ranking of a link's addresses: global before link-local, permanent before those with a
lifetime, primary before secondary, and a deprecated one not at all.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from pyflanneld.core.families import Address, Interface

_BY_DEFAULT = "has the default route"


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface of this host.

    Attributes:
        up: administratively up *and* with carrier: the kernel will take a route through it.
        addresses: its IPv4 addresses with their prefix lengths, the best first.
        deprecated: those of them that must not be used for anything new.
        addresses6: its permanent global IPv6 addresses: not temporary, deprecated or tentative.
    """

    index: int
    name: str
    mtu: int
    up: bool
    addresses: tuple[IPv4Interface, ...]
    deprecated: frozenset[IPv4Address] = frozenset()
    addresses6: tuple[IPv6Interface, ...] = ()

    def interfaces(self, version: int) -> tuple[Interface, ...]:
        """Return its addresses of one family."""
        return self.addresses if version == 4 else self.addresses6

    def carries(self, address: Address) -> bool:
        """Return whether *address* is one of this link's own."""
        return any(address == own.ip for own in self.interfaces(address.version))

    @property
    def address6(self) -> IPv6Address | None:
        """The first IPv6 address that can be published."""
        return self.addresses6[0].ip if self.addresses6 else None

    @property
    def publishable(self) -> tuple[IPv4Address, ...]:
        """The addresses that may be published, the best first: global before link-local, nothing else."""
        fit = [own.ip for own in self.addresses if own.ip not in self.deprecated and _is_unicast(own.ip)]
        return tuple(sorted(fit, key=lambda address: address.is_link_local))

    @property
    def address(self) -> IPv4Address | None:
        """The address to publish where none is given."""
        return next(iter(self.publishable), None)


def _is_unicast(address: IPv4Address) -> bool:
    return not (address.is_loopback or address.is_multicast or address.is_unspecified)


NEIGHBOUR_STATES = ("incomplete", "reachable", "stale", "delay", "probe", "failed", "noarp", "permanent", "none")
"""As ``ip neighbour`` prints them."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """What the kernel knows of an address on a link (ARP, NDP).

    Attributes:
        state: one of ``NEIGHBOUR_STATES``.
        mac: the hardware address, ``"aa:bb:cc:dd:ee:ff"``; ``None`` while it is not known.
    """

    address: Address
    state: str
    mac: str | None


@dataclass(frozen=True, slots=True)
class LinkPattern:
    """A pattern for names and addresses; it matches anywhere in them unless it is anchored. *text* is as written."""

    text: str
    compiled: re.Pattern[str]

    def matches(self, text: str | IPv4Address) -> bool:
        """Return whether the pattern occurs in *text*."""
        return self.compiled.search(str(text)) is not None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class LinkRule:
    """How the operator selects the link.

    Attributes:
        names: ``--iface``, interface names or addresses, in order; an empty one is the default route's interface.
        patterns: ``--iface-regex``, in order; so is an empty one.
        can_reach: ``--iface-can-reach``.
        public_ip: ``--public-ip``; selects the link only where nothing else does.
    """

    names: tuple[str, ...] = ()
    patterns: tuple[LinkPattern, ...] = ()
    can_reach: IPv4Address | None = None
    public_ip: IPv4Address | None = None

    @property
    def is_explicit(self) -> bool:
        """Whether any flag selects an interface."""
        return bool(self.names or self.patterns or self.can_reach)

    @property
    def needs_default_route(self) -> bool:
        """Whether the choice depends on the default route."""
        is_named = any(not name for name in (*self.names, *(pattern.text for pattern in self.patterns)))
        return is_named or not (self.is_explicit or self.public_ip)


@dataclass(frozen=True, slots=True)
class Routing:
    """What the kernel's routes contribute to the choice.

    Attributes:
        default_index: the link of the default route.
        to_target: link and source address of the route to ``--iface-can-reach``.
    """

    default_index: int | None = None
    to_target: tuple[int, IPv4Address] | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The link that carries the routes.

    Attributes:
        address: the address to publish, unless ``--public-ip`` says otherwise.
        why: the reason, for the log: ``"matches --iface=eth1"``.
    """

    link: Link
    address: IPv4Address
    why: str


class NoLink(ValueError):
    """No link fits; the message names what was asked for and what there is."""


def choose_link(
    links: Sequence[Link], rule: LinkRule, routing: Routing | None = None, current: Choice | None = None
) -> Choice:
    """Return the first link that fits *rule*.

    Args:
        links: all links, in index order.
        rule: what the operator asks for.
        routing: the kernel's routes; ``None`` while running, when changes of routes must not move us.
        current: the choice so far. It is kept among the matches of one pattern; a choice made by *routing* is found
            again by its name, or else by its index.

    Raises:
        NoLink: none fits.
    """
    usable = [link for link in links if link.mtu]
    found = next(_candidates(usable, rule, routing, current), None)
    if found is None:
        sought = _as_known(rule, current) if routing is None and current else rule
        raise NoLink(f"there is no {_sought(sought)}{_but(links, sought)}; this host has: {describe_links(links)}")
    return found


def _as_known(rule: LinkRule, current: Choice) -> LinkRule:
    """Return *rule* with the name of what the routes chose at the start."""
    if rule.can_reach or rule.needs_default_route:
        names, patterns = filter(None, rule.names), tuple(one for one in rule.patterns if one.text)
        return replace(rule, names=(*names, current.link.name), patterns=patterns, can_reach=None)
    return rule


def _candidates(
    links: Sequence[Link], rule: LinkRule, routing: Routing | None, current: Choice | None
) -> Iterator[Choice]:
    for name in rule.names:
        yield from _named(links, name, f"matches --iface={name}") if name else _default(links, routing, current)
    for pattern in rule.patterns:
        if not pattern.text:
            yield from _default(links, routing, current)
            continue
        yield from sorted(_matching(links, pattern), key=lambda choice: _distance(choice, current))
    if rule.public_ip and not rule.is_explicit:
        yield from _named(links, str(rule.public_ip), f"carries --public-ip={rule.public_ip}")
    elif routing is not None:
        yield from _routed(links, rule, routing)
    elif current is not None and (rule.can_reach or not rule.is_explicit):
        yield from _again(links, current, keep_address=rule.can_reach is not None)


def _named(links: Sequence[Link], wanted: str, why: str) -> Iterator[Choice]:
    try:
        address = IPv4Address(wanted)
    except ValueError:
        yield from (Choice(link, link.address, why) for link in links if link.name == wanted and link.address)
    else:
        yield from (Choice(link, address, why) for link in links if link.carries(address))


def _matching(links: Sequence[Link], pattern: LinkPattern) -> Iterator[Choice]:
    """Yield what *pattern* matches: by address first, which is then the one to publish, and by name last."""
    why = f"first match of --iface-regex={pattern}"
    for link in links:
        yield from (Choice(link, address, why) for address in link.publishable if pattern.matches(address))
    yield from (Choice(link, link.address, why) for link in links if link.address and pattern.matches(link.name))


def _distance(choice: Choice, current: Choice | None) -> int:
    """Return 0 for the current choice, 1 for another address of its link, 2 for another link."""
    if current is None or (choice.link.name != current.link.name and choice.link.index != current.link.index):
        return 2
    return int(choice.address != current.address)


def _routed(links: Sequence[Link], rule: LinkRule, routing: Routing) -> Iterator[Choice]:
    if rule.can_reach:
        index, source = routing.to_target or (0, rule.can_reach)
        why = f"is on the kernel's route to --iface-can-reach={rule.can_reach}"
        yield from (Choice(link, source, why) for link in links if link.index == index and link.carries(source))
    elif not rule.is_explicit:
        yield from _default(links, routing, None)


def _default(links: Sequence[Link], routing: Routing | None, current: Choice | None) -> Iterator[Choice]:
    """Yield the default route's link; while running the one that had it at the start."""
    if routing is not None:
        default = (link for link in links if link.index == routing.default_index)
        yield from (Choice(link, link.address, _BY_DEFAULT) for link in default if link.address)
    elif current is not None and current.why == _BY_DEFAULT:
        yield from _again(links, current, keep_address=False)


def _again(links: Sequence[Link], current: Choice, *, keep_address: bool) -> Iterator[Choice]:
    by_name = [link for link in links if link.name == current.link.name]
    for link in by_name or [link for link in links if link.index == current.link.index]:
        if keep_address and link.carries(current.address):
            yield Choice(link, current.address, current.why)
        elif link.address:
            yield Choice(link, link.address, current.why)


def _sought(rule: LinkRule) -> str:
    if not rule.is_explicit:
        if rule.public_ip:
            return f"interface with the address {rule.public_ip}"
        return "default route through an interface with an IPv4 address; name one with --iface"
    default = "with the default route"
    kinds = [name or default for name in rule.names]
    kinds += [f"matching {pattern}" if pattern.text else default for pattern in rule.patterns]
    if rule.can_reach:
        kinds.append(f"on the route to {rule.can_reach} with an address of its own")
    return "interface " + " or ".join(kinds)


def _but(links: Sequence[Link], rule: LinkRule) -> str:
    """Return why the links that were named were not chosen."""
    named = [link for link in links if link.name in rule.names]
    if bare := [link.name for link in named if link.address is None]:
        return f" with an IPv4 address ({', '.join(bare)} has none)"
    return f" with an MTU ({', '.join(link.name for link in named)} has none)" if named else ""


def describe_links(links: Sequence[Link]) -> str:
    """Return the links with their addresses, for an operator to choose from."""
    return ", ".join(
        f"{link.name} ({', '.join(map(str, link.addresses)) or 'no IPv4 address'})" for link in links
    ) or "no interface but the loopback"
