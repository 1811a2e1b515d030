"""The code blocks of the documentation, and what stands in them: commands, settings, JSON, or a program's output."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

PROGRAMS = {
    "apt-get", "cat", "cd", "chmod", "chown", "cp", "curl", "docker", "echo", "env", "etcdctl", "etcdutl",
    "exec", "export", "for", "grep", "install", "ip", "iptables", "jq", "journalctl", "ln", "ls", "make",
    "mkdir", "modprobe", "mv", "nft", "nsenter", "openssl", "ping", "pyflanneld", "python3", "rm", "scp", "sed",
    "sha256sum", "ssh", "sudo", "supervisorctl", "sysctl", "systemctl", "tail", "tar", "test", "timeout",
    "touch", "umask", "watch", "yum",
}  # fmt: skip
_PROMPT = re.compile(r"[$#] ")
_ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_]*=")


@dataclass(frozen=True, slots=True)
class Block:
    """One code block: where it is, its language mark (often none), and its text without the common indent."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def kind(self) -> str:
        """What it is: its language mark, or else what its first line looks like."""
        lines = [line for line in self.text.splitlines() if line.strip()]
        if self.language == "" and _PROMPT.match(lines[0]) and _is_command(lines[0][2:]):
            return "session"
        first = next((line for line in lines if not line.startswith("#")), lines[0])
        if self.language:
            return self.language
        if first.startswith("{"):
            return "json"
        if re.fullmatch(r"\[[A-Za-z][\w:.-]*\]", first):
            return "ini"
        return "shell" if _is_command(first) else "output"

    @property
    def script(self) -> str:
        """What a shell would run of it: all of a shell block; of a session, what follows a prompt."""
        if self.kind == "session":
            return "\n".join(line[2:] for line in self.text.splitlines() if _PROMPT.match(line))
        return self.text if self.kind == "shell" else ""


def _is_command(line: str) -> bool:
    words = [word for word in line.split() if not _ASSIGNMENT.match(word)]
    if not words:
        return bool(_ASSIGNMENT.match(line))
    return words[0].rpartition("/")[2] in PROGRAMS


def blocks(page: Path) -> Iterator[Block]:
    """Yield the code blocks of a page."""
    text = page.read_text("utf-8")
    for match in re.finditer(r"^( *)```(\w*)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE):
        line = text.count("\n", 0, match.start()) + 1
        yield Block(page.name, line, match[2], textwrap.dedent(match[3]))


def all_blocks() -> list[Block]:
    """Return the code blocks of all pages."""
    return [block for page in PAGES for block in blocks(page)]


def inline(page: Path) -> Iterator[str]:
    """Yield the inline code that begins with the program's name and is meant as it stands, without metavariables."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"`(pyflanneld [^`\n]+)`", text):
        if not re.search(r"[\[\]<>…|]|\b[A-Z]{3,}\b", code):
            yield code
