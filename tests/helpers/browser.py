"""Chromium without a window: what a page says once a script of a test has run in it."""

import json
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


def run_in_page(page: str, script: str, folder: Path, width: int = 1400) -> Any:
    """The JSON that `script`, the body of a function run after the page's own, returns.

    The page stands in a frame of that width, because a window has a least one.
    """
    end = f"""<script>{{
      const told = parent.document.createElement("pre");
      told.id = "told";
      try {{ told.textContent = JSON.stringify((() => {{ {script} }})()); }}
      catch (error) {{ told.textContent = JSON.stringify({{error: String(error.stack)}}); }}
      parent.document.body.append(told);
    }}</script></body>"""
    path = folder / "page.html"
    inside = escape(page.replace("</body>", end))
    frame = f'<iframe style="border: 0" width="{width}" height="2000" srcdoc="{inside}"></iframe>'
    path.write_text(f'<!DOCTYPE html><meta charset="utf-8"><body style="margin: 0">{frame}', encoding="utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command = [str(CHROMIUM), *options, "--window-size=1440,1000", "--dump-dom", path.as_uri()]
    shown = subprocess.run(command, capture_output=True, check=True, timeout=300).stdout.decode()
    found = json.loads(unescape(shown.rpartition('<pre id="told">')[2].partition("</pre>")[0]))
    assert not (isinstance(found, dict) and "error" in found), found
    return found
