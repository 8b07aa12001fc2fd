"""Pictures per second of the board while the bundled model generates, in headless Chromium.

python -m moeviz bench board
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from moeviz.bench.rounds import ROOT, spread


def board(seconds: float, repeats: int) -> dict[str, Any]:
    """Pictures per second of the board while the bundled model generates, in headless Chromium (needs
    playwright and Chromium).
    """
    import shutil
    import socket
    import urllib.request

    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        "app.py",
        "--server.port",
        str(port),
        "--server.headless",
        "true",
    ]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = []
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health").read()
                break
            except OSError:
                time.sleep(0.1)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(f"http://127.0.0.1:{port}/?tokens=1900")
            for _ in range(repeats):
                page.get_by_role("button", name="Run").click()
                page.get_by_text("of 1900 tokens").first.wait_for(timeout=60_000)
                shown = page.locator(".board")
                start = time.perf_counter()
                seen = {shown.get_attribute("data-step")}
                while time.perf_counter() - start < seconds:
                    page.wait_for_timeout(20)
                    seen.add(shown.get_attribute("data-step"))
                found.append(len(seen) / (time.perf_counter() - start))
                page.get_by_role("button", name="Stop").click()
                page.get_by_text("stopped after").first.wait_for(timeout=60_000)
            browser.close()
    finally:
        server.terminate()
        server.wait()
    return {"different pictures per second while it generates": spread(found)}
