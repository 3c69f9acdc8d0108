"""Laws of face finding and cropping, on the detectors that are installed; no model and no picture is downloaded."""

import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from deepexpo_models.faces import (
    DETECTORS,
    ORDERS,
    DetectorUnavailable,
    Face,
    crop_face,
    crop_faces,
    find_faces,
    open_recogniser,
    order_faces,
    points_in_crop,
    select_face,
)
from deepexpo_models.faces.detectors import find_pack
from insightface_pack import embed, write_pack

ASTRONAUT = (178, 68, 273, 163)  # left, top, right, bottom of her face, drawn by hand


@pytest.fixture(scope="module")
def astronaut() -> torch.Tensor:
    data = pytest.importorskip("skimage.data", reason="scikit-image, which holds the photograph, is not installed")
    return torch.from_numpy(data.astronaut()).float() / 255


@pytest.fixture
def cascade() -> None:
    try:
        DETECTORS["opencv"](None)
    except DetectorUnavailable as reason:
        pytest.skip(f"no face detector is installed: {reason}")


@pytest.fixture
def two_faces(astronaut) -> torch.Tensor:
    """(400, 500, 3): a small face left, a large one right."""
    head = astronaut[:200, 120:320]
    large = torch.nn.functional.interpolate(head.movedim(-1, 0)[None], (300, 300), mode="bilinear")[0].movedim(0, -1)
    image = torch.full((400, 500, 3), 0.5)
    image[50:250, :200], image[50:350, 200:] = head, large
    return image


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def face(left: float, top: float, right: float, bottom: float, detector: str = "insightface") -> Face:
    return Face((left, top, right, bottom), None, None, detector)


def overlap(a: tuple, b: tuple) -> float:
    """Intersection over union of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0, width) * max(0, height)
    return shared / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - shared)


# Finding


def test_the_astronaut_is_found(astronaut, cascade):
    found = find_faces(astronaut)
    largest = order_faces(found.faces, "largest", (512, 512))[0]
    assert overlap(largest.box, ASTRONAUT) > 0.6
    assert found.detected == len(found.faces) and largest.detector in found.note


@pytest.mark.parametrize("factor", [0.5, 3])
def test_the_face_is_found_at_any_resolution(astronaut, cascade, factor):
    image = torch.nn.functional.interpolate(
        astronaut.movedim(-1, 0)[None], scale_factor=factor, mode="bilinear", antialias=True
    )[0].movedim(0, -1)
    largest = select_face(find_faces(image).faces, 0, "largest", image.shape[:2])
    assert overlap(largest.box, tuple(edge * factor for edge in ASTRONAUT)) > 0.6


def test_two_faces_are_found_and_ordered(two_faces, cascade):
    faces = find_faces(two_faces).faces
    assert len(faces) == 2
    by_place = order_faces(faces, "left to right", (400, 500))
    assert by_place[0].centre[0] < 200 < by_place[1].centre[0]
    assert order_faces(faces, "largest", (400, 500)) == by_place[::-1]


def test_the_mask_restricts_the_choice(two_faces, cascade):
    mask = torch.zeros(400, 500)
    mask[:, :200] = 1
    found = find_faces(two_faces, mask=mask)
    assert len(found.faces) == 1 and found.faces[0].centre[0] < 200


def test_a_mask_without_a_face_is_the_face(astronaut, cascade):
    mask = torch.zeros(512, 512)
    mask[300:400, 20:70] = 1
    found = find_faces(astronaut, mask=mask)
    assert found.faces[0].box == (-5, 300, 95, 400) and found.faces[0].detector == "mask" and found.detected == 0
    with pytest.raises(ValueError, match="inside the mask of the image"):
        find_faces(astronaut, "opencv", mask)


@pytest.mark.parametrize("detector", ["auto", "opencv"])
def test_no_face_is_an_error_that_names_the_image(astronaut, cascade, detector):
    images = torch.stack([astronaut, noise(512, 512, 3), astronaut])
    with pytest.raises(ValueError, match=r"no face found in image 2 of 3; use a clearer picture or draw a mask"):
        crop_faces(images, detector)


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 900, 3), (20, 20, 3)])
def test_tiny_pictures_have_no_face(cascade, shape):
    with pytest.raises(ValueError, match="no face found"):
        find_faces(noise(*shape))


def test_detector_none_takes_the_mask_or_the_picture():
    image, mask = noise(40, 60, 3), torch.zeros(40, 60)
    mask[10:20, 10:30] = 0.2
    whole, masked = find_faces(image, "none"), find_faces(image, "none", mask)
    assert whole.faces[0].box == (0, 0, 60, 40) and whole.faces[0].detector == "picture" and whole.detected == 0
    assert masked.faces[0].box == (10, 5, 30, 25) and masked.faces[0].detector == "mask"


def test_alpha_changes_nothing(astronaut, cascade):
    with_alpha = torch.cat((astronaut, noise(512, 512, 1)), -1)
    assert [face.box for face in find_faces(with_alpha).faces] == [face.box for face in find_faces(astronaut).faces]


@pytest.mark.parametrize("detector", ["auto", "opencv", "none"])
def test_an_empty_mask_is_an_error(cascade, detector):
    with pytest.raises(ValueError, match="mask for the image is empty"):
        find_faces(noise(40, 60, 3), detector, torch.zeros(64, 64))


def test_wrong_input_is_one_sentence():
    with pytest.raises(ValueError, match="unknown detector 'dlib'; known: auto, insightface, opencv, none"):
        find_faces(noise(40, 60, 3), "dlib")
    with pytest.raises(ValueError, match=r"mask for the image has shape \(60, 40\)"):
        find_faces(noise(40, 60, 3), "none", torch.ones(60, 40))
    with pytest.raises(ValueError, match="expected one picture"):
        find_faces(noise(1, 40, 60, 3), "none")
    with pytest.raises(ValueError, match="one for each of 3 images"):
        crop_faces(noise(3, 40, 60, 3), "none", mask=torch.ones(2, 40, 60))


# Missing and broken detectors


def break_module(monkeypatch, name: str) -> None:
    """Importing anything from the module raises what a numpy mismatch raises."""

    def refuse(attribute: str):
        raise RuntimeError(f"{name} was built for another numpy")

    broken = types.ModuleType(name)
    broken.__getattr__ = refuse
    monkeypatch.setitem(sys.modules, name, broken)


@pytest.mark.parametrize("missing", [True, False])
def test_a_broken_insightface_costs_only_itself(astronaut, cascade, monkeypatch, tmp_path, missing):
    for name in ("insightface", "insightface.app"):
        if missing:
            monkeypatch.setitem(sys.modules, name, None)
        else:
            break_module(monkeypatch, name)
    found = find_faces(astronaut, insightface_root=tmp_path)
    assert found.detected and "insightface is not available: cannot import insightface" in found.note
    with pytest.raises(ValueError, match="insightface cannot be used: cannot import insightface"):
        find_faces(astronaut, "insightface", insightface_root=tmp_path)


def test_without_any_detector_the_picture_is_used(monkeypatch):
    for name in ("insightface", "insightface.app", "cv2", "skimage", "skimage.data", "skimage.feature"):
        monkeypatch.setitem(sys.modules, name, None)
    image, mask = noise(40, 60, 3), torch.zeros(40, 60)
    mask[10:20, 10:30] = 1
    found = find_faces(image)
    assert found.faces[0].detector == "picture" and "no face detector is available" in found.note
    assert find_faces(image, mask=mask).faces[0].detector == "mask"
    with pytest.raises(ValueError, match=r"opencv cannot be used: .*install scikit-image"):
        find_faces(image, "opencv")


def test_opencv_without_cascades_gives_way_to_scikit_image(astronaut, monkeypatch):
    pytest.importorskip("skimage.feature")
    monkeypatch.setitem(sys.modules, "cv2", types.ModuleType("cv2"))
    assert {face.detector for face in find_faces(astronaut, "opencv").faces} == {"scikit-image"}


# insightface itself, on a detector that sees a face in the corner of every red picture


@pytest.fixture
def red() -> torch.Tensor:
    return torch.tensor([1.0, 0, 0]).expand(128, 128, 3)


@pytest.fixture
def red_pack(tmp_path):
    return write_pack(tmp_path, "buffalo_l")


def test_insightface_gives_boxes_points_and_scores(red_pack):
    red = torch.tensor([1.0, 0, 0]).expand(128, 128, 3)
    found = find_faces(red, insightface_root=red_pack)
    assert found.detected == 1 and found.note == "the image: 1 face found by insightface"
    assert found.faces[0].detector == "insightface" and found.faces[0].score > 0.9
    assert found.faces[0].box == (16, 16, 80, 96)  # of 64 pixels at stride 8, on 128
    assert found.faces[0].points.tolist() == [[32, 48], [64, 48], [48, 64], [32, 80], [64, 80]]


def test_insightface_sees_blue_as_blue(red_pack):
    blue = torch.tensor([0, 0, 1.0]).expand(128, 128, 3)
    with pytest.raises(ValueError, match="no face found in the image"):
        find_faces(blue, "insightface", insightface_root=red_pack)


def test_insightface_without_a_usable_pack_never_downloads(tmp_path, monkeypatch):
    pytest.importorskip("insightface")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("insightface went to the network"))
    with pytest.raises(ValueError, match=r"no model pack is in .*models"):
        find_faces(noise(40, 60, 3), "insightface", insightface_root=tmp_path)
    (tmp_path / "models" / "antelopev2").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no model pack is in .*models"):
        find_faces(noise(40, 60, 3), "insightface", insightface_root=tmp_path)
    (tmp_path / "models" / "antelopev2" / "det.onnx").write_bytes(b"truncated")
    with pytest.raises(ValueError, match="model pack antelopev2 cannot be loaded"):
        find_faces(noise(40, 60, 3), "insightface", insightface_root=tmp_path)


def red_and(noise: torch.Tensor) -> torch.Tensor:
    """(128, 128, 3): red enough for the red detector, with something to recognise."""
    return torch.stack([0.8 + 0.2 * noise, noise, noise.flip(0)], dim=-1)


def test_the_recogniser_gives_raw_embeddings_of_the_aligned_face(red_pack):
    pictures = torch.stack([red_and(noise(128, 128)), red_and(noise(128, 128).T)])
    found = open_recogniser("buffalo_l", red_pack)(pictures)
    expected = np.stack([embed(picture.numpy()) for picture in pictures])
    np.testing.assert_allclose(found.embeddings.numpy(), expected, atol=1e-4)
    assert (found.embeddings.norm(dim=-1) > 2).all(), "not normalised"
    assert found.aligned.shape == (2, 224, 224, 3) and found.aligned[..., 0].mean() > found.aligned[..., 1].mean()


def test_a_recogniser_that_is_not_there_is_refused_by_name(red_pack, tmp_path):
    with pytest.raises(ValueError, match=r"recogniser antelopev2 cannot be used: the model pack antelopev2 is not in .*models"):
        open_recogniser("antelopev2", red_pack)
    pack = red_pack / "models" / "buffalo_l"
    (pack / "w600k_r50.onnx").rename(pack / "arcface.onnx")
    with pytest.raises(ValueError, match=r"holds the recogniser arcface\.onnx instead of w600k_r50\.onnx"):
        open_recogniser("buffalo_l", red_pack)
    (pack / "arcface.onnx").unlink()
    with pytest.raises(ValueError, match="the model pack buffalo_l holds no recogniser"):
        open_recogniser("buffalo_l", red_pack)
    with pytest.raises(ValueError, match="unknown face recogniser 'dlib'; known: buffalo_l, antelopev2"):
        open_recogniser("dlib", red_pack)


def test_a_picture_without_a_face_is_not_recognised(red_pack):
    blue = torch.tensor([0, 0, 1.0]).expand(1, 128, 128, 3)
    with pytest.raises(ValueError, match="no face found in image 1 of 1"):
        open_recogniser("buffalo_l", red_pack)(blue)


# Ordering and choosing

BOXES = (face(0, 0, 20, 20), face(40, 40, 70, 60), face(80, 80, 90, 90))


@pytest.mark.parametrize(
    ("order", "expected"),
    [("largest", (1, 0, 2)), ("left to right", (0, 1, 2)), ("centre", (1, 2, 0))],
)
def test_orders(order, expected):
    ordered = order_faces(BOXES[::-1], order, (100, 110))
    assert ordered == [BOXES[place] for place in expected]
    assert select_face(BOXES, 1, order, (100, 110)) is ordered[1]


def test_every_order_is_tested():
    assert set(ORDERS) == {"largest", "left to right", "centre"}


@pytest.mark.parametrize("index", [3, -1])
def test_a_face_that_is_not_there(index):
    with pytest.raises(ValueError, match=f"no face {index} in image 1 of 1: 3 faces found"):
        select_face(BOXES, index, "largest", (100, 100), "image 1 of 1")
    with pytest.raises(ValueError, match="unknown order"):
        select_face(BOXES, 0, "random", (100, 100))


# Cropping


def test_a_crop_is_a_square_around_the_box():
    image = noise(100, 120, 3)
    crop, mask, transform = crop_face(image, face(40, 30, 60, 50), scale=2)
    assert torch.equal(crop, image[20:60, 30:70])
    assert (transform.left, transform.top, transform.side, transform.size) == (30, 20, 40, 40)
    assert mask.shape == (100, 120) and set(mask.unique().tolist()) == {0, 1}
    assert mask[40, 50] == 1 and mask[:30].sum() == mask[50:].sum() == mask[:, :40].sum() == mask[:, 60:].sum() == 0
    assert mask.sum().item() == pytest.approx(np.pi * 100, rel=0.02)


def test_a_crop_beyond_the_border_keeps_its_size_and_repeats_the_edge():
    image = noise(100, 120, 3)
    crop, mask, transform = crop_face(image, face(-5, 90, 15, 110), scale=2)
    assert crop.shape == (40, 40, 3) and mask.shape == (100, 120) and (transform.left, transform.top) == (-15, 80)
    assert torch.equal(crop[:20, 15:], image[80:, :25])
    assert torch.equal(crop[20:, 15:], image[99:, :25].expand(20, -1, -1))
    assert torch.equal(crop[:20, :15], image[80:, :1].expand(-1, 15, -1))


def test_the_whole_picture_is_padded_to_a_square():
    image = noise(40, 60, 3)
    crop, mask, _ = crop_face(image, find_faces(image, "none").faces[0], scale=3)
    assert crop.shape == (60, 60, 3) and torch.equal(crop[10:50], image) and (mask == 1).all()


@pytest.mark.parametrize("size", [None, 16, 100])
def test_points_keep_their_place_in_the_picture(size):
    image = torch.zeros(100, 120, 3)
    image[35:45, 50:60] = 1
    crop, _, transform = crop_face(image, face(40, 30, 60, 50), scale=2, size=size)
    centre = points_in_crop(np.array([[55.0, 40.0]]), transform)[0]
    rows, columns = torch.nonzero(crop[..., 0] > 0.5, as_tuple=True)
    weights = (columns.double().mean().item() + 0.5, rows.double().mean().item() + 0.5)
    assert crop.shape == (transform.size, transform.size, 3) and np.abs(centre - weights).max() < 0.6


def test_a_crop_shares_nothing_with_the_picture():
    image = noise(50, 50, 3)
    before = image.clone()
    for size in (None, 20):
        crop, _, _ = crop_face(image, face(10, 10, 30, 30), 1, size)
        crop.zero_()
    assert torch.equal(image, before)


def test_a_crop_needs_a_scale():
    with pytest.raises(ValueError, match="scale of a crop"):
        crop_face(noise(50, 50, 3), face(10, 10, 30, 30), 0)


def test_a_batch_has_one_crop_size(two_faces, cascade):
    images = torch.stack([two_faces, two_faces.flip(1)])
    result = crop_faces(images, index=0, order="largest", size=64)
    assert result.crops.shape == (2, 64, 64, 3) and result.masks.shape == (2, 400, 500)
    assert result.crops.min() >= 0 and result.crops.max() <= 1
    assert result.counts == (2, 2) and [note[:12] for note in result.notes] == ["image 1 of 2", "image 2 of 2"]
    assert result.faces[0].centre[0] > 250 > result.faces[1].centre[0]


def test_one_mask_serves_a_batch():
    mask = torch.zeros(1, 40, 60)
    mask[0, 10:20, 10:20] = 1
    images = noise(2, 40, 60, 3)
    result = crop_faces(images, "none", scale=1, size=10, mask=mask)
    assert torch.equal(result.crops, images[:, 10:20, 10:20]) and result.counts == (0, 0)


def test_a_batch_names_the_picture_with_too_few_faces():
    with pytest.raises(ValueError, match="no face 1 in image 1 of 2"):
        crop_faces(noise(2, 40, 60, 3), "none", index=1)


@pytest.mark.parametrize(("box", "scale"), [((10, 5, 40, 35), 1.8), ((-20, 30, 90, 100), 2.5), ((50, 60, 58, 66), 1.0)])
def test_a_crop_equals_the_padded_and_resized_picture(box, scale):
    """Made inside the picture, it is what padding with the border and resizing would give."""
    image, face = noise(70, 64, 3), Face(box, None, None, "mask")
    crop, _, found = crop_face(image, face, scale, 32)
    rows, columns = ((torch.arange(found.side) + first) for first in (found.top, found.left))
    padded = image[rows.clamp(0, 69)[:, None], columns.clamp(0, 63)]
    expected = F.interpolate(padded.movedim(-1, 0)[None], (32, 32), mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(crop, expected[0].movedim(0, -1), atol=1e-5, rtol=0)


def test_a_crop_costs_no_more_than_its_picture_however_far_it_reaches():
    image, face = torch.rand(200, 200, 3), Face((0, 0, 200, 200), None, None, "mask")
    largest = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            largest.append(made.numel() if isinstance(made, torch.Tensor) else 0)
            return made

    with Watch():
        crop_face(image, face, 10.0, 64)
    assert max(largest) <= 64 * 2000, "the padded picture would have 12 million numbers"
    for scale in (0.0, -1.0, 2000.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="scale of a crop is greater than 0 and at most 10"):
            crop_face(image, face, scale, 64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int64])
def test_crops_of_any_dtype_are_those_of_float32(dtype):
    image = noise(2, 60, 50, 3)
    given = image.to(dtype) if dtype.is_floating_point else (image * 255).round().to(dtype)
    exact = given.float() if dtype.is_floating_point else given.float() / 255
    found, expected = (crop_faces(each, "none", size=32) for each in (given, exact))
    torch.testing.assert_close(found.crops, expected.crops, atol=1e-4, rtol=0)
    assert found.crops.dtype == found.masks.dtype == torch.float32


def test_packs_are_found_in_every_root_in_order(tmp_path, red):
    (tmp_path / "empty").mkdir()
    first, second = (write_pack(tmp_path / name, "buffalo_l") for name in ("first", "second"))
    roots = [tmp_path / "none", tmp_path / "empty", first, second]
    assert find_pack(roots) == first / "models" / "buffalo_l" and find_pack(roots[::-1]) == second / "models" / "buffalo_l"
    assert find_faces(red, "insightface", insightface_root=roots).detected == 1


def test_a_damaged_file_does_not_spoil_a_pack(tmp_path, red):
    root = write_pack(tmp_path, "buffalo_l")
    (root / "models" / "buffalo_l" / "0.onnx").write_bytes(b"junk")
    (root / "models" / "buffalo_l" / "z.onnx").write_bytes(b"")
    assert find_faces(red, "insightface", insightface_root=root).detected == 1
    assert open_recogniser("buffalo_l", root)(red[None]).embeddings.shape == (1, 512)
