"""Preview page of a set of photographs in footage: `FootagePreview`.

The page is self-contained; its links play the videos in the folder beside it.
"""

from __future__ import annotations

from html import escape
from string import ascii_uppercase

from lit_hour.io.html import html_options, html_page, html_table, image_data_uri
from lit_hour.media.image_reader import read_image
from lit_hour.media.pil_images import encode_pil_jpeg
from lit_hour.synthetic.footage.footage_story import FootageStory, ShownPhoto
from lit_hour.text.timestamp import format_timestamp
from lit_hour.types import Question

NUM_STRIPS, PHOTOS_PER_STRIP = 6, 8
THUMBNAIL_PIXELS, JPEG_QUALITY = 112, 80


class FootagePreview:
    """The page of one set. Call `add` for every video, then `html`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._strips: list[str] = []
        self._row_of_task: dict[str, tuple[str, str]] = {}
        self._num_videos = 0

    def add(self, name: str, story: FootageStory, questions: list[Question]) -> None:
        """Add a video: its photographs, if it is one of the first, and questions on new tasks."""
        self._num_videos += 1
        for question in questions:
            if question.options and question.task not in self._row_of_task:
                self._row_of_task[question.task] = _question_row(name, question)
        if len(self._strips) < NUM_STRIPS:
            photos = "".join(_photo(name, photo) for photo in story.photos[:PHOTOS_PER_STRIP])
            title = (
                f"{name}.mp4: {format_timestamp(story.duration_seconds)},"
                f" {len(story.clips)} clips, {len(story.photos)} photographs"
            )
            link = f'<p><a href="videos/{name}.mp4">{escape(title)}</a></p>'
            self._strips.append(f"{link}<div>{photos}</div>")

    def html(self) -> str:
        """Return the page."""
        parts = (
            f"<p>{self._num_videos} videos. Click a time to play it.</p>",
            "<h2>Videos and their photographs</h2>",
            *self._strips,
            "<h2>One question per task</h2>",
            html_table(list(self._row_of_task.values()), ["Task", "Question"]),
        )
        return html_page(f"Photographs in footage: {self._name}", parts)


def _photo(name: str, photo: ShownPhoto) -> str:
    image = read_image(photo.path.read_bytes(), str(photo.path))
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    uri = image_data_uri(encode_pil_jpeg(image, JPEG_QUALITY), "image/jpeg")
    caption = f"{escape(photo.category)}, {_link(name, photo.interval)}"
    return f'<figure><img alt="" src="{uri}">{caption}</figure>'


def _question_row(name: str, question: Question) -> tuple[str, str]:
    links = ", ".join(_link(name, interval) for interval in question.evidence)
    options = html_options(
        (letter, option, option == question.answer)
        for letter, option in zip(ascii_uppercase, question.options, strict=False)
    )
    return (
        f'{escape(question.task)}<br><span class="small">{name}: {links}</span>',
        f"{escape(question.question)}<br>{options}",
    )


def _link(name: str, interval: tuple[float, float]) -> str:
    start, end = interval
    return f'<a href="videos/{name}.mp4#t={start:g},{end:g}">{format_timestamp(start)}</a>'
