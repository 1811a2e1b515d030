"""The part of etcd's API in ``rpc.proto``, against the whole of it as ``aetcd`` brings it."""

import subprocess
import sys
from pathlib import Path

import pytest
from aetcd.rpc import kv_pb2, rpc_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from pyflanneld.etcd.v3 import methods
from pyflanneld.etcd.v3 import rpc_pb2 as ours

PROTO = Path("pyflanneld/etcd/v3/rpc.proto")
OF_KV = ("KeyValue", "Event")
MESSAGES = ours.DESCRIPTOR.message_types_by_name
METHODS = {name: method for name, method in vars(methods).items() if isinstance(method, methods.Method)}


def theirs(name: str) -> Descriptor:
    return (kv_pb2 if name in OF_KV else rpc_pb2).DESCRIPTOR.message_types_by_name[name]


def shape(field: FieldDescriptor) -> tuple[object, ...]:
    """Return all of a field that is on the wire, and how it is read."""
    what = field.message_type or field.enum_type
    union = field.containing_oneof.name if field.containing_oneof else None
    return field.number, field.type, field.is_repeated, field.has_presence, what and what.name, union


def values(enum: EnumDescriptor) -> dict[str, int]:
    return {value.name: value.number for value in enum.values}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_etcds(name: str) -> None:
    """Each field has etcd's number, type and label, and each enumeration etcd's values."""
    message, real = MESSAGES[name], theirs(name)
    for field in message.fields:
        assert shape(field) == shape(real.fields_by_name[field.name]), field.name
    for enum in message.enum_types:
        assert values(enum) == values(real.enum_types_by_name[enum.name]), enum.name


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_method_is_etcds(method: methods.Method) -> None:
    """Each path, with its two messages and whether it streams, is one of etcd's services."""
    _, service, name = method.path.split("/")
    package, _, service = service.rpartition(".")
    real = rpc_pb2.DESCRIPTOR.services_by_name[service].methods_by_name[name]
    assert package == rpc_pb2.DESCRIPTOR.package
    assert (method.request.DESCRIPTOR.name, method.answer.DESCRIPTOR.name) == (
        real.input_type.name,
        real.output_type.name,
    )
    assert method.streaming == real.client_streaming == real.server_streaming


def test_the_module_is_compiled_from_the_file(tmp_path: Path) -> None:
    """``make proto`` would change nothing."""
    command = [sys.executable, "-m", "grpc_tools.protoc", "--proto_path=."]
    subprocess.run([*command, f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", str(PROTO)], check=True)
    for made in ("rpc_pb2.py", "rpc_pb2.pyi"):
        assert (tmp_path / PROTO.with_name(made)).read_text() == PROTO.with_name(made).read_text()
