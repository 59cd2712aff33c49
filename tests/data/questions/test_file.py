import json
import re
from pathlib import Path

import pytest

from lit_hour.data.questions.file import read_questions
from lit_hour.errors import QuestionError
from lit_hour.types import Question

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4c\nsize 84977953\n"
CHOICE = {
    "video": "a.mp4",
    "question": "Which color?",
    "options": ["red", "blue", "green"],
    "answer": "blue",
}
OPEN = {"video": "a.mp4", "question": "What is shown?", "answer": "A ball."}
CONVERSATION = {
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


def questions_by_name(file: Path) -> dict[str, tuple[Question, ...]]:
    """Return the questions by the name of their sample."""
    return {sample.name: sample.questions for sample in read_questions(file)}


def test_read_questions_parses_every_key(tmp_path):
    record = {
        **CHOICE,
        "id": 7,
        "task": "object/object_attribute",
        "format": "multiple_choice",
        "evidence": [[1, 2.5], [4, 4]],
    }
    (question,) = questions_by_name(write(tmp_path, [record]))["a.mp4"]
    assert question == Question(
        id="7",
        task="object/object_attribute",
        format="multiple_choice",
        question="Which color?",
        answer="blue",
        options=("red", "blue", "green"),
        evidence=((1.0, 2.5), (4.0, 4.0)),
    )
    assert question.answer_letter == "B"


def test_optional_keys_have_defaults(tmp_path):
    questions = questions_by_name(write(tmp_path, [OPEN, CHOICE]))["a.mp4"]
    assert [question.format for question in questions] == ["open_ended", "multiple_choice"]
    assert [question.id for question in questions] == ["record_1", "record_2"]
    assert questions[0].task == "" and questions[0].evidence == ()


def test_samples_and_questions_keep_the_order_of_the_file(tmp_path):
    records = [
        {**OPEN, "video": name, "id": number}
        for number, name in enumerate(["z.mp4", "a.mp4", "./z.mp4", "k/b.mp4"])
    ]
    questions = questions_by_name(write(tmp_path, records))
    assert {name: [question.id for question in group] for name, group in questions.items()} == {
        "z.mp4": ["0", "2"],
        "a.mp4": ["1"],
        "k/b.mp4": ["3"],
    }
    assert list(questions) == ["z.mp4", "a.mp4", "k/b.mp4"]


@pytest.mark.parametrize("answer", ["B", "B.", "(B)", "B)", " blue "])
def test_answer_names_an_option_by_text_or_letter(tmp_path, answer):
    (question,) = questions_by_name(write(tmp_path, [{**CHOICE, "answer": answer}]))["a.mp4"]
    assert question.answer == "blue"


def test_text_of_an_option_takes_precedence_over_its_letter(tmp_path):
    (question,) = questions_by_name(
        write(tmp_path, [{**CHOICE, "options": ["B", "A"], "answer": "A"}])
    )["a.mp4"]
    assert (question.answer, question.answer_letter) == ("A", "B")


def test_jsonl_with_a_byte_order_mark_is_read(tmp_path):
    lines = (
        "\ufeff"
        + json.dumps(OPEN)
        + "\n\n"
        + json.dumps({**CONVERSATION, "video": "ü.mp4"}, ensure_ascii=False)
        + "\r\n"
    )
    assert list(questions_by_name(write(tmp_path, lines, "questions.jsonl"))) == ["a.mp4", "ü.mp4"]


def test_each_pair_of_turns_is_an_open_ended_question(tmp_path):
    questions = questions_by_name(
        write(tmp_path, [CONVERSATION, {**CONVERSATION, "data_source": "set/videos"}])
    )  # LLaVA's ids may repeat
    assert list(questions) == ["b.mp4", "set/videos/b.mp4"]
    assert [(question.question, question.answer) for question in questions["b.mp4"]] == [
        ("\nWho is it?", "A man."),
        ("Where? ", "In a park."),
    ]
    assert {question.format for question in questions["b.mp4"]} == {"open_ended"}
    assert len({question.id for group in questions.values() for question in group}) == 4


INVALID_CHANGES = [
    ({"question": None}, "key 'question' is missing"),
    ({"question": 3}, "key 'question'.* not 3"),
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
    ({"options": ["blue"]}, "key 'options' has 1 options; 2 to 26 are allowed"),
    ({"options": "red, blue"}, "key 'options' must be a list"),
    ({"options": ["blue", 3]}, "key 'options' must be a list of nonempty texts"),
    ({"options": [], "format": "multiple_choice"}, "'options' is required for multiple_choice"),
    ({"format": "open_ended"}, "'options' is .*not allowed for open_ended"),
    (
        {"format": "multiple-choice"},
        "key 'format' has the unknown value 'multiple-choice'; did you mean 'multiple_choice'",
    ),
    ({"task": "object/object_atribute"}, "key 'task'.*did you mean 'object/object_attribute'"),
    ({"evidence": [[5, 2]]}, "key 'evidence'"),
    ({"evidence": [[-1, 2]]}, "key 'evidence'"),
    ({"evidence": [[1, float("nan")]]}, "key 'evidence'"),
    ({"evidence": [[1, float("inf")]]}, "key 'evidence'"),
    ({"evidence": [1, 2]}, "key 'evidence'"),
    ({"id": ""}, "key 'id'"),
    ({"options": ..., "opitons": ["x", "y"]}, "unknown key 'opitons'; did you mean 'options'"),
    ({"video": "/etc/passwd"}, "key 'video' must be a path inside .*, not '/etc/passwd'"),
    ({"video": "a/../../b.mp4"}, "key 'video'.*inside"),
    ({"video": "."}, "key 'video'.*inside"),
    ({"video": ["a.mp4", "b.mp4"]}, "names 2 videos. A record is about one"),
    ({"start": 3, "end": 2}, "key 'end': 2 must be later than 'start': 3"),
    ({"start": "early"}, "key 'start' must be a time in seconds, not 'early'"),
    ({"end": float("inf")}, "key 'end' must be a time in seconds, not inf"),
    ({"video": ..., "start": 1}, "'start' and 'end' are of a video, but it names none"),
    ({"system_prompt": 3}, "key 'system_prompt' must be a nonempty text, not 3"),
    (
        {"video": ..., "image": "/etc/a.jpg"},
        "key 'image' must be a path inside the folder of files, not '/etc/a.jpg'",
    ),
    ({"video": ..., "image": "a\0.jpg"}, "key 'image'.*inside"),
    (
        {"video": ..., "images": ["a.jpg", "b/../../a.jpg"]},
        "key 'images' must be a path inside .*, not 'b/../../a.jpg'",
    ),
    ({"video": ..., "images": ["a.jpg", ""]}, "key 'images'.*nonempty text, not ''"),
    ({"video": ..., "images": ["a.jpg", None]}, "key 'images'.*not None"),
    ({"video": ..., "images": []}, "key 'images' is an empty list"),
    ({"image": "a.jpg"}, "has the keys 'video' and 'image'. Only one of them is allowed"),
    ({"video": ..., "imags": ["a.jpg"]}, "unknown key 'imags'; did you mean 'image"),
    ({"video": ..., "vidoe": "a.mp4"}, "unknown key 'vidoe'; did you mean 'video'"),
    (
        {"video": ..., "question": "What is on <image>?"},
        "contains <image>, but the record has no video or image",
    ),
    ({"question": "<image> "}, "question 'record_2' or its answer has no text beside"),
]


def test_invalid_record_is_rejected_with_its_key_and_value(tmp_path):
    for change, message in INVALID_CHANGES:
        record = {key: value for key, value in {**CHOICE, **change}.items() if value is not ...}
        with pytest.raises(QuestionError) as raised:
            read_questions(write(tmp_path, [OPEN, record]))
        assert re.search(rf"questions\.json: record 2.*{message}", str(raised.value)), change


def test_invalid_conversation_is_rejected_with_its_turns(tmp_path):
    turns = CONVERSATION["conversations"]
    for conversations, message in (
        ([], "list of pairs"),
        ("hello", "list of pairs"),
        (turns[:3], "list of pairs"),
        ([turns[0]] * 2, "turns 1 and 2 must be from human, then gpt"),
        (turns[1:3], "turns 1 and 2 must be from human, then gpt"),
        ([{"from": "human", "value": " \n"}, turns[1]], "turn 1: key 'value'.*nonempty"),
        ([turns[0], {"from": "gpt"}], "turn 2 must be a mapping with 'from' and 'value'"),
    ):
        with pytest.raises(QuestionError) as raised:
            read_questions(write(tmp_path, [{**CONVERSATION, "conversations": conversations}]))
        prefix = r"questions\.json: record 1 \(id 'x'\): key 'conversations'"
        assert re.search(f"{prefix}.*{message}", str(raised.value)), conversations


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("vidoe", "unknown key 'vidoe'; did you mean 'video'"),
        ("vidio", "unknown key 'vidio'; did you mean 'video'"),
        ("imgae", "unknown key 'imgae'; did you mean 'image'"),
    ],
)
def test_conversation_with_a_misspelt_file_key_is_rejected(tmp_path, key, message):
    turns = [{"from": "human", "value": "Who is it?"}, {"from": "gpt", "value": "A man."}]
    with pytest.raises(QuestionError, match=f"record 1: {message}"):
        read_questions(write(tmp_path, [{key: "b.mp4", "conversations": turns}]))
    (sample,) = read_questions(
        write(tmp_path, [{"image_id": 3, "source": "web", "conversations": turns}])
    )
    assert sample.modality == "text"


def conversation(*questions: str, **keys) -> dict:
    turns = [
        {"from": role, "value": text}
        for question in questions
        for role, text in (("human", question), ("gpt", "So."))
    ]
    return {"conversations": turns, **keys}


def test_modality_follows_from_the_file_key(tmp_path):
    record = {"question": "What?", "answer": "That."}
    records = [
        {**record, "image": "p/a.jpg"},
        {**record, "images": ["a.jpg", "b.png"]},
        {**record, "images": ["./p/a.jpg"]},
        record,
        conversation("Which?", image=["b.png", "a.jpg"], data_source="set"),
        conversation("Where?", image="a.jpg", data_source="p"),
        conversation("Why?"),
    ]
    samples = read_questions(write(tmp_path, records))
    assert [
        (sample.modality, sample.files, sample.key, len(sample.questions)) for sample in samples
    ] == [
        ("image", ("p/a.jpg",), "p/a", 3),
        ("images", ("a.jpg", "b.png"), "record_00000002", 1),
        ("text", (), "record_00000004", 1),
        ("images", ("set/b.png", "set/a.jpg"), "record_00000005", 1),
        ("text", (), "record_00000007", 1),
    ]


def test_image_sets_and_texts_are_one_sample_per_record(tmp_path):
    about = {"image": ["a.jpg", "b.jpg"]}
    samples = read_questions(
        write(
            tmp_path,
            [
                conversation("1?", "2?", **about),
                conversation("3?", **about),
                conversation("4?", "5?"),
                conversation("4?"),
            ],
        )
    )
    assert [[question.question for question in sample.questions] for sample in samples] == [
        ["1?", "2?"],
        ["3?"],
        ["4?", "5?"],
        ["4?"],
    ]


def test_placeholders_are_kept_for_image_sets_only(tmp_path):
    with_placeholders = conversation(
        "<image>\nWhich is <image>?", "And now?", image=["a.jpg", "b.jpg"]
    )
    one = conversation("<image>\nWhich?", image="a.jpg")
    ours = {
        "image": "c.jpg",
        "question": "Is it <image> or <video>?",
        "options": ["an <image> tag", "no"],
        "answer": "A",
    }
    samples = read_questions(write(tmp_path, [with_placeholders, one, ours]))
    assert [question.question for question in samples[0].questions] == [
        "<image>\nWhich is <image>?",
        "And now?",
    ]
    assert samples[1].questions[0].question == "\nWhich?"
    assert (
        samples[2].questions[0].question == "Is it  or ?"
        and samples[2].questions[0].answer_letter == "A"
    )


def test_repeated_id_is_rejected_with_both_records(tmp_path):
    with pytest.raises(
        QuestionError, match=r"record 3 \(id 'x'\): key 'id': 'x' is also the id of record 1"
    ):
        read_questions(write(tmp_path, [{**OPEN, "id": "x"}, OPEN, {**OPEN, "id": "x"}]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.json", "[{,]", "q.json is not valid JSON"),
        ("q.jsonl", '{"question": "a", "answer": "b"}\n{', "q.jsonl: line 2 is not valid JSON"),
        ("q.json", '{"video": "a.mp4"}', "must be a list of records, not a dict"),
        ("q.json", "[3]", "record 1 must be a mapping, not a int"),
        ("q.json", "[]", "contains no questions"),
        ("q.jsonl", "\n", "contains no questions"),
        ("q.csv", "video,question", "must be a .json file with a list of records"),
        ("q.json", "", r"q\.json is empty"),
        ("q.json", POINTER, r"q\.json is a Git LFS pointer"),
        ("q.json", "<html>Sign in</html>", r"q\.json is a web page"),
    ],
)
def test_file_without_valid_records_is_rejected(tmp_path, name, content, message):
    with pytest.raises(QuestionError, match=message):
        read_questions(write(tmp_path, content, name))


def test_unreadable_file_is_rejected(tmp_path):
    with pytest.raises(QuestionError, match=r"absent\.json.*No such file"):
        read_questions(tmp_path / "absent.json")
    (tmp_path / "latin.json").write_bytes(b'["\xe9"]')
    with pytest.raises(QuestionError, match=r"latin\.json.*utf-8"):
        read_questions(tmp_path / "latin.json")
