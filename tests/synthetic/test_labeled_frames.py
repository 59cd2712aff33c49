import torch

from lit_hour.synthetic.draw import COLOR_RGB
from lit_hour.synthetic.labeled_frames import FRAME_CLASSES, TOKEN_CLASSES, draw_labeled_frames
from lit_hour.synthetic.story import BACKGROUND_COLORS, COLORS
from lit_hour.types import IGNORE_INDEX

SIZES = {"video_size": 128, "image_size": 64, "jpeg_quality": 90, "grid": 4}


def test_same_seed_draws_the_same_frames_and_other_seeds_others() -> None:
    first, again, other = (draw_labeled_frames(12, seed, **SIZES) for seed in (3, 3, 900))
    assert torch.equal(first.images, again.images)
    assert all(torch.equal(first.classes[name], again.classes[name]) for name in first.classes)
    assert not torch.equal(first.images, other.images)


def test_background_label_is_the_color_of_the_corners() -> None:
    """A large figure may cover one corner, but not most of them."""
    frames = draw_labeled_frames(60, 5, **SIZES, difficulties=("easy",))
    palette = torch.tensor([COLOR_RGB[name] for name in COLORS + BACKGROUND_COLORS])  # (colors, 3)
    corners = frames.images[:, :, 1::61, 1::61].flatten(2).median(dim=2).values  # (frames, 3)
    distances = torch.cdist(corners.float(), palette.float())  # (frames, colors)
    assert torch.equal(distances.argmin(dim=1), frames.classes["background"])


def test_color_label_and_pose_are_those_of_the_pixels_at_the_center_of_the_figure() -> None:
    frames = draw_labeled_frames(60, 6, **SIZES, difficulties=("easy",))
    has_figure = frames.classes["color"] != IGNORE_INDEX
    assert 30 < has_figure.sum() < 60  # a figure that blinks is not always there
    assert torch.equal(has_figure, ~frames.poses.isnan().any(dim=1))
    palette = torch.tensor([COLOR_RGB[name] for name in COLORS]).float()  # (colors, 3)
    for index in has_figure.nonzero().flatten().tolist():
        column, row = (frames.poses[index, :2] * 64).int().tolist()
        pixel = frames.images[index, :, row, column].float()
        color = torch.cdist(pixel[None], palette).argmin()
        assert color == frames.classes["color"][index]
        token = row // 16 * 4 + column // 16
        assert frames.classes["figure color"][index].nonzero().flatten().tolist() == [token]
        assert frames.classes["figure color"][index, token] == 1 + color


def test_labels_stay_in_their_range_and_full_stories_label_tokens_only() -> None:
    frames = draw_labeled_frames(60, 7, **SIZES, difficulties=("full",))
    assert frames.poses.isnan().all()
    assert (frames.classes["shape"] == IGNORE_INDEX).all()
    for name, size in (FRAME_CLASSES | TOKEN_CLASSES).items():
        labels = frames.classes[name][frames.classes[name] != IGNORE_INDEX]
        assert not len(labels) or 0 <= labels.min() <= labels.max() < size, name
    assert (frames.classes["prop"] > 0).any() and (frames.classes["figure size"] == 2).any()
    several = (frames.classes["figure shape"] > 0).sum(dim=1)  # (frames,)
    assert several.max() > 1
