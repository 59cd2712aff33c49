"""Input files: one video, one image or several images, and the errors for everything else."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from lit_hour.cli.main import main
from lit_hour.errors import ImageError, InputError, QuestionError, VideoError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import InputFiles, check_input_files
from lit_hour.media.video_reader import SampledVideo
from lit_hour.model.multimodal_inputs import left_pad_prompts
from lit_hour.text.chat_template import build_conversation
from lit_hour.types import Example, ImageSet, Question, Sample, TiledImage
from tests.inference.helpers import CONFIG, SIZE_PIXELS, generate_text, make_predictor


@pytest.fixture(scope="module")
def predictor() -> VideoPredictor:
    return make_predictor()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of three seconds and two images, all of random pixels."""
    folder = tmp_path_factory.mktemp("files")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 48, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels[0]).save(folder / "red.PNG")
    Image.fromarray(pixels[1]).save(folder / "blue.jpg")
    with av.open(str(folder / "walk.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5, width=96, height=48)
        for index in range(15):
            frame = av.VideoFrame.from_ndarray(pixels[index % 2], format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return folder


def test_open_visual_returns_the_type_that_fits_the_files(folder: Path) -> None:
    video = check_input_files([folder / "walk.mp4"]).open_visual(CONFIG)
    assert isinstance(video, SampledVideo) and video.duration_seconds == pytest.approx(3, abs=0.3)
    image = check_input_files([folder / "red.PNG"]).open_visual(CONFIG)
    assert isinstance(image, TiledImage) and image.size_pixels == (48, 96)
    images = check_input_files([folder / "red.PNG", folder / "blue.jpg"]).open_visual(CONFIG)
    assert isinstance(images, ImageSet)
    assert images.images.shape == (2, 3, SIZE_PIXELS, SIZE_PIXELS)


def test_encode_video_accepts_a_video_an_image_and_several_images(
    predictor: VideoPredictor, folder: Path
) -> None:
    image, images = folder / "red.PNG", [folder / "red.PNG", folder / "blue.jpg"]
    for files, num_placeholders, num_frames in (
        (folder / "walk.mp4", 1, 3),
        (image, 1, 0),
        (images, 2, 0),
    ):
        memory = predictor.encode_video(files)
        assert (memory.num_placeholders, memory.num_frames) == (num_placeholders, num_frames)
        note = predictor.processor.video_note(memory.duration_seconds, num_frames)
        assert memory.note == (note if num_frames else "")
        assert memory.source == ", ".join(map(str, files if isinstance(files, list) else [files]))
        *_, answer = predictor.generate(memory, "What is it?")
        assert not isinstance(answer, str)
        assert answer.num_frames == num_frames
        assert answer.num_memory_tokens == len(memory.repository.tokens)


def test_images_give_the_same_prompt_as_in_training(
    predictor: VideoPredictor, folder: Path
) -> None:
    question = Question("1", "", "open_ended", "Which color?", "red")
    processor = predictor.processor
    for names in (["red.PNG"], ["red.PNG", "blue.jpg"]):
        files = [folder / name for name in names]
        visual = check_input_files(files).open_visual(CONFIG)
        assert not isinstance(visual, SampledVideo)
        memory = predictor.encode_video(files)
        conversation = build_conversation([question], processor.config)
        trained = processor.build_example(Sample("key", "", 0.0, visual, (conversation,))).texts
        generated = processor.tokenize(
            [processor.build_prompt("Which color?")],
            num_placeholders=memory.num_placeholders,
            note=memory.note,
        )
        prompts = []
        for texts in (trained, generated):
            batch = processor.collate([Example("key", None, texts)])
            with torch.inference_mode():
                inputs = predictor.model.build_inputs(batch, [memory.repository])
            prompts.append(left_pad_prompts(inputs).embeddings)  # (1, tokens, dim)
        assert torch.equal(*prompts), names


def test_encode_video_of_a_list_of_one_file_equals_that_of_the_file(
    predictor: VideoPredictor, folder: Path
) -> None:
    file = folder / "blue.jpg"
    single, listed = (predictor.encode_video(files).repository for files in (file, [file]))
    assert torch.equal(single.tokens, listed.tokens)


def test_image_tokens_in_the_question_place_the_images(
    predictor: VideoPredictor, folder: Path
) -> None:
    memory = predictor.encode_video([folder / "red.PNG", folder / "blue.jpg"])
    assert generate_text(predictor, memory, "Is <image> or <image> redder?")
    with pytest.raises(QuestionError, match="<image> 1 times and 2 images"):
        generate_text(predictor, memory, "What is in <image>?")


def test_input_files_know_whether_they_are_images(folder: Path) -> None:
    assert check_input_files([folder / "red.PNG", folder / "blue.jpg"]).are_images
    assert not check_input_files([folder / "walk.mp4"]).are_images
    assert not InputFiles((folder / "film.safetensors",), None).are_images


def test_check_input_files_rejects_invalid_files_by_name(folder: Path) -> None:
    (folder / "folder.jpg").mkdir()
    (folder / "video.png").write_bytes((folder / "walk.mp4").read_bytes())
    (folder / "empty.webp").touch()
    mixed = r"A video \(.*walk.mp4\) is one of 2 files"
    for names, error, message in (
        ([], QuestionError, r"No file given\. Give one video, or images"),
        (["red.PNG", "walk.mp4"], QuestionError, mixed),
        (["walk.mp4", "walk.mp4"], QuestionError, mixed),
        (["none.png"], ImageError, "none.png cannot be read .*No such file"),
        (["folder.jpg"], ImageError, "folder.jpg cannot be read .*Is a directory"),
        (["video.png"], ImageError, "video.png .*JPEG, PNG"),
        (["red.PNG", "empty.webp"], ImageError, "empty.webp"),
        (["none.mp4"], VideoError, "none.mp4 does not exist"),
    ):
        with pytest.raises(error, match=message):
            check_input_files([folder / name for name in names])


def test_a_truncated_image_is_rejected_when_it_is_decoded(
    predictor: VideoPredictor, folder: Path
) -> None:
    content = (folder / "blue.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])
    assert isinstance(check_input_files([folder / "cut.jpg"]), InputFiles)
    with pytest.raises(ImageError, match=r"cut\.jpg"):
        predictor.encode_video(folder / "cut.jpg")


def test_the_command_line_checks_files_before_the_run(folder: Path) -> None:
    red, walk = str(folder / "red.PNG"), str(folder / "walk.mp4")
    run = ["--run", str(folder / "no_run")]
    for argv, message in (
        ([red, "What?", *run, "--also", walk], r"A video \(.*walk.mp4\) is one of 2 files"),
        ([red, "What?", *run, "--also", str(folder / "none.jpg")], "none.jpg cannot be read"),
        ([red, "What?", *run, "--also", red, "--also", red], "[Nn]o run at"),
    ):
        with pytest.raises(InputError, match=message):
            main(["ask", *argv])
