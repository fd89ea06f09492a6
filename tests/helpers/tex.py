"""LaTeX through the first engine that there is, with what its log complains of."""

import re
import shutil
import subprocess
from pathlib import Path

ENGINE = next(filter(None, map(shutil.which, ("pdflatex", "lualatex", "xelatex", "tectonic"))), None)


def complaints(document: str, path: Path) -> list[str]:
    """Errors and overfull boxes of the document; none where there is no engine."""
    if ENGINE is None:
        return []
    path.write_text(document, encoding="utf-8")
    options = ["--keep-logs"] if Path(ENGINE).name == "tectonic" else ["-interaction=nonstopmode", "-halt-on-error"]
    done = subprocess.run([ENGINE, *options, path.name], cwd=path.parent, capture_output=True, text=True, check=False)
    log = path.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
    found = re.findall(r"^(?:! .*|Overfull .*)$", log, flags=re.MULTILINE)
    return found if path.with_suffix(".pdf").exists() and done.returncode == 0 else [*found, "no page was made"]
