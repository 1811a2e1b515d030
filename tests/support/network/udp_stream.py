"""A stream of numbered UDP packets and its echo, run as two programs in two pods; the standard library alone.

    python tests/support/network/udp_stream.py echo 172.7.22.2
    python tests/support/network/udp_stream.py send 172.7.21.2 172.7.22.2  # prints what came of it when its input ends

Packets with even numbers belong to one flow, those with odd numbers come from a new port each and are echoed from a new
port, so that every one of them meets the firewall as a new connection. A packet counts as received when its echo came
back and nobody has changed a source address on the way, neither there nor back.
"""

import json
import select
import socket
import sys
import time

PORT = 7000
RATE = 1000
LIMIT_S = 60.0  # ends by itself if nobody ends it
GRACE_S = 2.0
BUFFER = 8 << 20
SO_RCVBUFFORCE = 33


def bound(address: str) -> socket.socket:
    """Return a socket with a buffer that a busy machine does not fill."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    sock.bind((address, PORT))
    return sock


def deliver(main: socket.socket, number: int, more: bytes, target: str) -> None:
    """Send a packet, from the flow's port or from a new one."""
    data = number.to_bytes(8) + more
    if number % 2 == 0:
        main.sendto(data, (target, PORT))
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as fresh:
        fresh.sendto(data, (target, PORT))


def echo(me: str) -> None:
    """Answer every packet, with the address that it came from, until the input ends."""
    with bound(me) as main:
        sender = ""
        print("ready", flush=True)
        while True:
            readable, _, _ = select.select([main, sys.stdin], [], [])
            if main in readable:
                data, (source, _) = main.recvfrom(64)
                sender = sender or source  # the first packet is sent while nothing is changed
                deliver(main, int.from_bytes(data[:8]), socket.inet_aton(source), sender)
            elif sys.stdin in readable:
                return


def send(me: str, peer: str) -> None:
    """Send until the input ends, wait for the last echoes and print the result as JSON."""
    with bound(me) as main:
        good: set[int] = set()
        changed: set[tuple[str, str]] = set()

        def collect(timeout_s: float) -> bool:
            """Take what has come; return whether the input has ended."""
            readable, _, _ = select.select([main, sys.stdin], [], [], max(timeout_s, 0.0))
            if main in readable:
                data, (source, _) = main.recvfrom(64)
                seen = socket.inet_ntoa(data[8:12])
                if (seen, source) == (me, peer):
                    good.add(int.from_bytes(data[:8]))
                else:
                    changed.add((seen, source))
            return sys.stdin in readable and main not in readable

        started, sent, over = time.monotonic(), 0, False
        while not over and (now := time.monotonic() - started) < LIMIT_S:
            if sent <= now * RATE:
                deliver(main, sent, b"", peer)
                sent += 1
            over = collect(sent / RATE - (time.monotonic() - started))
        took_s = time.monotonic() - started
        deadline = time.monotonic() + GRACE_S
        while len(good) < sent and time.monotonic() < deadline:
            if select.select([main], [], [], 0.1)[0]:
                collect(0.0)
        lost = sorted(set(range(sent)) - good)
        print(json.dumps({"sent": sent, "took_s": took_s, "lost": lost, "changed": sorted(changed)}), flush=True)


if __name__ == "__main__":
    {"echo": echo, "send": send}[sys.argv[1]](*sys.argv[2:])
