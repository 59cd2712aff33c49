import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from lit_hour.videomarathon.annotation import Annotation, read_annotation
from lit_hour.videomarathon.review_html import render_page
from tests.videomarathon.factories import FinishedRun, SyntheticVideos

VOID = {"meta", "video", "br"}


class Reader(HTMLParser):
    """Reads a page as a browser would, and refuses one whose elements do not close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seconds: list[float] = []
        self.source = self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if "data-seconds" in given:
            self.seconds.append(float(given["data-seconds"] or "nan"))
        if tag == "video":
            self.source = given["src"] or ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def test_the_page_shows_everything_and_plays_the_video(
    films: SyntheticVideos, finished: FinishedRun
) -> None:
    folder = finished.out / "videos" / "of a week/monday.mp4"
    page, annotation = read((folder / "index.html").read_text()), read_annotation(folder)
    assert (
        Path(folder, unquote(page.source)).resolve()
        == (films.folder / "of a week/monday.mp4").resolve()
    )
    for question in annotation.questions:
        assert question["question"] in page.text and question["answer"] in page.text
        assert all(start in page.seconds for start, _ in question["evidence"])
    for event in annotation.events:
        assert event["text"] in page.text and event["start_seconds"] in page.seconds
    for dropped in annotation.dropped:
        assert dropped["reason"] in page.text
    for caption in annotation.captions:
        assert caption["spatiality"] in page.text
    assert annotation.summary in page.text
    assert all(0 <= seconds <= annotation.duration_seconds for seconds in page.seconds)


def test_what_a_teacher_says_is_text_and_no_markup() -> None:
    mean = '"><script>alert(1)</script>'
    question = {
        "task": "event/event_sequence",
        "question": mean,
        "answer": mean,
        "options": [mean, "b"],
        "evidence": [[0.0, 1.0]],
    }
    dropped = {"filter": mean, "reason": mean, "record": {"task": mean, "question": mean}}
    sides = ("temporality", "spatiality", "object", "action", "scene", "overall")
    event = {"start_seconds": 0.0, "end_seconds": 1.0, "text": mean}
    caption = {"start_seconds": 0.0, "end_seconds": 1.0, **dict.fromkeys(sides, mean)}
    page = render_page(
        Annotation(mean, 9.0, "", mean, [caption], [event], [question], [dropped], 0, 0, 0), mean
    )
    assert len(re.findall("<script", page)) == 1
    read(page)
