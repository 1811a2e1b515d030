"""The keys below the prefix, and etcd's key-values and watch events as our records and changes."""

from dataclasses import dataclass

from pyflanneld.core.etcd_types import Gone, Put, Record, bounded_name, bounded_record
from pyflanneld.etcd.v3 import rpc_pb2 as rpc
from pyflanneld.etcd.v3.status import check_revision


@dataclass(frozen=True, slots=True)
class KeySpace:
    """The keys of one cluster.

    Attributes:
        config: ``<prefix>/config``.
        subnets: ``<prefix>/subnets/``, the first key of the range, with its slash: ``subnets-old/x`` is no subnet.
        subnets_end: ``<prefix>/subnets0``, the end of the range, because ``0`` follows the slash.
    """

    config: bytes
    subnets: bytes
    subnets_end: bytes

    @classmethod
    def below(cls, prefix: str) -> "KeySpace":
        """Return the keys below *prefix*, with or without a slash at its end."""
        root = prefix.rstrip("/").encode()
        return cls(config=root + b"/config", subnets=root + b"/subnets/", subnets_end=root + b"/subnets0")

    def key(self, name: bytes) -> bytes:
        """Return the full key of the subnet *name*."""
        return self.subnets + name

    def record(self, kv: rpc.KeyValue) -> Record:
        """Return etcd's ``mvccpb.KeyValue`` as a record, within bounds. Raises ``NotEtcd``."""
        for revision in (kv.create_revision, kv.mod_revision):
            check_revision(revision, "a key")
        record = Record(
            name=kv.key.removeprefix(self.subnets),
            value=kv.value,
            create_revision=kv.create_revision,
            mod_revision=kv.mod_revision,
            lease_id=kv.lease,
        )
        return bounded_record(record)

    def change(self, event: rpc.Event) -> Put | Gone:
        """Return etcd's ``mvccpb.Event`` as a change. An expiry is a deletion, as it is in etcd."""
        check_revision(event.kv.mod_revision, "a change")
        if event.type == event.DELETE:
            return Gone(name=bounded_name(event.kv.key.removeprefix(self.subnets)), revision=event.kv.mod_revision)
        return Put(self.record(event.kv))
