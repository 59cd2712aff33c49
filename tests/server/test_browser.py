"""The page in a real browser: a video is dropped, asked about, and sought through, by mouse, by keyboard and on a phone.

Screenshots lie in the test's folder, `tmp_path`, for whoever wants to look.
"""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lit_hour.config.serving import ServerConfig
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.server.auth import AccessPolicy
from tests.server.clips import clip
from tests.server.running import Running, running, wait_for
from tests.server.test_auth import TOKEN

selenium = pytest.importorskip(
    "selenium", reason="selenium, which drives the browser, is not installed"
)

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402

DESKTOP, PHONE = (1280, 800), (390, 844)
DROP = """
const [bytes, name] = arguments;
const data = new DataTransfer();
data.items.add(new File([Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0))], name, {type: "video/mp4"}));
for (const kind of ["dragover", "drop"]) document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true}));
"""


class Browser:
    """What a person does with the page, and sees of it."""

    def __init__(self, driver: webdriver.Chrome, pictures: Path) -> None:
        self.driver, self._pictures = driver, pictures

    def open(self, url: str, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> None:
        width, height = size
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get("about:blank")
        self.driver.get(url)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def count(self, selector: str) -> int:
        return len(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def see(self, selector: str) -> WebElement:
        wait_for(lambda: self.count(selector) and self.find(selector).is_displayed())
        return self.find(selector)

    def ask(self, question: str) -> str:
        """The answer, once it is whole."""
        before = self.count(".answer")
        self.find("#question").send_keys(question, Keys.ENTER)
        wait_for(lambda: self.count(".answer") == before + 1 and not self.count(".answer.open"))
        return self.driver.find_elements(By.CSS_SELECTOR, ".answer")[-1].text

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self) -> str:
        return self.run("return document.activeElement.id || document.activeElement.textContent")

    def run(self, script: str, *given: Any) -> Any:
        return self.driver.execute_script(script, *given)

    def seconds(self) -> float:
        return self.run("return document.getElementById('player').currentTime")

    def picture(self, name: str) -> None:
        assert self.driver.save_screenshot(str(self._pictures / f"{name}.png"))

    def complaints(self) -> list[str]:
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] == "SEVERE"
        ]


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in paths:
        pytest.skip("no chromium with chromedriver to open the page in")
    options = webdriver.ChromeOptions()
    options.binary_location = str(paths[0])
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(paths[1])))
    yield driver
    driver.quit()


@pytest.fixture
def browser(driver: webdriver.Chrome, tmp_path: Path) -> Browser:
    return Browser(driver, tmp_path)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two minutes, so that there is something to seek in."""
    file = tmp_path_factory.mktemp("films") / "film.mp4"
    file.write_bytes(clip(seconds=120.0, size=(320, 180), options={"movflags": "faststart"}))
    return file


def bring(browser: Browser, served: Running, film: Path, **look: Any) -> None:
    browser.open(served.url, **look)
    browser.see("#welcome")
    browser.find("#file").send_keys(str(film))
    browser.see("#pictures img")


def test_a_video_is_dropped_and_three_questions_are_asked(
    browser: Browser, served: Running, film: Path
) -> None:
    browser.open(served.url)
    assert "walk.mp4" in browser.see("#videos").text
    browser.picture("welcome")
    served.server.executor.submit(
        time.sleep, 2.0
    )  # the model is busy, so that the page can be seen waiting
    browser.run(DROP, base64.b64encode(film.read_bytes()).decode(), "film.mp4")
    wait_for(lambda: browser.find("#progress-text").text == "Watching: 0 of 40 frames")
    browser.picture("reading")
    browser.see("#pictures img")
    assert not browser.find("#progress").is_displayed() and browser.find("#name").text == "film.mp4"
    assert browser.count("#pictures img") == 6
    video = served.get("/v1/videos").json()["data"][-1]["id"]
    answers = [
        browser.ask(question) for question in ("What is there?", "Which colour?", "And then?")
    ]
    reply = served.chat(video, "What is there?").json()
    assert answers[0] == reply["choices"][0]["message"]["content"].strip()
    history = ["What is there?", answers[0], "Which colour?", answers[1], "And then?"]
    assert (
        answers[2]
        == served.chat(video, *history).json()["choices"][0]["message"]["content"].strip()
    )
    assert browser.count(".found button") >= 3 and browser.count("#moments i") >= 1
    browser.picture("answered")
    assert browser.complaints() == []


def test_clicks_on_timeline_pictures_and_moments_move_the_player(
    browser: Browser, served: Running, film: Path
) -> None:
    bring(browser, served, film)
    browser.ask("What is there?")
    wait_for(lambda: browser.run("return document.getElementById('player').readyState") > 0)
    timeline = browser.find("#timeline")
    offset = timeline.rect["width"] // 4  # from its middle
    webdriver.ActionChains(browser.driver).move_to_element_with_offset(
        timeline, offset, 0
    ).click().perform()
    wait_for(lambda: abs(browser.seconds() - 90) < 1)
    assert timeline.get_attribute("aria-valuetext") == "1:30 of 2:00"
    browser.find("#pictures li:nth-child(3) button").click()
    second = browser.find("#pictures li:nth-child(3) span").text
    wait_for(lambda: timeline.get_attribute("aria-valuetext") == f"{second} of 2:00")
    moment = browser.find(".found button")
    start = moment.text.split(" ")[0]
    moment.click()
    wait_for(lambda: timeline.get_attribute("aria-valuetext") == f"{start} of 2:00")


def test_the_keyboard_is_enough(browser: Browser, served: Running, folder: Path) -> None:
    browser.open(served.url)
    browser.see("#videos button")
    places = []
    while not places or "walk.mp4" not in places[-1]:
        browser.press(Keys.TAB)
        places.append(browser.focused())
        assert len(places) < 12
    assert places[0] == "file"
    browser.press(Keys.ENTER)
    browser.see("#pictures img")
    assert browser.focused() == "question"
    browser.press("What is there?", Keys.ENTER)
    wait_for(lambda: browser.count(".answer") == 1 and not browser.count(".answer.open"))
    assert browser.focused() == "question"
    browser.run("document.getElementById('timeline').focus()")
    timeline = browser.find("#timeline")
    for key, text in (
        (Keys.END, "0:03"),
        (Keys.HOME, "0:00"),
        (Keys.PAGE_UP, "0:03"),
        (Keys.ARROW_LEFT, "0:00"),
    ):
        browser.press(key)
        assert timeline.get_attribute("aria-valuetext") == f"{text} of 0:04", key
    browser.press(Keys.ENTER)
    wait_for(lambda: browser.seconds() > 0)


def test_a_screen_reader_is_told_what_happens(
    browser: Browser, served: Running, film: Path
) -> None:
    bring(browser, served, film)
    assert browser.find("#news").get_attribute("role") == "status"
    heard = "return document.getElementById('news').textContent"
    wait_for(lambda: browser.run(heard).startswith("The video is remembered"))
    answer = browser.ask("What is there?")
    wait_for(lambda: answer[:5] in browser.run(heard) and ". Found at " in browser.run(heard))
    unnamed = browser.run(
        "return [...document.querySelectorAll('button, input, textarea, [tabindex], progress')].filter((each) =>"
        " !(each.labels?.length || each.ariaLabel || each.textContent.trim() || each.querySelector('img[alt]')"
        " || each.getAttribute('aria-labelledby'))).map((each) => each.outerHTML)"
    )
    assert unnamed == []


@pytest.mark.parametrize("scheme", ("light", "dark"))
def test_it_fits_a_phone(browser: Browser, served: Running, film: Path, scheme: str) -> None:
    bring(browser, served, film, size=PHONE, scheme=scheme)
    for question in ("What is there?", "Which colour?"):
        browser.ask(question)
    assert browser.run("return document.documentElement.scrollWidth") <= PHONE[0]
    for selector in ("#send", "#timeline", "#question"):
        box = browser.find(selector).rect
        assert box["height"] >= 40 and box["x"] >= 0 and box["x"] + box["width"] <= PHONE[0], (
            selector
        )
    browser.picture(f"phone_{scheme}")


def test_what_goes_wrong_is_said(browser: Browser, served: Running, tmp_path: Path) -> None:
    notes = tmp_path / "notes.mp4"
    notes.write_text("no video at all")
    browser.open(served.url)
    browser.see("#welcome")
    browser.find("#file").send_keys(str(notes))
    assert "notes.mp4 cannot be opened as a video" in browser.see("#trouble").text
    assert browser.find("#welcome").is_displayed()
    browser.picture("refused")


def test_a_token_is_asked_for_and_taken_from_the_address(
    browser: Browser, predictor: VideoPredictor
) -> None:
    with running(predictor, ServerConfig(), access=AccessPolicy("127.0.0.1", TOKEN)) as place:
        browser.open(place.url)
        browser.see("#login").find_element(By.ID, "token").send_keys("wrong", Keys.ENTER)
        wait_for(lambda: "not the token" in browser.find("#login-trouble").text)
        browser.find("#token").send_keys(TOKEN, Keys.ENTER)
        browser.see("#welcome")
        browser.driver.delete_all_cookies()
        browser.open(f"{place.url}#token={TOKEN}")
        browser.see("#welcome")
        assert TOKEN not in browser.driver.current_url
