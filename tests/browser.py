"""Chromium without a window: what a page says once a script of a test has run in it."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


def run_in_page(page: str, script: str, folder: Path, width: int = 1400) -> Any:
    """The JSON that `script`, the body of a function run after the page's own, returns."""
    end = f"""<script>{{
      const told = document.createElement("pre");
      told.id = "told";
      try {{ told.textContent = JSON.stringify((() => {{ {script} }})()); }}
      catch (error) {{ told.textContent = JSON.stringify({{error: String(error.stack)}}); }}
      document.body.append(told);
    }}</script></body>"""
    path = folder / "page.html"
    path.write_text(page.replace("</body>", end), encoding="utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command = [str(CHROMIUM), *options, f"--window-size={width},1000", "--dump-dom", path.as_uri()]
    shown = subprocess.run(command, capture_output=True, check=True, timeout=300).stdout.decode()
    text = shown.rpartition('<pre id="told">')[2].partition("</pre>")[0]
    for code, sign in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        text = text.replace(code, sign)
    found = json.loads(text)
    assert not (isinstance(found, dict) and "error" in found), found
    return found
