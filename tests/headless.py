"""A headless Chromium for tests and benchmarks of pages: the distribution's, driven by Selenium."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

AXE = Path(__file__).parent / "axe" / "axe.min.js"
# Contrast is left out: it takes minutes on a page of many drawn points, and has tests of its own.
# Of what a drawing holds, its names and three links are read; the rest is put back afterwards.
FAULTS = """
const done = arguments[arguments.length - 1];
const drawings = [...document.querySelectorAll('svg')].map(svg => [svg, [...svg.childNodes]]);
for (const [svg] of drawings) svg.replaceChildren(
  ...svg.querySelectorAll(':scope > title, :scope > desc'),
  ...[...svg.querySelectorAll('a')].slice(0, 3).map(link => link.cloneNode(true)));
const how = {resultTypes: ['violations'], elementRef: false, preload: false,
             rules: {'color-contrast': {enabled: false}}};
axe.run(how).then(found => found.violations
  .filter(v => v.impact === 'serious' || v.impact === 'critical')
  .flatMap(v => v.nodes.map(n => `${v.id}: ${v.help}: ${n.target.join(' ')}: ${n.html}`)),
  error => [String(error)]).then(said => {
    for (const [svg, all] of drawings) svg.replaceChildren(...all);
    done(said);
  });
"""
READY = "return document.documentElement.dataset.ready === 'yes'"


def browser_missing() -> str:
    """Why there is no browser here; "" where there is one."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed (the dev extra)"
    for names in (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)):
        if not any(map(shutil.which, names)):
            return f"no {names[0]} on this machine"
    return ""


class HeadlessPage:
    """One page of a headless browser; close it, or use it as a context manager.

    Args:
        width: width of the window in pixels; below 600 it is a phone with a touch screen.
        height: height of the window.
        dark: whether the reader prefers dark colours.
    """

    def __init__(self, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        names = ("chromium", "chromium-browser", "google-chrome")
        options.binary_location = next(filter(None, map(shutil.which, names)))
        for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                     "--disable-background-networking", "--disable-dev-shm-usage"):  # fmt: skip
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._cdp("Emulation.setEmulatedMedia", {"features": [scheme]})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._cdp("Emulation.setDeviceMetricsOverride", size)

    def _cdp(self, command: str, arguments: dict[str, Any]) -> Any:
        return self.driver.execute_cdp_cmd(command, arguments)

    def open(self, url: str) -> None:
        """Open a page, and wait until it says that it is ready."""
        self.driver.get("about:blank")
        self.driver.get(url)
        self.until(READY)

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that a script returns."""
        return self.driver.execute_script(script, *arguments)

    def until(self, script: str, *arguments: Any, seconds: float = 30.0) -> Any:
        """Wait until a script returns something true; that value."""
        end = time.monotonic() + seconds
        while not (value := self.run(script, *arguments)):
            if time.monotonic() > end:
                raise AssertionError(f"never true: {script}; console: {self.complaints()}")
            time.sleep(0.02)
        return value

    def press(self, keys: str) -> None:
        """Press keys, one after the other, where the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(keys).perform()

    def point_at(self, selector: str) -> None:
        """Move the pointer over the first element of a selector."""
        from selenium.webdriver.common.action_chains import ActionChains

        found = self.driver.find_element("css selector", selector)
        self.run("arguments[0].scrollIntoView({block: 'center'})", found)
        ActionChains(self.driver).move_to_element(found).perform()

    def text(self, selector: str) -> str:
        """The text of the first element of a selector, as it is drawn."""
        return str(self.run("return document.querySelector(arguments[0]).innerText", selector))

    def faults(self) -> list[str]:
        """The serious and critical faults of accessibility that axe-core finds."""
        self.run(AXE.read_text("utf-8"))
        self.driver.set_script_timeout(120)
        return list(self.driver.execute_async_script(FAULTS))

    def complaints(self) -> list[str]:
        """What the console has said since the last call, the policy's refusals included."""
        return [f"{entry['level']}: {entry['message']}" for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The addresses that were asked for since the last call."""
        events = [json.loads(entry["message"])["message"]
                  for entry in self.driver.get_log("performance")]  # fmt: skip
        sent = [e["params"]["request"]["url"] for e in events
                if e["method"] == "Network.requestWillBeSent"]  # fmt: skip
        return [url for url in sent if not url.startswith(("about:", "data:"))]

    def close(self) -> None:
        """End the browser."""
        self.driver.quit()

    def __enter__(self) -> HeadlessPage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
