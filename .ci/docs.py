"""Write what is made from the declarations of flags and commands: flag table, man page, completion scripts."""

from pathlib import Path

import completion
import manpage

from pyflanneld.commands.completion import SCRIPTS
from pyflanneld.config.settings import FLAGS
from pyflanneld.config.usage import default_text, head

DOCS = Path(__file__).parents[1] / "docs"
_START, _END = "<!-- flags -->\n", "<!-- /flags -->"


def generated() -> dict[Path, str]:
    """Return the whole text of each file that is made, or made in part."""
    scripts = {"bash": completion.bash, "zsh": completion.zsh, "fish": completion.fish}
    return {
        DOCS / "pyflanneld.8": manpage.page(),
        DOCS / "configuration.md": _with_flag_table((DOCS / "configuration.md").read_text("utf-8")),
        **{SCRIPTS / f"pyflanneld.{shell}": script() for shell, script in scripts.items()},
    }


def _with_flag_table(page: str) -> str:
    """Return *page* with the table of all flags between its marks."""
    before, _, rest = page.partition(_START)
    _, end, after = rest.partition(_END)
    if not end:
        raise SystemExit(f"docs: the marks {_START.strip()} and {_END} are missing")
    return f"{before}{_START}{flag_table()}{end}{after}"


def flag_table() -> str:
    """Return the flags as a Markdown table, one line each."""
    lines = ["| flag | variable | default | meaning |", "|---|---|---|---|"]
    for flag in FLAGS:
        facts = (flag.env, default_text(flag)) if flag.from_env else ("", "")
        variable, default = (f"`{fact}`" if fact else "" for fact in facts)
        cells = [cell.replace("|", "\\|") for cell in (f"`{head(flag)}`", variable, default, flag.text)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for path, text in generated().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
