"""Between the v2 API's JSON and our records. Wire format: etcd's ``Documentation/v2/api.md`` (2.3 to 3.5).

A key is a file in a tree of directories. Subnets are the files directly in ``<prefix>/subnets``; what lies deeper is
none. A directory there is reported with an empty value, which nobody can read as a lease, for it keeps a key of its
name from being made. Values are JSON texts: bytes that are no UTF-8 were replaced by the server.

``Record.lease_id`` is 0 for a key without TTL and else the index at which this incarnation of the key was made. That
tells, as an etcd lease does in v3, whether the key is still the one that we hold: a rewrite or a refresh of ours, being
comparisons, keep the index, and another client's plain ``set`` changes it. It changes ``create_revision`` for the same
reason: flanneld v0.11.0 renews with a plain ``set``, so the age of its keys is that of their last renewal.
"""

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from pydantic import BaseModel, Field, ValidationError

from pyflanneld.core.etcd_types import Gone, Put, Record
from pyflanneld.errors import RegistryUnavailable, RevisionCompacted

_GONE: Final = frozenset({"delete", "expire", "compareAndDelete"})


class KeyNode(BaseModel):
    """A key or a directory. ``ttl`` is left out when it is 0, ``expiration`` is not."""

    key: str
    value: str = ""
    directory: bool = Field(default=False, alias="dir")
    nodes: tuple["KeyNode", ...] = ()
    ttl_s: int = Field(default=0, alias="ttl")
    expiration: str | None = None
    created: int = Field(default=0, alias="createdIndex")
    modified: int = Field(default=0, alias="modifiedIndex")

    @property
    def remaining_s(self) -> int | None:
        """The seconds left to live; ``None`` for a key without TTL."""
        return None if self.expiration is None else max(self.ttl_s, 0)


class Event(BaseModel):
    """What was asked for, or what happened."""

    action: str
    node: KeyNode


def parse_event(body: bytes, where: str) -> Event:
    """Read an answer's body.

    Raises:
        RegistryUnavailable: it is something else.
    """
    try:
        return Event.model_validate_json(body)
    except ValidationError as error:
        raise RegistryUnavailable(f"{where}: an answer that is none of etcd's v2 API") from error


@dataclass(frozen=True, slots=True)
class Tree:
    """The keys of one cluster.

    Attributes:
        config: the path of ``<prefix>/config``.
        subnets: the path of ``<prefix>/subnets``.
        key: the key ``<prefix>/subnets``, as answers spell it.
    """

    config: str
    subnets: str
    key: str

    @classmethod
    def below(cls, prefix: str) -> "Tree":
        """Return the keys below *prefix*, written with or without a slash at its end."""
        root = prefix.rstrip("/")
        return cls(f"/v2/keys{quote(root)}/config", f"/v2/keys{quote(root)}/subnets", f"{root}/subnets")

    def path(self, name: bytes) -> str:
        """Return the path of the subnet *name*."""
        return f"{self.subnets}/{quote(name, safe='')}"

    def record(self, node: KeyNode) -> Record:
        """Return *node* as a record."""
        return Record(
            name=node.key.removeprefix(f"{self.key}/").encode(errors="replace"),
            value=b"" if node.directory else node.value.encode(errors="replace"),
            create_revision=node.created,
            mod_revision=node.modified,
            lease_id=0 if node.expiration is None else node.created,
        )

    def change(self, event: Event) -> Put | Gone | None:
        """Return what a watch has told; ``None`` when it concerns no subnet.

        Raises:
            RevisionCompacted: the whole directory went, and which keys with it is not told: list again.
        """
        key, gone = event.node.key, event.action in _GONE
        if not key.startswith(f"{self.key}/"):
            if gone:
                raise RevisionCompacted(f"the directory {key} was deleted")
            return None
        name = key.removeprefix(f"{self.key}/").encode(errors="replace")
        if b"/" in name:
            return None
        return Gone(name, event.node.modified) if gone else Put(self.record(event.node))
