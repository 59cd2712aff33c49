import json
from pathlib import Path

import pytest

from lit_hour.data.questions.file import read_questions
from lit_hour.errors import QuestionError
from lit_hour.types import Question

CHOICE = {
    "video": "a.mp4",
    "question": "Which colour?",
    "options": ["red", "blue", "green"],
    "answer": "blue",
}
OPEN = {"video": "a.mp4", "question": "What is shown?", "answer": "A ball."}
TALK = {
    "id": "x",
    "video": "b.mp4",
    "conversations": [
        {"from": "human", "value": "<image>\nWho is it?"},
        {"from": "gpt", "value": " A man. "},
        {"from": "human", "value": "Where? <video>"},
        {"from": "gpt", "value": "In a park."},
    ],
}


def write(folder: Path, records, name="questions.json") -> Path:
    file = folder / name
    file.write_text(records if isinstance(records, str) else json.dumps(records), encoding="utf-8")
    return file


def asked(file: Path) -> dict[str, tuple[Question, ...]]:
    """The questions by the name of what they are about."""
    return {subject.name: subject.questions for subject in read_questions(file)}


def test_every_key_is_read(tmp_path):
    record = {
        **CHOICE,
        "id": 7,
        "task": "object/object_attribute",
        "format": "multiple_choice",
        "evidence": [[1, 2.5], [4, 4]],
    }
    (question,) = asked(write(tmp_path, [record]))["a.mp4"]
    assert question == Question(
        id="7",
        task="object/object_attribute",
        format="multiple_choice",
        question="Which colour?",
        answer="blue",
        options=("red", "blue", "green"),
        evidence=((1.0, 2.5), (4.0, 4.0)),
    )
    assert question.answer_letter == "B"


def test_optional_keys_have_plain_defaults(tmp_path):
    questions = asked(write(tmp_path, [OPEN, CHOICE]))["a.mp4"]
    assert [question.format for question in questions] == ["open_ended", "multiple_choice"]
    assert [question.id for question in questions] == ["record_1", "record_2"]
    assert questions[0].task == "" and questions[0].evidence == ()


def test_videos_and_questions_keep_the_order_of_the_file(tmp_path):
    records = [
        {**OPEN, "video": name, "id": number}
        for number, name in enumerate(["z.mp4", "a.mp4", "./z.mp4", "k/b.mp4"])
    ]
    questions = asked(write(tmp_path, records))
    assert {name: [question.id for question in each] for name, each in questions.items()} == {
        "z.mp4": ["0", "2"],
        "a.mp4": ["1"],
        "k/b.mp4": ["3"],
    }
    assert list(questions) == ["z.mp4", "a.mp4", "k/b.mp4"]


@pytest.mark.parametrize("answer", ["B", "B.", "(B)", "B)", " blue "])
def test_an_option_is_named_by_its_text_or_its_letter(tmp_path, answer):
    (question,) = asked(write(tmp_path, [{**CHOICE, "answer": answer}]))["a.mp4"]
    assert question.answer == "blue"


def test_the_text_of_an_option_goes_before_its_letter(tmp_path):
    (question,) = asked(write(tmp_path, [{**CHOICE, "options": ["B", "A"], "answer": "A"}]))[
        "a.mp4"
    ]
    assert (question.answer, question.answer_letter) == ("A", "B")


def test_json_lines_and_a_byte_order_mark(tmp_path):
    lines = (
        "\ufeff"
        + json.dumps(OPEN)
        + "\n\n"
        + json.dumps({**TALK, "video": "ü.mp4"}, ensure_ascii=False)
        + "\r\n"
    )
    assert list(asked(write(tmp_path, lines, "questions.jsonl"))) == ["a.mp4", "ü.mp4"]


def test_each_pair_of_a_conversation_is_an_open_question(tmp_path):
    questions = asked(
        write(tmp_path, [TALK, {**TALK, "data_source": "set/videos"}])
    )  # LLaVA's ids may repeat
    assert list(questions) == ["b.mp4", "set/videos/b.mp4"]
    assert [(question.question, question.answer) for question in questions["b.mp4"]] == [
        ("Who is it?", "A man."),
        ("Where?", "In a park."),
    ]
    assert {question.format for question in questions["b.mp4"]} == {"open_ended"}
    assert len({question.id for each in questions.values() for question in each}) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": None}, "key 'question'.* not None"),
        ({"question": "  "}, "key 'question' must be a nonempty text"),
        ({"question": ...}, "key 'question' is missing"),
        ({"answer": ...}, "key 'answer' is missing"),
        ({"answer": ""}, "key 'answer'"),
        (
            {"answer": "yellow"},
            r"key 'answer': 'yellow' is not among the options \['red', 'blue', 'green'\]",
        ),
        ({"answer": "D"}, "key 'answer': 'D' is not among"),
        ({"options": ["red", "red ", "blue"]}, "key 'options' repeats"),
        ({"options": ["blue"]}, "key 'options' has 1"),
        ({"options": "red, blue"}, "key 'options' must be a list"),
        ({"options": ["blue", 3]}, "key 'options' must be a list of nonempty texts"),
        ({"options": [], "format": "multiple_choice"}, "multiple_choice needs options"),
        ({"format": "open_ended"}, "open_ended must not have any"),
        (
            {"format": "multiple-choice"},
            "key 'format': unknown value 'multiple-choice'; did you mean 'multiple_choice'",
        ),
        ({"task": "object/object_atribute"}, "key 'task'.*did you mean 'object/object_attribute'"),
        ({"evidence": [[5, 2]]}, "key 'evidence'"),
        ({"evidence": [[-1, 2]]}, "key 'evidence'"),
        ({"evidence": [[1, float("nan")]]}, "key 'evidence'"),
        ({"evidence": [[1, float("inf")]]}, "key 'evidence'"),
        ({"evidence": [1, 2]}, "key 'evidence'"),
        ({"id": None}, "key 'id'"),
        ({"opitons": ["x", "y"]}, "unknown key 'opitons'; did you mean 'options'"),
        ({"video": "/etc/passwd"}, "key 'video': '/etc/passwd' must be a path inside"),
        ({"video": "a/../../b.mp4"}, "key 'video'.*inside"),
        ({"video": "."}, "key 'video'.*inside"),
        ({"video": ["a.mp4"]}, "key 'video' must be a nonempty text"),
        (
            {"video": ..., "image": "/etc/a.jpg"},
            "key 'image': '/etc/a.jpg' must be a path inside the folder of files",
        ),
        ({"video": ..., "image": "a\0.jpg"}, "key 'image'.*inside"),
        (
            {"video": ..., "images": ["a.jpg", "b/../../a.jpg"]},
            "key 'images': 'b/../../a.jpg' must be a path inside",
        ),
        ({"video": ..., "images": ["a.jpg", ""]}, "key 'images' must be a nonempty text, not ''"),
        ({"video": ..., "images": ["a.jpg", None]}, "key 'images'.*not None"),
        ({"video": ..., "images": []}, "key 'images' is an empty list"),
        ({"video": ..., "image": None}, "key 'image' must be a nonempty text"),
        ({"image": "a.jpg"}, "keys 'video' and 'image'\\. A record may have only one of them"),
        ({"video": ..., "imags": ["a.jpg"]}, "unknown key 'imags'; did you mean 'image"),
        ({"video": ..., "vidoe": "a.mp4"}, "unknown key 'vidoe'; did you mean 'video'"),
        (
            {"video": ..., "question": "What is on <image>?"},
            "has the placeholder <image>, but the record has no video or image",
        ),
        (
            {"question": "<image> "},
            "the question 'record_2' or its answer is empty except for placeholders",
        ),
    ],
)
def test_a_bad_record_is_named(tmp_path, change, message):
    record = {key: value for key, value in {**CHOICE, **change}.items() if value is not ...}
    with pytest.raises(QuestionError, match=rf"questions\.json: record 2.*{message}"):
        read_questions(write(tmp_path, [OPEN, record]))


@pytest.mark.parametrize(
    ("conversations", "message"),
    [
        ([], "list of pairs"),
        ("hello", "list of pairs"),
        (TALK["conversations"][:3], "list of pairs"),
        ([TALK["conversations"][0]] * 2, "turns 1 and 2 must be human, then gpt"),
        (TALK["conversations"][1:3], "turns 1 and 2 must be human, then gpt"),
        (
            [{"from": "human", "value": " \n"}, TALK["conversations"][1]],
            "turn 1: key 'value' must be a nonempty text",
        ),
        (
            [TALK["conversations"][0], {"from": "gpt"}],
            "turn 2 must be a mapping with 'from' and 'value'",
        ),
    ],
)
def test_a_bad_conversation_is_named(tmp_path, conversations, message):
    with pytest.raises(
        QuestionError,
        match=rf"questions\.json: record 1 \(id 'x'\): key 'conversations'.*{message}",
    ):
        read_questions(write(tmp_path, [{**TALK, "conversations": conversations}]))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("vidoe", "key 'vidoe' is unknown; did you mean 'video'"),
        ("videos", "key 'videos' is unknown; did you mean 'video'"),
        ("imgae", "key 'imgae' is unknown; did you mean 'image'"),
    ],
)
def test_a_conversation_whose_file_is_misspelt_is_no_text(tmp_path, key, message):
    turns = [{"from": "human", "value": "Who is it?"}, {"from": "gpt", "value": "A man."}]
    with pytest.raises(QuestionError, match=rf"record 1: {message}"):
        read_questions(write(tmp_path, [{key: "b.mp4", "conversations": turns}]))
    (subject,) = read_questions(
        write(tmp_path, [{"image_id": 3, "source": "web", "conversations": turns}])
    )
    assert subject.modality == "text"


def talk(*asked: str, **keys) -> dict:
    turns = [
        {"from": role, "value": text}
        for each in asked
        for role, text in (("human", each), ("gpt", "So."))
    ]
    return {"conversations": turns, **keys}


def test_each_kind_of_record_is_told_by_its_key(tmp_path):
    record = {"question": "What?", "answer": "That."}
    records = [
        {**record, "image": "p/a.jpg"},
        {**record, "images": ["a.jpg", "b.png"]},
        {**record, "images": ["./p/a.jpg"]},
        record,
        talk("Which?", image=["b.png", "a.jpg"], data_source="set"),
        talk("Where?", image="a.jpg", data_source="p"),
        talk("Why?"),
    ]
    subjects = read_questions(write(tmp_path, records))
    assert [(each.modality, each.files, each.key, len(each.questions)) for each in subjects] == [
        ("image", ("p/a.jpg",), "p/a", 3),
        ("images", ("a.jpg", "b.png"), "record_00000002", 1),
        ("text", (), "record_00000004", 1),
        ("images", ("set/b.png", "set/a.jpg"), "record_00000005", 1),
        ("text", (), "record_00000007", 1),
    ]


def test_sets_and_texts_stay_one_conversation_each(tmp_path):
    about = {"image": ["a.jpg", "b.jpg"]}
    subjects = read_questions(
        write(
            tmp_path, [talk("1?", "2?", **about), talk("3?", **about), talk("4?", "5?"), talk("4?")]
        )
    )
    assert [[question.question for question in each.questions] for each in subjects] == [
        ["1?", "2?"],
        ["3?"],
        ["4?", "5?"],
        ["4?"],
    ]


def test_marks_are_kept_among_several_pictures_only(tmp_path):
    marked = talk("<image>\nWhich is <image>?", "And now?", image=["a.jpg", "b.jpg"])
    one = talk("<image>\nWhich?", image="a.jpg")
    ours = {
        "image": "c.jpg",
        "question": "Is it <image> or <video>?",
        "options": ["an <image> tag", "no"],
        "answer": "A",
    }
    subjects = read_questions(write(tmp_path, [marked, one, ours]))
    assert [question.question for question in subjects[0].questions] == [
        "<image>\nWhich is <image>?",
        "And now?",
    ]
    assert subjects[1].questions[0].question == "Which?"
    assert (
        subjects[2].questions[0].question == "Is it  or ?"
        and subjects[2].questions[0].answer_letter == "A"
    )


def test_an_id_that_repeats_is_named_with_both_places(tmp_path):
    with pytest.raises(
        QuestionError, match=r"record 3 \(id 'x'\): key 'id': the id is already used by record 1"
    ):
        read_questions(write(tmp_path, [{**OPEN, "id": "x"}, OPEN, {**OPEN, "id": "x"}]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.json", "[{,]", "q.json is not JSON"),
        ("q.jsonl", '{"video": 1}\n{', "q.jsonl: line 2 is not JSON"),
        ("q.json", '{"video": "a.mp4"}', "must be a list of records, not a dict"),
        ("q.json", "[3]", "record 1 must be a mapping, not a int"),
        ("q.json", "[]", "contains no questions"),
        ("q.jsonl", "\n", "contains no questions"),
        ("q.csv", "video,question", "a question file must be a .json list"),
    ],
)
def test_a_file_that_is_no_question_file_is_named(tmp_path, name, content, message):
    with pytest.raises(QuestionError, match=message):
        read_questions(write(tmp_path, content, name))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(QuestionError, match=r"absent\.json.*No such file"):
        read_questions(tmp_path / "absent.json")
    (tmp_path / "latin.json").write_bytes(b'["\xe9"]')
    with pytest.raises(QuestionError, match=r"latin\.json.*utf-8"):
        read_questions(tmp_path / "latin.json")
