from html.parser import HTMLParser

from lit_hour.io.html import html_options, html_page, html_table, image_data_uri

VOID_TAGS = {"meta", "img", "br"}


class TagChecker(HTMLParser):
    """Parser that fails on a tag that is closed in the wrong order or never."""

    def __init__(self) -> None:
        super().__init__()
        self.open_tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID_TAGS:
            self.open_tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_page_is_well_formed_and_escapes_its_title():
    parts = [html_table([["a", "1"]], ["name", "count"], num_text_columns=1), "<p>end</p>"]
    page = html_page("<b> & co", parts, style=".mine { color: red }", script="run();")
    checker = TagChecker()
    checker.feed(page)
    checker.close()
    assert checker.open_tags == []
    assert checker.text.count("<b> & co") == 2
    assert page.startswith("<!DOCTYPE html>") and ".mine" in page and "<script>run();" in page
    assert "<script" not in html_page("title", parts)


def test_html_table_marks_number_columns():
    assert html_table([["a", "b"]]) == "<table><tr><td>a</td><td>b</td></tr></table>"
    table = html_table([["a", "1"]], ["name", "count"], num_text_columns=1)
    assert '<th>name</th><th class="number">count</th>' in table
    assert '<td>a</td><td class="number">1</td>' in table


def test_html_options_escape_text_and_mark_the_correct_one():
    options = html_options([("A", "<1", False), ("B", "2", True)])
    assert options == '<span class="">A. &lt;1</span><br><span class="correct">B. 2</span>'


def test_image_data_uri_holds_the_bytes():
    assert image_data_uri(b"abc", "image/png") == "data:image/png;base64,YWJj"
