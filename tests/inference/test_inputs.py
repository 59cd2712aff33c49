"""What a user may ask about: one video, a picture, or several pictures, through a predictor whose model babbles."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from lit_hour.cli import main
from lit_hour.config.model import LLMConfig, MemAugConfig, ModelConfig, VisionConfig
from lit_hour.config.schema import Config, TextConfig, VideoConfig
from lit_hour.errors import ImageError, InputError, QuestionError, VideoError
from lit_hour.inference.inputs import check_input_files, open_input_files
from lit_hour.inference.predictor import Answer, VideoPredictor
from lit_hour.media.frame_sampling import SampledVideo
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.multimodal_inputs import truncate_to_prompts
from lit_hour.processor import Processor
from lit_hour.text.tokenizer import train_byte_level_tokenizer
from lit_hour.types import Example, ImageSet, Question, Sample, TiledImage

SIZE_PIXELS = 64
CONFIG = Config(
    video=VideoConfig(image_size=SIZE_PIXELS, min_frames=2, max_frames=4),
    text=TextConfig(max_tokens=2048),
    model=ModelConfig(
        vision=VisionConfig(name="lit-hour-tiny", layer=-1, grid=2),
        memaug=MemAugConfig(num_layers=1, min_frames=4),
        llm=LLMConfig(
            hidden_size=32,
            num_layers=1,
            num_heads=4,
            num_key_value_heads=2,
            intermediate_size=48,
            initializer_range=0.5,
        ),
    ),
)


@pytest.fixture(scope="module")
def predictor() -> VideoPredictor:
    processor = Processor(train_byte_level_tokenizer([], 300), CONFIG.text)
    torch.manual_seed(0)
    return VideoPredictor(CONFIG, HourLLaVA(CONFIG, len(processor.tokenizer)), processor)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of three seconds and two pictures, noise all of them."""
    folder = tmp_path_factory.mktemp("files")
    noise = np.random.default_rng(0).integers(0, 256, (2, 48, 96, 3), dtype=np.uint8)
    for name, pixels in zip(("red.PNG", "blue.jpg"), noise, strict=True):
        Image.fromarray(pixels).save(folder / name)
    with av.open(str(folder / "walk.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5, width=96, height=48)
        for place in range(15):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(noise[place % 2], format="rgb24"))
            )
        container.mux(stream.encode())
    return folder


def answer_about(
    predictor: VideoPredictor, files: Path | list[Path], question: str = "What?"
) -> Answer:
    *_, answer = predictor.generate(predictor.encode_video(files), question)
    assert isinstance(answer, Answer)
    return answer


def test_each_kind_of_file_is_read_as_what_it_is(folder: Path) -> None:
    video = open_input_files([folder / "walk.mp4"], CONFIG)
    assert isinstance(video, SampledVideo) and video.duration_seconds == pytest.approx(3, abs=0.3)
    picture = open_input_files([folder / "red.PNG"], CONFIG)
    assert isinstance(picture, TiledImage) and picture.size_pixels == (48, 96)
    pictures = open_input_files([folder / "red.PNG", folder / "blue.jpg"], CONFIG)
    assert isinstance(pictures, ImageSet) and pictures.images.shape == (
        2,
        3,
        SIZE_PIXELS,
        SIZE_PIXELS,
    )


def test_a_video_a_picture_and_pictures_are_remembered_and_asked_about(
    predictor: VideoPredictor, folder: Path
) -> None:
    one, both = folder / "red.PNG", [folder / "red.PNG", folder / "blue.jpg"]
    for files, placeholders, num_frames in ((folder / "walk.mp4", 1, 3), (one, 1, 0), (both, 2, 0)):
        memory = predictor.encode_video(files)
        assert (memory.num_placeholders, memory.num_frames) == (placeholders, num_frames)
        assert memory.note == (
            predictor.processor.video_note(memory.duration_seconds, num_frames)
            if num_frames
            else ""
        )
        assert memory.source == ", ".join(map(str, files if isinstance(files, list) else [files]))
        *_, answer = predictor.generate(memory, "What is it?")
        assert isinstance(answer, Answer)
        assert (answer.num_frames, answer.num_memory_tokens) == (
            num_frames,
            len(memory.repository.tokens),
        )


@pytest.mark.parametrize("names", (["red.PNG"], ["red.PNG", "blue.jpg"]))
def test_the_model_reads_pictures_in_answering_as_in_training(
    predictor: VideoPredictor, folder: Path, names: list[str]
) -> None:
    files = [folder / name for name in names]
    visual = open_input_files(files, CONFIG)
    assert not isinstance(visual, SampledVideo)
    processor, memory = predictor.processor, predictor.encode_video(files)
    taught = processor.converse([Question("1", "", "open_ended", "Which colour?", "red")])
    example = processor.example(Sample("key", "", 0.0, visual, (taught,)))
    asked = processor.texts(
        [processor.ask("Which colour?")], num_placeholders=memory.num_placeholders, note=memory.note
    )
    prompts = []
    for texts in (example.texts, asked):
        batch = processor.batch([Example("key", None, texts)])
        with torch.inference_mode():
            prompts.append(
                truncate_to_prompts(predictor.model.build_inputs(batch, [memory.repository])).embeddings
            )  # (1, tokens, dim)
    assert torch.equal(*prompts)


def test_a_list_of_one_file_is_that_file(predictor: VideoPredictor, folder: Path) -> None:
    alone, listed = (
        predictor.encode_video(files).repository
        for files in (folder / "blue.jpg", [folder / "blue.jpg"])
    )
    assert torch.equal(alone.tokens, listed.tokens)


def test_pictures_can_be_named_by_their_places_in_the_question(
    predictor: VideoPredictor, folder: Path
) -> None:
    files = [folder / "red.PNG", folder / "blue.jpg"]
    assert answer_about(predictor, files, "Is <image> or <image> redder?").text
    with pytest.raises(QuestionError, match="1 times and 2 images"):
        answer_about(predictor, files, "What is in <image>?")


@pytest.mark.parametrize(
    ("names", "error", "reason"),
    (
        ([], QuestionError, "no file: ask about one video, or about pictures"),
        (["red.PNG", "walk.mp4"], QuestionError, r"a video \(.*walk.mp4\) among 2 files"),
        (["walk.mp4", "walk.mp4"], QuestionError, r"a video \(.*walk.mp4\) among 2 files"),
        (["none.png"], ImageError, "none.png cannot be read .*No such file"),
        (["folder.jpg"], ImageError, "folder.jpg cannot be read .*Is a directory"),
        (["video.png"], ImageError, "video.png .* is not a JPEG, PNG"),
        (["red.PNG", "empty.webp"], ImageError, "empty.webp"),
        (["none.mp4"], VideoError, "none.mp4 does not exist"),
    ),
)
def test_what_cannot_be_asked_about_is_refused_by_name(
    folder: Path, names: list[str], error: type[InputError], reason: str
) -> None:
    (folder / "folder.jpg").mkdir(exist_ok=True)
    (folder / "video.png").write_bytes((folder / "walk.mp4").read_bytes())
    (folder / "empty.webp").touch()
    files = [folder / name for name in names]
    with pytest.raises(error, match=reason):
        check_input_files(files)
    with pytest.raises(error, match=reason):
        open_input_files(files, CONFIG)


def test_a_cut_picture_is_refused_when_it_is_read(predictor: VideoPredictor, folder: Path) -> None:
    whole = (folder / "blue.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    check_input_files([folder / "cut.jpg"])
    with pytest.raises(ImageError, match=r"cut\.jpg"):
        predictor.encode_video(folder / "cut.jpg")


def test_the_command_line_refuses_files_before_it_looks_for_the_run(folder: Path) -> None:
    red, walk = str(folder / "red.PNG"), str(folder / "walk.mp4")
    run = ["--run", str(folder / "no_run")]
    for words, reason in (
        ([red, "What?", *run, "--also", walk], r"a video \(.*walk.mp4\) among 2 files"),
        ([red, "What?", *run, "--also", str(folder / "none.jpg")], "none.jpg cannot be read"),
        ([red, "What?", *run, "--also", red, "--also", red], "no run at"),
    ):
        with pytest.raises(InputError, match=reason):
            main(["ask", *words])
