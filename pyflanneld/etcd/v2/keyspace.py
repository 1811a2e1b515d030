"""The v2 API's JSON as our records and changes. Wire format: etcd's ``Documentation/v2/api.md`` (2.3 to 3.5).

A key is a file in a tree of directories. Subnets are the files directly in ``<prefix>/subnets``; deeper ones are not. A
directory there is reported with an empty value, which is never a valid lease, because it prevents a key of its name.
Values are JSON texts: the server has replaced bytes that are not UTF-8.

``Record.lease_id`` is 0 for a key without TTL, and else the index at which this incarnation of it was created. Like an
etcd lease in v3, it shows whether the key is still the one that we hold: our own rewrites and refreshes, being
comparisons, keep the index; another client's plain ``set`` changes it. ``create_revision`` changes for the same
reason: flanneld v0.11.0 renews with a plain ``set``, so the age of its keys is that of their last renewal.
"""

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from pydantic import BaseModel, Field, ValidationError

from pyflanneld.core.etcd_types import MAX_REVISION, Gone, Put, Record, bounded_name, bounded_record
from pyflanneld.errors import RegistryUnavailable, RevisionCompacted

_GONE: Final = frozenset({"delete", "expire", "compareAndDelete"})


class V2Node(BaseModel):
    """A key or a directory. The server leaves out a ``ttl`` of 0, but not ``expiration``."""

    key: str
    value: str = ""
    directory: bool = Field(default=False, alias="dir")
    nodes: tuple["V2Node", ...] = ()
    ttl_s: int = Field(default=0, alias="ttl", ge=-MAX_REVISION, le=MAX_REVISION)
    expiration: str | None = None
    created: int = Field(default=0, alias="createdIndex", ge=0, le=MAX_REVISION)
    modified: int = Field(default=0, alias="modifiedIndex", ge=0, le=MAX_REVISION)

    @property
    def remaining_s(self) -> int | None:
        """The seconds left to live; ``None`` for a key without TTL."""
        return None if self.expiration is None else max(self.ttl_s, 0)


class V2Event(BaseModel):
    """What was done to a node, or what was read of it."""

    action: str
    node: V2Node


def parse_event(body: bytes, where: str) -> V2Event:
    """Parse the body of a response.

    Raises:
        RegistryUnavailable: it is something else.
    """
    try:
        return V2Event.model_validate_json(body)
    except ValidationError as error:
        raise RegistryUnavailable(f"{where}: not a response of etcd's v2 API") from error


@dataclass(frozen=True, slots=True)
class V2KeySpace:
    """The keys of one cluster.

    Attributes:
        config: the path of ``<prefix>/config``.
        subnets: the path of ``<prefix>/subnets``.
        key: the key ``<prefix>/subnets``, as responses spell it.
    """

    config: str
    subnets: str
    key: str

    @classmethod
    def below(cls, prefix: str) -> "V2KeySpace":
        """Return the keys below *prefix*, with or without a slash at its end."""
        root = prefix.rstrip("/")
        return cls(f"/v2/keys{quote(root)}/config", f"/v2/keys{quote(root)}/subnets", f"{root}/subnets")

    def path(self, name: bytes) -> str:
        """Return the path of the subnet *name*."""
        return f"{self.subnets}/{quote(name, safe='')}"

    def record(self, node: V2Node) -> Record:
        """Return *node* as a record, within bounds."""
        record = Record(
            name=node.key.removeprefix(f"{self.key}/").encode(errors="replace"),
            value=b"" if node.directory else node.value.encode(errors="replace"),
            create_revision=node.created,
            mod_revision=node.modified,
            lease_id=0 if node.expiration is None else node.created,
        )
        return bounded_record(record)

    def change(self, event: V2Event) -> Put | Gone | None:
        """Return an event of a watch as a change; ``None`` when it is about no subnet.

        Raises:
            RevisionCompacted: the whole directory was deleted, which does not name the keys in it: list again.
        """
        key, gone = event.node.key, event.action in _GONE
        if not key.startswith(f"{self.key}/"):
            if gone:
                raise RevisionCompacted(f"the directory {key} was deleted")
            return None
        name = key.removeprefix(f"{self.key}/").encode(errors="replace")
        if b"/" in name:
            return None
        return Gone(bounded_name(name), event.node.modified) if gone else Put(self.record(event.node))
