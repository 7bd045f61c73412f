"""The page in a real Chromium.

Pinned: the script of the page runs under the page's own policy, every chart can be read, text of episodes does not run.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import synthetic_run

from phronesis.tools.browser.chromium import find
from phronesis.view.report import write

BROWSER = find()
OFFLINE = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run --host-resolver-rules=MAP\t*\t~NOTFOUND"
)

pytestmark = pytest.mark.skipif(not BROWSER, reason="needs the program chromium")


def dom(page: Path, profile: Path) -> str:
    """The document after its scripts have run."""
    flags = [flag.replace("\t", " ") for flag in OFFLINE.split(" ")]
    command = [BROWSER, *flags, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_the_script_runs_and_injected_ones_do_not(tmp_path: Path):
    folder = synthetic_run.write_run(tmp_path / "run", steps=20, heldout=8)
    page = write(folder)
    attack = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    page.write_text(page.read_text().replace("</main>", f"{attack}</main>"))  # even past the escaping
    seen = dom(page, tmp_path / "profile")
    assert "<title>quickstart · Phronesis</title>" in seen
    charts = len(re.findall(r"data-chart=", seen))
    assert charts > 15
    assert seen.count('class="cursor"') == seen.count('class="tip"') == charts
