"""The web page in Chromium: dropping a video, asking, seeking by mouse and keyboard, a phone.

Screenshots are written to `tmp_path`.
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
from tests.server.factories import make_clip
from tests.server.helpers import RunningServer, run_server, wait_for
from tests.server.test_auth import TOKEN
from tests.server.test_evidence import BackwardPasses

selenium = pytest.importorskip(
    "selenium", reason="selenium, which drives the browser, is not installed"
)

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402

DESKTOP, PHONE = (1280, 800), (390, 844)
DROP_FILE = """
const [base64, name] = arguments;
const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], name, {type: "video/mp4"}));
for (const kind of ["dragover", "drop"]) {
  document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true}));
}
"""
FIND_UNNAMED_CONTROLS = """
const controls = document.querySelectorAll("button, input, textarea, [tabindex], progress");
return [...controls].filter((control) => !(
  control.labels?.length || control.ariaLabel || control.textContent.trim()
  || control.querySelector("img[alt]") || control.getAttribute("aria-labelledby")
)).map((control) => control.outerHTML);
"""


class Browser:
    """Actions of a user on the page, and what the page shows."""

    def __init__(self, driver: webdriver.Chrome, screenshots: Path) -> None:
        self.driver, self._screenshots = driver, screenshots

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

    def find_all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def count(self, selector: str) -> int:
        return len(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def wait_until_visible(self, selector: str) -> WebElement:
        wait_for(lambda: self.count(selector) and self.find(selector).is_displayed())
        return self.find(selector)

    def wait_for_answers(self, count: int) -> None:
        wait_for(lambda: self.count(".answer") == count and not self.count(".answer.streaming"))

    def ask(self, question: str) -> str:
        """Send a question, and return the answer when it is complete."""
        num_answers = self.count(".answer")
        self.find("#question").send_keys(question, Keys.ENTER)
        self.wait_for_answers(num_answers + 1)
        return self.driver.find_elements(By.CSS_SELECTOR, ".answer")[-1].text

    def wait_for_moments(self, count: int) -> list[list[str]]:
        """Return the times of the moments below each answer, once there are any below `count`."""
        script = """
            return [...document.querySelectorAll(".moments")]
              .map((element) => [...element.querySelectorAll("button")])
              .map((buttons) => buttons.map((button) => button.textContent))
              .filter((moments) => moments.length);
        """
        wait_for(lambda: len(self.run(script)) == count)
        return self.run(script)

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self) -> str:
        return self.run("return document.activeElement.id || document.activeElement.textContent")

    def run(self, script: str, *args: Any) -> Any:
        return self.driver.execute_script(script, *args)

    def player(self, attribute: str) -> float:
        return self.run(f"return document.getElementById('player').{attribute}")

    def take_screenshot(self, name: str) -> None:
        assert self.driver.save_screenshot(str(self._screenshots / f"{name}.png"))

    def console_errors(self) -> list[str]:
        entries = self.driver.get_log("browser")
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in paths:
        pytest.skip("no chromium with chromedriver to open the page in")
    options = webdriver.ChromeOptions()
    options.binary_location = str(paths[0])
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(paths[1])))
    yield driver
    driver.quit()


@pytest.fixture
def browser(driver: webdriver.Chrome, tmp_path: Path) -> Browser:
    return Browser(driver, tmp_path)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of two minutes, long enough to seek in."""
    file = tmp_path_factory.mktemp("films") / "film.mp4"
    file.write_bytes(make_clip(seconds=120.0, size=(320, 180), options={"movflags": "faststart"}))
    return file


def upload_film(browser: Browser, server: RunningServer, film: Path, **screen: Any) -> None:
    browser.open(server.url, **screen)
    browser.wait_until_visible("#welcome")
    browser.find("#file").send_keys(str(film))
    browser.wait_until_visible("#thumbnails img")


def test_a_dropped_video_is_encoded_and_three_questions_are_answered(
    browser: Browser, server: RunningServer, film: Path
) -> None:
    browser.open(server.url)
    assert "walk.mp4" in browser.wait_until_visible("#videos").text
    browser.take_screenshot("welcome")
    server.state.executor.submit(time.sleep, 2.0)  # delays the encoding
    browser.run(DROP_FILE, base64.b64encode(film.read_bytes()).decode(), "film.mp4")
    wait_for(lambda: browser.find("#progress-text").text == "Encoding: 0 of 40 frames")
    browser.take_screenshot("encoding")
    browser.wait_until_visible("#thumbnails img")
    assert not browser.find("#progress").is_displayed()
    assert browser.find("#video-name").text == "film.mp4"
    assert browser.count("#thumbnails img") == 6
    video = server.get("/v1/videos").json()["data"][-1]["id"]
    questions = ("What is there?", "Which color?", "And then?")
    answers = [browser.ask(question) for question in questions]
    turns = [questions[0], answers[0], questions[1], answers[1], questions[2]]
    for length, answer in ((1, answers[0]), (5, answers[2])):
        completion = server.chat(video, *turns[:length]).json()
        assert answer == completion["choices"][0]["message"]["content"].strip()
    moments = browser.wait_for_moments(3)
    for times, element in zip(moments, browser.find_all(".moments"), strict=True):
        seconds = [_seconds(time) for interval in times for time in interval.split(" – ")]
        assert seconds == sorted(seconds)
        assert element.text.startswith("Where the model looked:")
    assert browser.count("#moments i") == len(moments[2])
    assert browser.find("#caption").text == "where the model looked"
    assert "based on" not in browser.find("body").text
    browser.take_screenshot("answered")
    assert browser.console_errors() == []


def _seconds(time_text: str) -> int:
    minutes, seconds = time_text.split(":")
    return 60 * int(minutes) + int(seconds)


@pytest.mark.slow
def test_the_page_requests_evidence_after_the_answer_is_shown(
    browser: Browser, server: RunningServer, film: Path
) -> None:
    upload_film(browser, server, film)
    with BackwardPasses(server) as passes:
        passes.may_continue.clear()
        answer = browser.ask("What is there?")
        assert answer and browser.find("#send").is_displayed()
        assert passes.started.wait(30)
        assert browser.find(".moments").text == "Finding where the model looked …"
        assert browser.focused() == "question"
        passes.may_continue.set()
        browser.wait_for_moments(1)
        for leave in ("new video", "close"):
            passes.started.clear()
            passes.may_continue.clear()
            browser.ask("Which color?")
            assert passes.started.wait(30)
            num_cancelled = _num_cancelled(server)
            if leave == "new video":
                browser.find("#new-video").click()
            else:
                browser.driver.get("about:blank")
            wait_for(lambda: server.state.queue.in_system == 0)
            assert _num_cancelled(server) == num_cancelled + 1, leave
            passes.may_continue.set()
            upload_film(browser, server, film)


def _num_cancelled(server: RunningServer) -> float:
    name = 'lit_hour_attributions_total{outcome="cancelled"}'
    return server.metric(name) if name.encode() in server.get("/metrics").body else 0.0


@pytest.mark.slow
def test_chapters_are_listed_on_request_and_seek(
    browser: Browser, server: RunningServer, film: Path
) -> None:
    upload_film(browser, server, film)
    browser.find("#describe").click()
    browser.wait_until_visible("#chapters button")
    assert not browser.find("#describe").is_displayed()
    video = server.get("/v1/videos").json()["data"][-1]["id"]
    chapters = server.get(f"/v1/videos/{video}/description").json()["chapters"]
    assert browser.count("#chapters button") == len(chapters)
    browser.find_all("#chapters button")[-1].click()
    start_seconds = chapters[-1]["start_seconds"]
    wait_for(lambda: abs(browser.player("currentTime") - start_seconds) < 1)
    count_cues = "return document.getElementById('player').textTracks[0]?.cues?.length"
    wait_for(lambda: browser.run(count_cues) == len(chapters))
    assert browser.run(FIND_UNNAMED_CONTROLS) == []
    assert browser.console_errors() == []


@pytest.mark.slow
def test_clicks_on_timeline_thumbnails_and_moments_seek(
    browser: Browser, server: RunningServer, film: Path
) -> None:
    upload_film(browser, server, film)
    browser.ask("What is there?")
    wait_for(lambda: browser.player("readyState") > 0)
    timeline = browser.find("#timeline")
    quarter = timeline.rect["width"] // 4  # right of the middle
    actions = webdriver.ActionChains(browser.driver)
    actions.move_to_element_with_offset(timeline, quarter, 0).click().perform()
    wait_for(lambda: abs(browser.player("currentTime") - 90) < 1)
    assert timeline.get_attribute("aria-valuetext") == "1:30 of 2:00"
    browser.find("#thumbnails li:nth-child(3) button").click()
    time_text = browser.find("#thumbnails li:nth-child(3) span").text
    wait_for(lambda: timeline.get_attribute("aria-valuetext") == f"{time_text} of 2:00")
    browser.wait_for_moments(1)
    moment = browser.find(".moments button")
    start = moment.text.split(" ")[0]
    moment.click()
    wait_for(lambda: timeline.get_attribute("aria-valuetext") == f"{start} of 2:00")
    minutes, seconds = start.split(":")
    link = browser.run("return location.href")
    assert link.endswith(f"&t={60 * int(minutes) + int(seconds)}") and "#video=video-" in link
    browser.open(link)  # the moment is a link that can be sent
    browser.wait_until_visible("#thumbnails img")
    timeline = browser.find("#timeline")
    wait_for(lambda: timeline.get_attribute("aria-valuetext") == f"{start} of 2:00")
    wait_for(lambda: abs(browser.player("currentTime") - 60 * int(minutes) - int(seconds)) < 2)


@pytest.mark.slow
def test_a_question_during_the_encoding_is_answered_after_it(
    browser: Browser, server: RunningServer, film: Path
) -> None:
    browser.open(server.url)
    browser.wait_until_visible("#welcome")
    server.state.executor.submit(time.sleep, 3.0)  # delays the encoding
    browser.find("#file").send_keys(str(film))
    wait_for(lambda: browser.find("#progress-text").text.startswith("Encoding"))
    browser.find("#question").send_keys("What is there?", Keys.ENTER)
    wait_for(lambda: browser.count(".answer.streaming"))
    assert browser.find(".moments").text == "The answer follows when the video is encoded."
    browser.wait_for_answers(1)
    assert browser.find(".answer").text
    assert browser.wait_for_moments(1)


@pytest.mark.slow
def test_an_answer_is_sampled_as_the_page_says(
    browser: Browser, server: RunningServer, film: Path
) -> None:
    upload_film(browser, server, film)
    greedy = browser.ask("What is there?")
    browser.find("#sampling summary").click()
    for name, value in (("temperature", "1.5"), ("seed", "5")):
        browser.wait_until_visible(f"#{name}").send_keys(value)

    def ask_anew() -> str:
        browser.run("document.getElementById('new-video').click()")
        browser.wait_until_visible("#videos button")
        browser.run("document.querySelector('#videos button').click()")  # the list may be redrawn
        browser.wait_until_visible("#thumbnails img")
        wait_for(lambda: browser.count(".answer") == 0)
        return browser.ask("What is there?")

    sampled = ask_anew()
    assert sampled == ask_anew() != greedy
    browser.find("#temperature").clear()
    browser.find("#temperature").send_keys("9")
    browser.ask("And now?")
    assert "temperature must be a number" in browser.find_all(".answer")[-1].text


@pytest.mark.slow
def test_the_page_works_by_keyboard(browser: Browser, server: RunningServer, folder: Path) -> None:
    browser.open(server.url)
    browser.wait_until_visible("#videos button")
    focused: list[str] = []
    while not focused or "walk.mp4" not in focused[-1]:
        browser.press(Keys.TAB)
        focused.append(browser.focused())
        assert len(focused) < 12
    assert focused[0] == "file"
    browser.press(Keys.ENTER)
    browser.wait_until_visible("#thumbnails img")
    assert browser.focused() == "question"
    browser.press("What is there?", Keys.ENTER)
    browser.wait_for_answers(1)
    assert browser.focused() == "question"
    browser.run("document.getElementById('timeline').focus()")
    timeline = browser.find("#timeline")
    for key, time_text in (
        (Keys.END, "0:03"),
        (Keys.HOME, "0:00"),
        (Keys.PAGE_UP, "0:03"),
        (Keys.ARROW_LEFT, "0:00"),
    ):
        browser.press(key)
        assert timeline.get_attribute("aria-valuetext") == f"{time_text} of 0:04", key
    browser.press(Keys.ENTER)
    wait_for(lambda: browser.player("currentTime") > 0)


@pytest.mark.slow
def test_screen_readers_hear_the_status_and_every_control_has_a_name(
    browser: Browser, server: RunningServer, film: Path
) -> None:
    upload_film(browser, server, film)
    assert browser.find("#status").get_attribute("role") == "status"
    status = "return document.getElementById('status').textContent"
    wait_for(lambda: browser.run(status).startswith("The video is ready."))
    answer = browser.ask("What is there?")
    assert answer
    wait_for(lambda: browser.run(status).startswith("The model looked at "))
    assert browser.run(FIND_UNNAMED_CONTROLS) == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ("light", "dark"))
def test_the_page_fits_a_phone(
    browser: Browser, server: RunningServer, film: Path, scheme: str
) -> None:
    upload_film(browser, server, film, size=PHONE, scheme=scheme)
    for question in ("What is there?", "Which color?"):
        browser.ask(question)
    assert browser.run("return document.documentElement.scrollWidth") <= PHONE[0]
    for selector in ("#send", "#timeline", "#question"):
        box = browser.find(selector).rect
        assert box["height"] >= 40, selector
        assert box["x"] >= 0 and box["x"] + box["width"] <= PHONE[0], selector
    browser.take_screenshot(f"phone_{scheme}")


@pytest.mark.slow
def test_the_page_shows_errors(browser: Browser, server: RunningServer, tmp_path: Path) -> None:
    notes = tmp_path / "notes.mp4"
    notes.write_text("no video at all")
    browser.open(server.url)
    browser.wait_until_visible("#welcome")
    browser.find("#file").send_keys(str(notes))
    message = browser.wait_until_visible("#error").text
    assert "notes.mp4 cannot be opened as a video" in message
    assert browser.find("#welcome").is_displayed()
    browser.take_screenshot("error")


@pytest.mark.slow
def test_a_token_is_requested_and_accepted_in_the_url(
    browser: Browser, predictor: VideoPredictor
) -> None:
    policy = AccessPolicy("127.0.0.1", TOKEN)
    with run_server(predictor, ServerConfig(), policy=policy) as server:
        browser.open(server.url)
        login = browser.wait_until_visible("#login")
        login.find_element(By.ID, "token").send_keys("wrong", Keys.ENTER)
        wait_for(lambda: "The token is wrong" in browser.find("#login-error").text)
        browser.find("#token").send_keys(TOKEN, Keys.ENTER)
        browser.wait_until_visible("#welcome")
        browser.driver.delete_all_cookies()
        browser.open(f"{server.url}#token={TOKEN}")
        browser.wait_until_visible("#welcome")
        assert TOKEN not in browser.driver.current_url
