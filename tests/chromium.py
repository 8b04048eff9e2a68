"""A headless Chromium, controlled through its DevTools port: the text of a page and a screenshot."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tornado.websocket import websocket_connect

_SEEN = """(() => {
  let text = '', canvases = 0;
  const walk = node => {
    if (node.nodeType === Node.TEXT_NODE) text += node.textContent + ' ';
    if (node.tagName === 'CANVAS') canvases += 1;
    if (node.shadowRoot) walk(node.shadowRoot);
    if (node.tagName !== 'STYLE' && node.tagName !== 'SCRIPT') node.childNodes.forEach(walk);
  };
  walk(document.body || document);
  return JSON.stringify({text: text, canvases: canvases});
})()"""


def find_chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def look(
    url: str, folder: Path, enough: Callable[[dict[str, Any]], bool], picture: Path | None = None, seconds: float = 120
) -> dict[str, Any]:
    """Open a page until its content is sufficient; return its `text`, including shadow roots, and `canvases`."""
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,900"]
    place = [f"--user-data-dir={folder / 'chromium'}", "--remote-debugging-port=0", url]
    chromium = subprocess.Popen(
        [str(find_chromium()), *words, *place], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        return asyncio.run(_ask(folder / "chromium" / "DevToolsActivePort", url, enough, picture, seconds))
    finally:
        os.killpg(chromium.pid, 15)
        chromium.wait(30)


async def _ask(
    port_file: Path, url: str, enough: Callable[[dict[str, Any]], bool], picture: Path | None, seconds: float
) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    target = None
    while target is None:
        if time.monotonic() > deadline:
            raise TimeoutError("the browser opened no page")
        await asyncio.sleep(0.2)
        if port_file.exists() and (port := port_file.read_text().split("\n")[0]):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=30) as answer:
                pages = [
                    one
                    for one in json.load(answer)
                    if one["type"] == "page" and one["url"].startswith(url.partition("?")[0])
                ]
            target = pages[0]["webSocketDebuggerUrl"] if pages else None
    connection = await websocket_connect(target, max_message_size=2**28)
    try:
        while True:
            answer = await _call(connection, "Runtime.evaluate", expression=_SEEN, returnByValue=True)
            seen: dict[str, Any] = json.loads(answer["result"].get("value") or '{"text": "", "canvases": 0}')
            if enough(seen) or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.5)
        if picture is not None:
            shot = await _call(connection, "Page.captureScreenshot", format="png")
            picture.write_bytes(base64.b64decode(shot["data"]))
        return seen
    finally:
        connection.close()
        while await connection.read_message() is not None:  # until the browser has closed it too
            pass


async def _call(connection: Any, method: str, **parameters: Any) -> dict[str, Any]:
    await connection.write_message(json.dumps({"id": 1, "method": method, "params": parameters}))
    while True:
        answer = json.loads(await connection.read_message())
        if answer.get("id") == 1:
            return answer["result"]
