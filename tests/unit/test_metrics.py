"""Metrics against their closed forms; a picture without a face is the worst, never dropped; tables and pictures of results."""

import json
import math

import pytest
import torch

from deepexpo_models.evaluation.metrics import (
    agreement,
    copy_paste,
    correlation,
    csim,
    fid,
    icc,
    id_distance,
    kid,
    missing,
    pose_errors,
    psnr,
    semchg,
    sim,
    ssim,
    sweep_effects,
    top1,
    turned,
)
from deepexpo_models.evaluation.plots import histograms_picture, lines_picture, sheet_picture
from deepexpo_models.evaluation.tables import as_json, figure_table, markdown

NAN = math.nan


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_moments(count: int, mean: torch.Tensor, spread: torch.Tensor, seed: int) -> torch.Tensor:
    """(count, D) in float64 whose mean and covariance are exactly `mean` and diag(spread^2)."""
    x = normal(count, len(mean), seed=seed).double()
    x = x - x.mean(0)
    whitened = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    return whitened * spread + mean


def test_fid_is_the_frechet_distance_of_gaussians():
    """Diagonal covariances commute: |mean difference|^2 + sum of (spread difference)^2."""
    means, spreads = normal(2, 6, seed=1).double(), normal(2, 6, seed=2).double().abs() + 0.5
    a, b = (with_moments(64, m, s, seed) for seed, (m, s) in enumerate(zip(means, spreads)))
    expected = (means[0] - means[1]).square().sum() + (spreads[0] - spreads[1]).square().sum()
    assert fid(a, b) == pytest.approx(expected.item(), rel=1e-6)
    assert fid(b, a) == pytest.approx(fid(a, b), rel=1e-6)


def test_fid_of_correlated_features():
    """It does not depend on the basis of the features, and a set has no distance to itself."""
    a, b = normal(50, 4, seed=3), 2 * normal(60, 4, seed=4) + 1
    turn = torch.linalg.qr(normal(4, 4, seed=5))[0]
    assert fid(a @ turn, b @ turn) == pytest.approx(fid(a, b), rel=1e-4)
    assert abs(fid(a, a)) < 1e-9


def test_fid_refuses_too_few_pictures():
    with pytest.raises(ValueError, match="8 features needs more than as many pictures, got 8"):
        fid(normal(8, 8), normal(99, 8))


def test_kid_is_unbiased():
    """About 0 on average for one distribution, below its own noise; clearly positive for a shifted one."""
    same = torch.tensor([kid(normal(40, 8, seed=i), normal(40, 8, seed=100 + i)) for i in range(40)])
    shifted = torch.tensor([kid(normal(40, 8, seed=i), normal(40, 8, seed=100 + i) + 0.7) for i in range(10)])
    assert same.mean().abs() < 3 * same.std() / len(same) ** 0.5
    assert same.min() < 0 < shifted.min()
    assert shifted.mean() > 10 * same.mean().abs()


def test_kid_has_the_value_of_its_formula():
    a, b = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [1.0]])
    assert kid(a, b) == pytest.approx(27 + 1 - 2 * (1 + 8 + 1 + 27) / 4)


def pictures(count: int = 2, size: int = 40, seed: int = 0) -> torch.Tensor:
    rough = torch.rand(count, 3, size // 4, size // 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(rough, size, mode="bilinear")


def test_ssim_laws():
    a = pictures()
    assert ssim(a, a) == pytest.approx(1.0, abs=1e-6)
    noise = normal(*a.shape)
    assert 1 > ssim(a + 0.05 * noise, a) > ssim(a + 0.3 * noise, a) > -1


def test_ssim_equals_scikit_image():
    skimage = pytest.importorskip("skimage.metrics")
    a = pictures()
    b = (a + 0.2 * normal(*a.shape)).clamp(-1, 1)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 2.0, "channel_axis": 0}
    expected = [skimage.structural_similarity(x.double().numpy(), y.double().numpy(), **options) for x, y in zip(a, b)]
    assert ssim(a, b) == pytest.approx(sum(expected) / len(expected), abs=1e-4)


def test_psnr():
    """An error of 0.2 in a range of 2 is 20 dB; what the mask leaves out does not count."""
    true, mask = pictures(), torch.zeros(2, 1, 40, 40)
    mask[..., :20] = 1
    assert psnr(true + 0.2, true) == pytest.approx(20, abs=1e-3)
    assert psnr(true + 0.2 * mask + 5 * (1 - mask), true, mask) == pytest.approx(20, abs=1e-3)
    assert psnr(true, true) == pytest.approx(100)


def test_csim_counts_a_missing_face_as_the_worst():
    same = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    lost = torch.tensor([[1.0, 0.0], [NAN, NAN]])
    assert csim(same, same) == pytest.approx(1) and id_distance(same, -same) == pytest.approx(2)
    assert csim(lost, same) == pytest.approx(0)  # 1 and -1
    assert missing(lost) == 0.5


def test_copy_paste_is_the_lead_of_the_given_photo():
    given, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert copy_paste(given, given, other) == pytest.approx(1)
    assert copy_paste(given + other, given, other) == pytest.approx(0)


def test_top1():
    gallery = torch.eye(3)
    queries = torch.tensor([[0.9, 0.1, 0.0], [0.9, 0.2, 0.0], [NAN, NAN, NAN]])
    assert top1(queries, gallery, torch.arange(3)) == pytest.approx(1 / 3)
    assert top1(queries[2:], gallery, torch.tensor([0])) == 0, "a missing face finds nobody, not the first"
    gallery[0] = NAN
    assert top1(torch.eye(3), gallery, torch.arange(3)) == pytest.approx(2 / 3), "a person without a face is not found"


def test_sim_is_a_share_of_the_ranges():
    spans = torch.tensor([2.0, 1.0])
    reference = torch.zeros(2, 2)
    assert sim(torch.tensor([[0.5, 0.25], [0.5, 0.25]]), reference, spans) == pytest.approx(0.25)
    assert sim(torch.tensor([[0.5, 0.25], [NAN, NAN]]), reference, spans) == pytest.approx((0.25 + 1) / 2)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_semchg_is_the_share_of_the_way(share):
    person, reference = torch.rand(4, 5) * 0.1, torch.rand(4, 5) * 0.1 + 1
    aside = torch.tensor([1.0, -1.0, 0, 0, 0]) - (reference - person)  # only what lies on the way counts
    way = reference - person
    aside = aside - way * ((aside * way).sum(1) / way.square().sum(1))[:, None]
    assert semchg(person + share * way + aside, person, reference) == pytest.approx(share, abs=1e-5)


def test_semchg_beyond_the_ends_and_without_faces():
    person, reference = torch.zeros(2, 1), torch.ones(2, 1)
    assert semchg(torch.tensor([[3.0], [-3.0]]), person, reference) == pytest.approx(0.5)
    assert semchg(torch.tensor([[1.0], [NAN]]), person, reference) == pytest.approx(0.5)
    assert semchg(reference, torch.tensor([[0.0], [NAN]]), reference) == pytest.approx(0.5), "an unmeasured pair counts"
    assert math.isnan(semchg(person, person, person + 0.1)), "pairs that do not differ say nothing"


def test_correlation():
    reference = normal(50, 2)
    made = torch.stack([3 * reference[:, 0] - 1, -reference[:, 1]], dim=1)
    assert correlation(made, reference).tolist() == pytest.approx([1, -1])
    lost = made.clone()
    lost[::2] = NAN
    assert 0.3 < correlation(lost, reference)[0] < 0.99
    assert correlation(torch.full_like(made, NAN), reference).tolist() == [0, 0]
    assert correlation(torch.ones_like(made), reference).tolist() == [0, 0]


def test_agreement():
    assert agreement(torch.tensor([1.0, 2.0, NAN, 4.0]), torch.tensor([1.0, 3.0, NAN, 4.0])) == 0.5


def test_pose_errors_in_degrees():
    reference = torch.tensor([[10.0, 0.0, 0.0], [0.0, 0.0, 170.0]])
    made = torch.tensor([[40.0, 0.0, 0.0], [0.0, 0.0, -170.0]])
    found = pose_errors(made, reference)
    assert found == pytest.approx({"POSE": 25, "yaw": 15, "pitch": 0, "roll": 10}, abs=1e-2)
    made[1] = NAN
    assert turned(made, reference).tolist() == pytest.approx([30, 180], abs=1e-2)
    assert pose_errors(made, reference)["pitch"] == pytest.approx(90)


def test_icc():
    """1 for equal codes, 0 for unrelated ones, about the person's share of the variance in between."""
    person, first, second = normal(4000, 3), normal(4000, 3, seed=1), normal(4000, 3, seed=2)
    assert icc(person, person) == pytest.approx(1)
    assert icc(first, second) == pytest.approx(0, abs=0.05)
    assert icc(2 * person + first + 5, 2 * person + second) == pytest.approx(0.8, abs=0.03)
    assert icc(torch.ones(5, 3), torch.ones(5, 3)) == 0


def test_sweep_effects():
    sweep = torch.tensor([[0.0, 0.2, 0.5], [0.4, 0.3, 0.5], [0.8, 0.0, 0.5]])
    own = torch.tensor([True, False, False])
    assert sweep_effects(sweep, own) == pytest.approx({"monotonic": True, "rise": 0.8, "side effect": 0.15 / 0.8})
    assert not sweep_effects(sweep[[0, 2, 1]], own)["monotonic"]
    opposite = torch.tensor([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    assert sweep_effects(opposite, own)["side effect"] == pytest.approx(1), "two movements do not cancel"
    dead = sweep_effects(torch.tensor([[0.5, 0.1, 0.2], [0.5, 0.3, 0.2]]), own)
    assert dead["monotonic"] and dead["rise"] == 0 and math.isnan(dead["side effect"]), "nothing is no share of nothing"


def test_markdown_has_a_cell_for_every_figure():
    text = markdown([{"row": "a", "x": {"y": 1.23456, "z": NAN}}, {"row": "b", "n": 3}])
    lines = ["| row | x: y | x: z | n |", "| --- | --- | --- | --- |", "| a | 1.235 | - |  |", "| b |  |  | 3 |"]
    assert text.splitlines() == lines
    assert markdown([]) == ""
    assert "| p: q | 2.000 |" in figure_table({"p": {"q": 2.0}})


def test_json_knows_no_nan():
    found = json.loads(as_json({"a": [1.0, NAN], "b": {"c": math.inf, "d": "x", "e": True}}))
    assert found == {"a": [1.0, None], "b": {"c": None, "d": "x", "e": True}}


def test_pictures_are_written(tmp_path):
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    one, other = normal(50), normal(50, seed=1)
    panels = {"jaw": {"a": one, "b": other}, "smile": {"a": other, "b": one}}
    lines_picture(tmp_path / "in" / "lines.png", (0, 1), {"a": [0, 1], "b": [NAN, 0]}, "t", ("x", "y"))
    histograms_picture(tmp_path / "histograms.png", panels, "t", 2)
    first = {name: tmp_path.joinpath(name).read_bytes() for name in ("in/lines.png", "histograms.png")}
    for name in first:
        with image.open(tmp_path / name) as picture:
            assert len(picture.convert("RGB").getcolors(10**6)) > 10, f"{name} is blank"
    lines_picture(tmp_path / "in" / "lines.png", (0, 1), {"a": [0, 1], "b": [NAN, 0.5]}, "t", ("x", "y"))
    histograms_picture(
        tmp_path / "histograms.png", {"jaw": {"a": one, "b": 2 * other}, "smile": {"a": other, "b": one}}, "t", 2
    )
    assert all(tmp_path.joinpath(name).read_bytes() != before for name, before in first.items()), "a number that changes shows"


def test_sheet_shows_its_pictures_in_rows(tmp_path):
    image = pytest.importorskip("PIL.Image")
    cells = torch.tensor([-1.0, 0.0, 1.0])[:, None, None, None].expand(3, 3, 8, 8)
    sheet_picture(tmp_path / "sheet.png", cells, 2, ["", "two\nlines", ""], cell=16)
    with image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (40, 2 * (20 + 24))
        assert [sheet.getpixel(at)[0] for at in ((8, 8), (28, 8), (8, 52))] == [0, 128, 255]
