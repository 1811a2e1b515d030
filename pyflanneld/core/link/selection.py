"""Links and their neighbours as values, and the choice of the link that carries the routes.

The order is current flannel's (``main.go`` and ``pkg/ipmatch/match.go``, v0.28.9): every ``--iface``, then every
``--iface-regex``, then ``--iface-can-reach``; with none of them given, the link that has ``--public-ip``, or the
default route's. So is the ranking of a link's addresses: global before link-local, permanent before those with a
lifetime, primary before secondary, and a deprecated one not at all, unless the operator names it.

While the daemon runs, the address that it publishes counts more than any rank (``published``).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from pyflanneld.core.families import Address, Interface
from pyflanneld.core.link.vxlan import Vxlan

_BY_DEFAULT = "has the default route"


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface of this host.

    Attributes:
        up: administratively up *and* with carrier: the kernel will take a route through it.
        addresses: its IPv4 addresses with their prefix lengths, the best first.
        deprecated: those of both families that must not be used for anything new.
        addresses6: its global IPv6 addresses, the deprecated last: none that is temporary or tentative.
        vxlan: the parameters of a vxlan device, ``None`` for any other.
    """

    index: int
    name: str
    mtu: int
    up: bool
    addresses: tuple[IPv4Interface, ...]
    deprecated: frozenset[Address] = frozenset()
    addresses6: tuple[IPv6Interface, ...] = ()
    vxlan: Vxlan | None = None

    @property
    def identity(self) -> str:
        """Return the name: what the kernel can have only once."""
        return self.name

    def interfaces(self, version: int) -> tuple[Interface, ...]:
        """Return its addresses of one family."""
        return self.addresses if version == 4 else self.addresses6

    def carries(self, address: Address) -> bool:
        """Return whether *address* is one of this link's own."""
        return any(address == own.ip for own in self.interfaces(address.version))

    @property
    def address6(self) -> IPv6Address | None:
        """The IPv6 address to publish where none is given."""
        return next((own.ip for own in self.addresses6 if own.ip not in self.deprecated), None)

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
        default_index: the link of the default route, the first if there are several.
        to_target: link and source address of the route to ``--iface-can-reach``.
        beside_default: the other links that the kernel uses as much as that of the default route, in its order.
    """

    default_index: int | None = None
    to_target: tuple[int, IPv4Address] | None = None
    beside_default: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """The link that carries the routes.

    Attributes:
        address: the address to publish, unless ``--public-ip`` says otherwise.
        why: the reason, for the log: ``"matches --iface=eth1"``.
        address6: the IPv6 address to publish, unless ``--public-ipv6`` says otherwise.
    """

    link: Link
    address: IPv4Address
    why: str
    address6: IPv6Address | None = None

    @property
    def by_default_route(self) -> bool:
        """Whether the default route made the choice."""
        return self.why == _BY_DEFAULT

    def is_through(self, link: Link) -> bool:
        """Return whether *link* is the chosen one, be it made again or renamed."""
        return self.link.name == link.name or self.link.index == link.index


class NoLink(ValueError):
    """No link fits; the message names what was asked for and what there is."""


def choose_link(
    links: Sequence[Link], rule: LinkRule, routing: Routing | None = None, current: Choice | None = None,
    first: Sequence[Address] = (),
) -> Choice:  # fmt: skip
    """Return the first link that fits *rule*.

    Args:
        links: all links, in index order.
        rule: what the operator asks for.
        routing: the kernel's routes; ``None`` while running, when changes of routes must not move us.
        current: the choice so far. Its address is kept among those that one name or pattern selects; a choice made by
            *routing* is found again by its name, or else by its index.
        first: addresses that count even more than that one.

    Raises:
        NoLink: none fits.
    """
    search = _Search([link for link in links if link.mtu], rule, routing, current, tuple(first))
    if (found := next(search.candidates(), None)) is None:
        sought = _as_known(rule, current) if routing is None and current else rule
        raise NoLink(f"there is no {_sought(links, sought, routing)}; this host has: {describe_links(links)}")
    return replace(found, address6=search.best6(found.link))


def still_fits(links: Sequence[Link], rule: LinkRule, current: Choice) -> bool:
    """Return whether *rule* would still select the address of *current*, be it behind another link."""
    search = _Search([link for link in links if link.mtu], rule, None, current)
    return any(choice.address == current.address for choice in search.candidates())


def _as_known(rule: LinkRule, current: Choice) -> LinkRule:
    """Return *rule* with the name of what the routes chose at the start."""
    if rule.can_reach or rule.needs_default_route:
        names, patterns = filter(None, rule.names), tuple(one for one in rule.patterns if one.text)
        return replace(rule, names=(*names, current.link.name), patterns=patterns, can_reach=None)
    return rule


@dataclass(frozen=True, slots=True)
class _Search:
    """The arguments of ``choose_link``, and what fits them."""

    links: Sequence[Link]
    rule: LinkRule
    routing: Routing | None
    current: Choice | None
    first: tuple[Address, ...] = ()

    def candidates(self) -> Iterator[Choice]:
        """Yield what fits, the first choice first."""
        rule = self.rule
        for name in rule.names:
            yield from self._named(name, f"matches --iface={name}") if name else self._default()
        for pattern in rule.patterns:
            yield from sorted(self._matching(pattern), key=self._distance) if pattern.text else self._default()
        if rule.public_ip and not rule.is_explicit:
            yield from self._named(str(rule.public_ip), f"carries --public-ip={rule.public_ip}")
        elif self.routing is not None:
            yield from self._routed(self.routing)
        elif self.current is not None and (rule.can_reach or not rule.is_explicit):
            yield from self._again(self.current)

    @property
    def _kept(self) -> tuple[Address | None, ...]:
        """What is published, and what is to come before it."""
        current = () if self.current is None else (self.current.address, self.current.address6)
        return (*self.first, *current)

    def _best(self, link: Link) -> IPv4Address | None:
        """Return the address to publish if *link* is chosen: the operator's word first, then what is published."""
        kept = (one for one in (self.rule.public_ip, *self._kept) if isinstance(one, IPv4Address))
        return next((one for one in kept if link.carries(one)), link.address)

    def best6(self, link: Link) -> IPv6Address | None:
        """Return the IPv6 address to publish if *link* is chosen."""
        kept = (one for one in self._kept if isinstance(one, IPv6Address))
        return next((one for one in kept if link.carries(one)), link.address6)

    def _with_best(self, links: Iterable[Link], why: str) -> Iterator[Choice]:
        for link in links:
            if (address := self._best(link)) is not None:
                yield Choice(link, address, why)

    def _named(self, wanted: str, why: str) -> Iterator[Choice]:
        try:
            address = IPv4Address(wanted)
        except ValueError:
            yield from self._with_best((link for link in self.links if link.name == wanted), why)
        else:
            yield from (Choice(link, address, why) for link in self.links if link.carries(address))

    def _matching(self, pattern: LinkPattern) -> Iterator[Choice]:
        """Yield what *pattern* matches: by address first, which is then the one to publish, and by name last."""
        why = f"first match of --iface-regex={pattern}"
        for link in self.links:
            kept = [own.ip for own in link.addresses if own.ip in self._kept and own.ip in link.deprecated]
            fit = (*link.publishable, *kept)
            yield from (Choice(link, address, why) for address in fit if pattern.matches(address))
        yield from self._with_best((link for link in self.links if pattern.matches(link.name)), why)

    def _distance(self, choice: Choice) -> int:
        """Return 0 for what is to come first or is published; then for its link; then for all others."""
        kept = self._kept
        if choice.address in kept:
            return kept.index(choice.address)
        return len(kept) + (self.current is None or not self.current.is_through(choice.link))

    def _routed(self, routing: Routing) -> Iterator[Choice]:
        if reach := self.rule.can_reach:
            index, source = routing.to_target or (0, reach)
            why = f"is on the kernel's route to --iface-can-reach={reach}"
            yield from (Choice(one, source, why) for one in self.links if one.index == index and one.carries(source))
        elif not self.rule.is_explicit:
            yield from self._default()

    def _default(self) -> Iterator[Choice]:
        """Yield the default route's link; while running the one that had it at the start."""
        if (routing := self.routing) is not None:
            indexes = (routing.default_index, *routing.beside_default)
            by_index = {link.index: link for link in self.links}
            yield from self._with_best((by_index[index] for index in indexes if index in by_index), _BY_DEFAULT)
        elif self.current is not None and self.current.by_default_route:
            yield from self._again(self.current)

    def _again(self, current: Choice) -> Iterator[Choice]:
        by_name = [link for link in self.links if link.name == current.link.name]
        by_index = [link for link in self.links if link.index == current.link.index]
        yield from self._with_best(by_name or by_index, current.why)


def _sought(links: Sequence[Link], rule: LinkRule, routing: Routing | None) -> str:
    """Return what *rule* asks for, and why the links that are meant do not do."""
    if not rule.is_explicit:
        if rule.public_ip:
            meant = [link for link in links if link.carries(rule.public_ip)]
            return f"interface with the address {rule.public_ip}{_but(meant)}"
        meant = [link for link in links if routing and link.index == routing.default_index and link.addresses]
        but = _but(meant) or " with an IPv4 address"
        return f"default route through an interface{but}; name one with --iface"
    default = "with the default route"
    kinds = [name or default for name in rule.names]
    kinds += [f"matching {pattern}" if pattern.text else default for pattern in rule.patterns]
    if rule.can_reach:
        kinds.append(f"on the route to {rule.can_reach} with an address of its own")
    return "interface " + " or ".join(kinds) + _but([link for link in links if _is_meant(link, rule)])


def _is_meant(link: Link, rule: LinkRule) -> bool:
    """Return whether a name, address or pattern of *rule* is about *link*, whether it can be chosen or not."""
    texts = (link.name, *(str(own.ip) for own in link.addresses))
    named = any(text in rule.names for text in texts)
    return named or any(pattern.text and pattern.matches(text) for pattern in rule.patterns for text in texts)


def _but(meant: Sequence[Link]) -> str:
    """Return why the links that are *meant* were not chosen."""
    if bare := [link for link in meant if link.address is None]:
        what = " to publish" if any(link.addresses for link in bare) else ""
        return f" with an IPv4 address{what} ({'; '.join(map(_bare, bare))})"
    return f" with an MTU ({', '.join(link.name for link in meant)} has none)" if meant else ""


def _bare(link: Link) -> str:
    unfit = [f"{own.ip} ({_why_unfit(own.ip, link)})" for own in link.addresses]
    return f"{link.name} has only {', '.join(unfit)}" if unfit else f"{link.name} has none"


def _why_unfit(address: IPv4Address, link: Link) -> str:
    return "deprecated" if address in link.deprecated else "loopback or multicast"


def describe_links(links: Sequence[Link]) -> str:
    """Return the links with their addresses, for an operator to choose from."""
    return ", ".join(
        f"{link.name} ({', '.join(describe_addresses(link)) or 'no IPv4 address'})" for link in links
    ) or "no interface but the loopback"


def describe_addresses(link: Link, version: int = 4) -> list[str]:
    """Return the addresses of one family with their prefix lengths; deprecated ones are told."""
    old = link.deprecated
    return [f"{own} deprecated" if own.ip in old else str(own) for own in link.interfaces(version)]
