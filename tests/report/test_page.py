"""The report's page in a real browser: offline, searched and walked with the keyboard alone, dark, printed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cogvideo_sat_env.report.html import render
from cogvideo_sat_env.report.report import make_report
from inventories import of, package, variant

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian's packages)"),
]
WHITE = "rgba(255, 255, 255, 1)"
HOSTILE = "<img src=x onerror=document.title='taken'></script><script>document.title='taken'</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1000",
                     "--disable-background-networking", "--disable-component-update"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(120)
    try:
        yield driver
    finally:
        driver.quit()


def opened(browser, path: Path, inventories_: list) -> None:
    path.write_bytes(render(make_report(inventories_, 1_795_000_000)))
    browser.get_log("performance"), browser.get_log("browser")  # those of the page before
    browser.get(path.as_uri())


def quiet(browser, path: Path) -> None:
    """Nothing was asked of any network, and nothing went wrong."""
    asked = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.add(message["params"]["request"]["url"].partition("#")[0])
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} <= {path.as_uri()}
    assert browser.get_log("browser") == []


def emulate(browser, media: str, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def contrast(browser, selector: str) -> float:
    """The contrast of a text against the page, as WCAG counts it."""
    return browser.execute_script(
        """
        const bright = (text) => {
          const [r, g, b] = text.match(/[\\d.]+/g).map((n) => n / 255).map((c) => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
          return .2126 * r + .7152 * g + .0722 * b;
        };
        const one = bright(getComputedStyle(document.querySelector(arguments[0])).color);
        const other = bright(getComputedStyle(document.body).backgroundColor);
        return (Math.max(one, other) + .05) / (Math.min(one, other) + .05);
        """,
        selector,
    )


def test_the_page_works_offline_with_the_keyboard_in_the_dark_and_on_paper(browser, tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    path = tmp_path / "report.html"
    opened(browser, path, [variant("linux-64-cuda"), variant("linux-64-cpu")])

    def text(selector: str) -> str:
        return browser.find_element(By.CSS_SELECTOR, selector).text

    def focused():
        return browser.switch_to.active_element

    assert browser.find_elements(By.CSS_SELECTOR, "#treemap g.slice, #treemap .treemaplayer g")
    assert "4.5 GB" in text("#cards") and "libtorch" in text("#by-package")

    browser.find_element(By.TAG_NAME, "body").send_keys("/")
    assert focused().get_attribute("id") == "search"
    focused().send_keys("cubl")
    assert text("#hits li[aria-selected=true]").startswith("libcublas")
    focused().send_keys(Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.ENTER)
    assert text("#package-name").startswith("libcublas 12.9") and focused().get_attribute("id") == "package"
    chains = [" ".join(c.text.split()) for c in browser.find_elements(By.CSS_SELECTOR, "#package .chain")]
    assert "pytorch >=2.5.1,<2.11 cuda* libcublas" in chains and "requirements lead to it" in text("#said")
    focused().send_keys(Keys.TAB)  # the first requirement of the first chain
    assert focused().text == "libcublas-dev"
    focused().send_keys(Keys.ENTER)
    assert text("#package-name").startswith("libcublas-dev") and browser.current_url.endswith("/libcublas-dev")
    browser.back()
    assert text("#package-name").startswith("libcublas 12.9")
    browser.find_element(By.ID, "search").send_keys(Keys.CONTROL, "a")
    browser.find_element(By.ID, "search").send_keys("no such thing", Keys.ENTER)
    assert "No package of that name" in text("#said")

    click = "const map = document.getElementById('treemap'); const id = map.data[0].ids.find((i) => i.endsWith(arguments[0])); "
    browser.execute_script(click + "map.emit('plotly_treemapclick', {points: [{id}]})", "/libmagma")
    assert text("#package-name").startswith("libmagma")

    browser.find_element(By.CSS_SELECTOR, "#by-package input").send_keys("ffmp")
    rows = [row.text for row in browser.find_elements(By.CSS_SELECTOR, "#by-package tbody tr")]
    assert rows and all("ffmp" in row for row in rows)
    head = browser.find_element(By.CSS_SELECTOR, "#by-licence th button")
    head.send_keys(Keys.ENTER)
    assert head.find_element(By.XPATH, "..").get_attribute("aria-sort") == "ascending"

    browser.find_element(By.CSS_SELECTOR, "#views input:checked").send_keys(Keys.ARROW_RIGHT)
    assert "linux-64-c" in text("#views label:has(:checked)") and len(browser.find_elements(By.NAME, "view")) == 2
    assert not browser.execute_script(  # every field and button has a name
        "return [...document.querySelectorAll('button,input')].filter((n) => n.getClientRects().length && "
        "!n.textContent.trim() && !n.ariaLabel && !n.labels?.length).map((n) => n.outerHTML)"
    )

    for scheme, back in (("light", WHITE), ("dark", "rgba(16, 20, 26, 1)")):
        emulate(browser, "screen", scheme)
        assert browser.find_element(By.TAG_NAME, "body").value_of_css_property("background-color") == back
        assert contrast(browser, "body") > 7 and contrast(browser, ".note") > 4.5 and contrast(browser, ".link") > 4.5
    emulate(browser, "print", "dark")
    assert contrast(browser, "body") > 7 and not browser.find_element(By.TAG_NAME, "nav").is_displayed()
    assert browser.find_element(By.TAG_NAME, "body").value_of_css_property("background-color") == WHITE
    quiet(browser, path)


def test_a_name_or_licence_that_looks_like_html_stays_text(browser, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    one = of(package("plain", needs=["bad"]), package("bad", licence=HOSTILE, version=HOSTILE), source=HOSTILE)
    opened(browser, path, [one])
    browser.get(f"{path.as_uri()}#linux-64/bad")
    assert "taken" not in browser.title.replace(HOSTILE, "")
    assert HOSTILE in browser.execute_script("return document.getElementById('package').textContent")
    assert not browser.execute_script("return document.querySelectorAll('img').length")
    quiet(browser, path)
