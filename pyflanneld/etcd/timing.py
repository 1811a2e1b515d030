"""How long we wait for etcd: plain values, importable without gRPC."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """How long we wait, in seconds; tests shorten it.

    Attributes:
        rpc_s: for the answer to one request.
        read_s: for a read with all its attempts.
        progress_s: silence of a v3 watch after which we ask for a sign of life.
        silence_s: silence of a watch after which a v3 one counts as dead, and a v2 one is asked anew.
    """

    rpc_s: float = 5.0
    read_s: float = 10.0
    progress_s: float = 30.0
    silence_s: float = 45.0
