"""Make the pictures of the page in docs/images: a cluster with some faults, in the light, in the dark, on a phone.

    make screenshots

``pngquant`` makes them small.
"""

import subprocess
import tempfile
from pathlib import Path

from pyflanneld.lab.cluster import Lab
from tests.support.lab.testbed import Store, lease_key, lease_value, store_of
from tests.support.programs.browser import Browser, browser

IMAGES = Path(__file__).parents[3] / "docs" / "images"
MAX_BYTES = 150_000
OTHERS = (24, 25, 26, 28, 30, 31, 33, 34, 35, 36, 37, 40, 41, 47, 52, 53, 60, 61, 62, 90, 118, 119, 160)
RESERVED = (30, 60, 118)


def main() -> None:
    """Put the cluster up, plant the faults, take the pictures."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, Lab("pictures") as lab:
        lab.up()
        node = lab.nodes[0]
        node.exec("ip", "route", "add", "172.7.52.0/24", "via", "192.168.14.250", "proto", "static")
        populate(store_of(lab))
        node.exec("ip", "route", "delete", lab.nodes[1].subnet)
        with browser(node.namespace, Path(scratch)) as page:
            page.size(1120, 1180)
            page.open("http://127.0.0.1:2402/")
            page.wait(f"return document.querySelectorAll('#peers tbody tr').length === {len(OTHERS) + 5}", "all peers")
            page.wait("return document.querySelector('#events').innerText.includes('deleted_by_others')", "the repair")
            save(page, "page-light")
            page.scheme("dark")
            save(page, "page-dark")
            page.scheme("light")
            page.size(390, 844, scale=1.5)
            page.run("byId('map').scrollIntoView()")
            save(page, "page-phone")


def populate(store: Store) -> None:
    """Write the leases of more hosts than there are, and three keys that cannot be used."""
    for third in OTHERS:
        lease = 0 if third in RESERVED else store.grant(86400)
        store.put(lease_key(f"172.7.{third}.0/24"), lease_value(f"192.168.14.{third}"), lease=lease)
    store.put(lease_key("172.7.70.0/24"), lease_value("10.4.0.7"), lease=store.grant(86400))
    store.put(lease_key("172.7.71.0/24"), '{"PublicIP":"192.168.14.71"', lease=store.grant(86400))
    store.put(lease_key("172.7.80.0/24"), lease_value("192.168.14.80", "vxlan"), lease=store.grant(86400))


def save(page: Browser, name: str) -> None:
    """Write the window as a small PNG."""
    command = ["pngquant", "--quality=60-95", "--speed=1", "--strip", "-"]
    data = subprocess.run(command, input=page.picture(), capture_output=True, check=True).stdout
    if len(data) > MAX_BYTES:
        raise SystemExit(f"{name}: {len(data)} bytes are too many")
    (IMAGES / f"{name}.png").write_bytes(data)


if __name__ == "__main__":
    main()
