import pytest

from lit_hour.text.timestamp import format_timestamp


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "00:00"), (133.9, "02:13"), (3599, "59:59"), (3733, "1:02:13")]
)
def test_format_timestamp(seconds: float, text: str):
    assert format_timestamp(seconds) == text
