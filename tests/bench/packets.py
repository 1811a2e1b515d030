"""The two programs that run in pods and send each other packets; the standard library alone.

    python tests/bench/packets.py serve                  # says "ready", ends when it is killed
    python tests/bench/packets.py measure 10.255.150.2   # prints {"bit_per_s": …, "rtt_s": […]}
"""

import json
import socket
import sys
import threading
import time

PORT = 7000
STREAM_S = 1.0
PINGS = 200
PING_EVERY_S = 0.002
BLOCK = bytes(1 << 16)


def serve() -> None:
    """Swallow TCP streams, and send UDP packets back."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("", PORT))
    tcp = socket.create_server(("", PORT))
    threading.Thread(target=swallow, args=(tcp,), daemon=True).start()
    print("ready", flush=True)
    while True:
        data, sender = udp.recvfrom(2048)
        udp.sendto(data, sender)


def swallow(listener: socket.socket) -> None:
    """Read each stream to its end, then close it, which is the sender's receipt."""
    buffer = bytearray(1 << 18)
    while True:
        stream, _ = listener.accept()
        with stream:
            while stream.recv_into(buffer):
                pass


def measure(target: str) -> None:
    """Ping first, then stream, and print what came of it."""
    rtt_s = [ping for ping in pings(target) if ping is not None]
    print(json.dumps({"bit_per_s": stream(target), "rtt_s": rtt_s, "lost": PINGS - len(rtt_s)}), flush=True)


def pings(target: str) -> list[float | None]:
    """Return the round trips in seconds, ``None`` for a lost one."""
    found: list[float | None] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((target, PORT))
        sock.settimeout(0.2)
        for number in range(-5, PINGS):
            took = ping(sock, number.to_bytes(8, signed=True))
            if number >= 0:  # the first ones find the neighbours' hardware addresses
                found.append(took)
            time.sleep(PING_EVERY_S)
    return found


def ping(sock: socket.socket, data: bytes) -> float | None:
    """Send one packet and wait for it to come back."""
    began = time.monotonic()
    try:
        sock.send(data)
        while sock.recv(64) != data:
            pass
    except OSError:
        return None
    return time.monotonic() - began


def stream(target: str) -> float:
    """Return how many bits a second a TCP stream brings there."""
    sent = 0
    with socket.create_connection((target, PORT), timeout=10) as sock:
        began = time.monotonic()
        while time.monotonic() - began < STREAM_S:
            sent += sock.send(BLOCK)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)  # all has been read
        return 8 * sent / (time.monotonic() - began)


if __name__ == "__main__":
    serve() if sys.argv[1] == "serve" else measure(sys.argv[2])
