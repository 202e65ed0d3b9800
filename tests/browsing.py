"""A browser for tests of pages: headless Chromium, closed to the network, and what a test asks a page."""

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

WAIT = 20.0
FLAGS = (
    "headless no-sandbox disable-gpu disable-background-networking disable-sync disable-component-update "
    "no-first-run autoplay-policy=no-user-gesture-required window-size=1250,1250"
)


@contextlib.contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    """Open a browser with further flags; the test is skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver")
    program, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no Chromium with its driver is installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS.split(), *flags):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        window.set_page_load_timeout(WAIT)
        yield window
    finally:
        window.quit()


def wait_for(done: Callable[[], Any], process: subprocess.Popen[Any] | None = None, seconds: float = WAIT) -> Any:
    """What `done` gives, once it is something; fails in the end, or when the process that it needs is gone."""
    end = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < end, "waited too long"
        assert process is None or process.poll() is None, "the process ended"
        time.sleep(0.05)
    return found


def asked_for(browser: Any) -> list[str]:
    """The addresses that the browser has asked for since the last call."""
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [one["params"]["request"]["url"] for one in sent if one["method"] == "Network.requestWillBeSent"]


class Page:
    """A page as a person uses it."""

    def __init__(self, browser: Any, address: str, ready: str) -> None:
        """Open an address, and wait for what the selector `ready` names."""
        self.browser = browser
        browser.get(address)
        wait_for(lambda: self.texts(ready))

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(one => one.innerText.trim())"
        found: list[str] = self.browser.execute_script(script, selector)
        return found

    def text(self, selector: str) -> str:
        return " ".join(self.texts(selector))

    def click(self, selector: str) -> None:
        self.browser.find_element("css selector", selector).click()

    def type(self, selector: str, text: str) -> None:
        self.browser.find_element("css selector", selector).send_keys(text)

    def choose(self, dropdown: str, choice: str) -> None:
        self.click(f"{dropdown} input")

        def options() -> list[Any]:
            found = self.browser.find_elements("css selector", f"{dropdown} [role=option]")
            return [one for one in found if one.get_attribute("aria-label") == choice]

        wait_for(options)[0].click()
