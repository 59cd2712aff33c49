"""The page on which an annotation is reviewed."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from lit_hour.videomarathon.annotation import Annotation, fingerprint, read_annotation
from lit_hour.videomarathon.captions import CAPTION_FIELDS
from lit_hour.videomarathon.review_html import render_page
from tests.videomarathon.factories import CONFIG, FinishedRun, SyntheticVideos

NAME = "of a week/monday.mp4"
NOT_CLOSED = {"meta", "video", "br"}


class PageParser(HTMLParser):
    """Collects the texts, times and video of a page, and checks that elements are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seconds: list[float] = []
        self.source = self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if "data-seconds" in values:
            self.seconds.append(float(values["data-seconds"] or "nan"))
        if tag == "video":
            self.source = values["src"] or ""
        if tag not in NOT_CLOSED:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in NOT_CLOSED or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parse(page: str) -> PageParser:
    parser = PageParser()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_page_shows_the_annotation_and_plays_the_video(
    videos: SyntheticVideos, finished_run: FinishedRun
) -> None:
    folder, video = finished_run.out / "videos" / NAME, videos.folder / NAME
    annotation = read_annotation(folder, fingerprint(video, "teacher", CONFIG))
    page = parse((folder / "index.html").read_text())
    assert annotation is not None
    assert Path(folder, unquote(page.source)).resolve() == video.resolve()
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


def test_text_of_the_teacher_is_escaped() -> None:
    text = '"><script>alert(1)</script>'
    question = {
        "task": "event/event_sequence",
        "question": text,
        "answer": text,
        "options": [text, "b"],
        "evidence": [[0.0, 1.0]],
    }
    dropped = {"filter": text, "reason": text, "record": {"task": text, "question": text}}
    event = {"start_seconds": 0.0, "end_seconds": 1.0, "text": text}
    caption = {"start_seconds": 0.0, "end_seconds": 1.0, **dict.fromkeys(CAPTION_FIELDS, text)}
    annotation = Annotation(text, 9.0, "", text, [caption], [event], [question], [dropped], 0, 0, 0)
    page = render_page(annotation, text)
    assert len(re.findall("<script", page)) == 1
    parse(page)
