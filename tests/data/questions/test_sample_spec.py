import pytest

from lit_hour.data.questions.record import SampleSpec, count_modalities, format_counts


@pytest.mark.parametrize(
    ("subject", "key", "name"),
    [
        (SampleSpec("video", ("a b/c.1.mp4",), 0, ()), "a_b/c_1", "a b/c.1.mp4"),
        (SampleSpec("image", ("ü.jpg",), 0, ()), "_", "ü.jpg"),
        (SampleSpec("images", ("a.jpg", "b.jpg"), 12, ()), "record_00000012", "record_00000012"),
        (SampleSpec("text", (), 123456789, ()), "record_123456789", "record_123456789"),
    ],
)
def test_a_key_comes_from_the_path_or_from_the_record(subject, key, name):
    assert (subject.key, subject.name) == (key, name)


def test_counts_are_spelt_without_what_is_not_there():
    counts = count_modalities(["text", "video", "text", "images"])
    assert counts == {"video": 1, "image": 0, "images": 1, "text": 2}
    assert format_counts(counts) == "1 videos, 1 image sets, 2 texts"
    assert format_counts(count_modalities([])) == "nothing"
