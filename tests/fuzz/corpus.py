r"""The kept inputs: a file for each target, a line for each input, written as in a Python bytes literal (``\xff``)."""

import ast
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"
LONGEST_BYTES = 4096  # longer ones are made by the tests, not kept


def path_of(target: str) -> Path:
    """Return the file of a target."""
    return FOLDER / f"{target}.txt"


def load(target: str) -> list[bytes]:
    """Return the kept inputs."""
    lines = path_of(target).read_text("ascii").splitlines() if path_of(target).exists() else []
    return [ast.literal_eval(f"b'{line}'") for line in lines]


def save(target: str, inputs: list[bytes]) -> None:
    """Keep these inputs, each once, in an order that makes changes easy to read."""
    kept = sorted({data for data in inputs if len(data) <= LONGEST_BYTES})
    FOLDER.mkdir(exist_ok=True)
    path_of(target).write_text("".join(f"{_written(data)}\n" for data in kept), "ascii")


def _written(data: bytes) -> str:
    return "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in "\\'" else f"\\x{byte:02x}" for byte in data
    )
