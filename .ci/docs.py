"""Write what the documentation takes from the code: the man page, and the table of flags."""

from pathlib import Path

from pyflanneld.commands.manpage import page
from pyflanneld.config.settings import flag_table_markdown

DOCS = Path(__file__).parents[1] / "docs"

(DOCS / "pyflanneld.8").write_text(page(), "utf-8")
table = DOCS / "configuration.md"
text = table.read_text("utf-8")
start, end = text.index("<!-- flags -->\n"), text.index("<!-- /flags -->")
table.write_text(f"{text[:start]}<!-- flags -->\n{flag_table_markdown()}{text[end:]}", "utf-8")
