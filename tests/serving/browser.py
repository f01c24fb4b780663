"""A headless Chromium, driven over its DevTools pipe with nothing but Python.

    python -m tests.serving.browser "http://localhost:8501/#example=7&dy=9" docs/web_page.png

writes a screenshot of the local server's page once its answers are there.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
_TIMEOUT = 120.0
# Chromium reads its commands from descriptor 3 and answers on 4.
_START = (
    "import os, sys; os.dup2({read}, 3); os.dup2({write}, 4); os.execv(sys.argv[1], sys.argv[1:])"
)


class Browser:
    """One page of a browser.

    Args:
      width: of the window, in pixels.
      height: of the window.
    """

    def __init__(self, *, width=1160, height=1100):
        self._profile = tempfile.mkdtemp()
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        # Above 4, so that neither is overwritten while the other is put in its place.
        ends = [os.dup(os.dup(os.dup(end))) for end in (commands, answers)]
        start = _START.format(read=ends[0], write=ends[1])
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", start, BROWSER),
                *("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"),
                *("--hide-scrollbars", f"--window-size={width},{height}"),
                *("--disable-dev-shm-usage", f"--user-data-dir={self._profile}", "about:blank"),
            ],
            pass_fds=ends,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (commands, answers, *ends):
            os.close(end)
        self._number, self._buffer, self._session = 0, b"", None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self.send("Page.enable")

    def send(self, method, **params):
        """The result of a DevTools command."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._buffer:
                read = os.read(self._answers, 1 << 16)
                assert read, "the browser ended"
                self._buffer += read
            content, _, self._buffer = self._buffer.partition(b"\0")
            answer = json.loads(content)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def run(self, script):
        """The value of a JavaScript expression, awaited."""
        found = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def open(self, url):
        """Goes there, and waits for the page's answers."""
        self.send("Page.navigate", url="about:blank")  # another fragment alone is no navigation
        self.send("Page.navigate", url=url)
        self.answered()

    def answered(self):
        """Waits until the models have answered what the page shows."""
        self.wait("document.body && document.body.dataset.state === 'answered'")

    def wait(self, condition):
        """Waits until a JavaScript expression is true."""
        deadline = time.monotonic() + _TIMEOUT
        while not self.run(condition):
            assert time.monotonic() < deadline, f"never: {condition}"
            time.sleep(0.05)

    def text(self, selector):
        """What the first such element says."""
        return self.run(f"document.querySelector({json.dumps(selector)}).innerText")

    def drag(self, points):
        """Presses the mouse at the first of the points [(x, y), ...] and lets go at the last."""
        kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 1), "mouseReleased"]
        for kind, (x, y) in zip(kinds, [*points, points[-1]], strict=True):
            buttons = 0 if kind == "mouseReleased" else 1
            self.send(
                "Input.dispatchMouseEvent",
                **{"type": kind, "x": x, "y": y, "button": "left", "buttons": buttons},
                clickCount=1,
            )

    def choose_file(self, selector, path):
        """Gives a file to an <input type=file>."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def screenshot(self):
        """The page as a PNG."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.send("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._process.kill()
        self._process.wait()
        for end in (self._commands, self._answers):
            with contextlib.suppress(OSError):
                os.close(end)
        shutil.rmtree(self._profile, ignore_errors=True)


if __name__ == "__main__":
    with Browser() as browser:
        browser.open(sys.argv[1])
        Path(sys.argv[2]).write_bytes(browser.screenshot())
