"""Clips, sheets and measured likeness in a real ComfyUI."""

import math

import pytest
import torch

from landmark_sets import face, landmarks, scores
from rig.pack import the_pack


@pytest.fixture(scope="module")
def pack():
    return the_pack()


@pytest.fixture(scope="module")
def starter(pack):
    return pack.run("DeepExPoLoadDSID", dsid_name="photo-dsid.safetensors")


@pytest.fixture(scope="module")
def clip(pack):
    """24 frames of a head that turns evenly, seen with a tremble."""
    draw = torch.Generator().manual_seed(0)
    tremble = torch.randn(24, 2, generator=draw)
    frames = [
        [face(scores(jawOpen=0.4 + 0.05 * float(jaw)), angles=(n + float(turn), 0.0, 0.0))]
        for n, (jaw, turn) in enumerate(tremble)
    ]
    return pack.run("DeepExPoEncodeSemantics", landmarks=landmarks(*frames))


def samples(pack, which: str):
    return pack.run("DeepExPoSampleFace", which=which)


def person(pack, starter, which: str):
    return pack.run("DeepExPoEncodeIdentity", dsid=starter, image=samples(pack, which))


def test_smoothing_says_how_much_jitter_it_took(pack, clip):
    jitter = pack.module("deepexpo_models.dsid").jitter
    smooth, said, count = pack.run("DeepExPoSmoothSemantics", semantics=clip, strength=0.7)
    assert count == 24
    was, now = jitter(clip), jitter(smooth)
    assert all(now[part] < 0.5 * was[part] for part in was)
    assert f"{was['rotation']:.2f} -> {now['rotation']:.2f} degrees" in said and "24 frames" in said
    assert smooth.openings.shape == clip.openings.shape and not torch.equal(smooth.openings, clip.openings)


def test_smoothing_shows_a_plot(pack, clip):
    node = pack.loaded.nodes["DeepExPoSmoothSemantics"]
    shown = node.execute(semantics=clip, strength=0.5, frames_per_second=25.0).ui
    assert len(shown["images"]) == 1 and shown["text"][0].startswith("jitter of 24 frames")


def test_smoothing_takes_codes_of_a_dsid(pack, starter):
    codes = pack.run("DeepExPoEncodeSemantics", dsid=starter, image=samples(pack, "all references"))
    smooth, said, _ = pack.run("DeepExPoSmoothSemantics", semantics=codes, strength=1.0)
    assert smooth.expression.shape == codes.expression.shape and not torch.equal(smooth.expression, codes.expression)
    assert smooth.encoder == codes.encoder and "5 frames" in said


def test_a_sheet_of_people_and_references(pack, starter):
    people = [person(pack, starter, name) for name in ("person_1", "person_2")]
    looks = pack.run("DeepExPoEncodeSemantics", dsid=starter, image=samples(pack, "all references"))
    more = pack.run("DeepExPoEncodeSemantics", dsid=starter, image=samples(pack, "laughing"))
    given = {"identity": people[0], "identity_2": people[1], "semantics": looks, "semantics_3": more, "columns": "references"}
    identity, semantics, count, columns, sheet = pack.run("DeepExPoPairSheet", **given, identity_names="Ann, Bea")
    assert (count, columns, len(identity.embedding), len(semantics.expression)) == (12, 6, 12, 12)
    assert torch.equal(identity.embedding[6], people[1].embedding[0])
    assert torch.equal(semantics.expression[11], more.expression[0])
    assert sheet.rows == ("Ann", "Bea") and sheet.columns[5] == "reference 6"
    drawn = pack.run("DeepExPoDrawSheet", image=torch.rand(12, 32, 48, 3), sheet=sheet, cell=64)
    assert drawn.shape[0] == 1 and drawn.shape[2] > 6 * 64 and 0 <= drawn.min() and drawn.max() <= 1


def test_a_sheet_of_presets_and_of_slider_steps(pack, starter):
    who = person(pack, starter, "person_1")
    presets = pack.run("DeepExPoPairSheet", identity=who, columns="presets", presets="none, Happy,\nsad,")
    assert presets[2:4] == (3, 3) and presets[4].columns == ("none", "happy", "sad")
    units = pack.module("deepexpo_models.head.expressions").preset_units
    torch.testing.assert_close(presets[1].expression[1], units("happy"))
    yaw = pack.run("DeepExPoPairSheet", identity=who, columns="slider", slider="yaw", slider_from=-30.0, slider_to=30.0)
    assert yaw[4].columns == ("yaw -30", "yaw -15", "yaw 0", "yaw 15", "yaw 30")
    rotation = pack.module("deepexpo_models.dsid.rotation")
    angles = rotation.matrix_to_euler(rotation.rotation_to_matrix(yaw[1].rotation))[:, 0]
    torch.testing.assert_close(angles, torch.tensor([-30.0, -15.0, 0.0, 15.0, 30.0]), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "inputs, words",
    [
        ({"columns": "references"}, "no semantics is connected to Pair Sheet"),
        ({"columns": "presets", "presets": "happy, grumpy"}, "there is no expression 'grumpy'; choose one of none, happy"),
        ({"columns": "presets", "presets": " , "}, "no expression is named; write some of none, happy"),
        ({"columns": "slider", "column_names": "a, b"}, "2 names are given for 5 columns; give one for each"),
    ],
)
def test_bad_sheets_are_one_sentence(pack, starter, inputs, words):
    with pytest.raises(ValueError, match=words) as caught:
        pack.run("DeepExPoPairSheet", identity=person(pack, starter, "person_1"), **inputs)
    assert "\n" not in str(caught.value)


def test_a_sheet_of_another_number_of_pictures_is_refused(pack, starter):
    sheet = pack.run("DeepExPoPairSheet", identity=person(pack, starter, "person_1"), columns="slider")[4]
    with pytest.raises(ValueError, match="1 rows and 5 columns, which are 5 pictures, but 4 are connected"):
        pack.run("DeepExPoDrawSheet", image=torch.rand(4, 32, 32, 3), sheet=sheet)
    with pytest.raises(ValueError, match="the sheet has 5 pictures, but 4 are connected to Measure"):
        measure(pack, image=samples(pack, "all references")[:4], sheet=sheet)


def test_too_many_pairs_are_refused(pack, starter):
    codes = pack.module("deepexpo_models.dsid")
    who, look = person(pack, starter, "person_1"), codes.arkit_semantics(torch.zeros(300, 52))
    with pytest.raises(ValueError, match="1 identities with 300 expressions are 300 pictures, at most 256"):
        pack.run("DeepExPoPairSheet", identity=who, columns="references", semantics=look)


def measure(pack, judges: tuple[str, str] = ("heads", "heads"), **inputs):
    return pack.run("DeepExPoMeasure", identity_judge=judges[0], expression_judge=judges[1], **inputs)


def test_the_same_photo_is_kept_and_its_reference_leaks(pack):
    """person_1's own picture, then the reference's picture itself as what was made."""
    who, look = samples(pack, "person_1"), samples(pack, "turned")
    report, kept, leaked, expression, pose, plot = measure(pack, image=who, identity=who, reference=look)
    assert kept == pytest.approx(1, abs=1e-4) and leaked == pytest.approx(0, abs=1e-4) and pose > 20 and expression > 0
    assert report.count("our judge of rendered heads") == 4 and "the identity photo itself" in report and plot.shape[-1] == 3
    copied = measure(pack, image=look, identity=who, reference=look)
    assert copied[1] < 0.7 and copied[2] == pytest.approx(1, abs=1e-4) and copied[3] < 1e-4 and copied[4] < 0.1


def test_a_sheet_is_measured_pair_by_pair(pack, starter):
    """What "was made" is the reference of each pair's column: expression and pose are met, whoever's row it is."""
    looks, people = samples(pack, "all references"), samples(pack, "all people")
    codes = pack.run("DeepExPoEncodeSemantics", dsid=starter, image=looks)
    rows = [pack.run("DeepExPoEncodeIdentity", dsid=starter, image=picture[None]) for picture in people]
    people_of = dict(zip(("identity", "identity_2", "identity_3", "identity_4"), rows, strict=True))
    sheet = pack.run("DeepExPoPairSheet", **people_of, semantics=codes, columns="references")[4]
    found = measure(pack, image=looks.repeat(4, 1, 1, 1), identity=people, reference=looks, sheet=sheet)
    assert found[2] == pytest.approx(1, abs=1e-3) and found[3] < 1e-3 and found[4] < 0.1
    with pytest.raises(ValueError, match="the sheet has 4 people, but 1 are connected to Measure"):
        measure(pack, image=looks.repeat(4, 1, 1, 1), identity=people[:1], reference=looks, sheet=sheet)


def test_without_a_reference_its_figures_are_not_known(pack):
    who = samples(pack, "person_2")
    report, kept, *rest, _ = measure(pack, image=who, identity=who)
    assert kept == pytest.approx(1, abs=1e-4) and all(map(math.isnan, rest)) and report.count("not known") == 3


def test_the_connected_dsid_judges_and_is_named(pack, starter):
    who, look = samples(pack, "person_1"), samples(pack, "laughing")
    report, kept, *_ = measure(pack, ("dsid", "dsid"), image=who, identity=who, reference=look, dsid=starter)
    assert kept == pytest.approx(1, abs=1e-4) and str(starter.encoder) in report


def test_connected_landmarks_are_the_judge(pack):
    smile = landmarks([face(scores(mouthSmile=0.8), angles=(20.0, 0.0, 0.0))])
    made = landmarks([face(scores(mouthSmile=0.8), angles=(10.0, 0.0, 0.0))], [])
    picture = samples(pack, "person_1")
    report, *_, expression, pose, _ = measure(
        pack, ("heads", "landmarks"), image=picture.repeat(2, 1, 1, 1), identity=picture, reference=picture,
        image_landmarks=made, identity_landmarks=landmarks([face()]), reference_landmarks=smile,
    )  # fmt: skip
    assert expression < 1e-4 and pose == pytest.approx(10, abs=0.1)
    assert "10.00 degrees (face landmarker" in report and report.count("no face in 1 of 2 pictures") == 2


def test_auto_goes_on_to_who_is_at_hand(pack, starter, monkeypatch):
    monkeypatch.setattr(pack.module("nodes.comfy_host.detectors"), "insightface_roots", list)
    monkeypatch.setattr(pack.module("nodes.comfy_host.landmarks"), "model_file", lambda name: None)
    who = samples(pack, "person_1")
    assert str(starter.encoder) in measure(pack, ("auto", "auto"), image=who, identity=who, dsid=starter)[0]
    assert "our judge of rendered heads" in measure(pack, ("auto", "auto"), image=who, identity=who)[0]


@pytest.mark.parametrize(
    "judges, words",
    [
        (("dsid", "heads"), r"nothing here can judge the identity of these pictures \(dsid: no DSID is connected\)"),
        (("heads", "landmarks"), r"nothing here can judge the expression .* is missing"),
        (("buffalo_l", "heads"), r"nothing here can judge the identity .*the face recogniser buffalo_l cannot be used"),
    ],
)
def test_a_judge_that_is_not_there_is_one_sentence(pack, judges, words):
    who = samples(pack, "person_1")
    with pytest.raises(ValueError, match=words) as caught:
        measure(pack, judges, image=who, identity=who)
    assert "\n" not in str(caught.value)


def test_pictures_and_references_of_other_numbers_are_refused(pack):
    looks = samples(pack, "all references")
    with pytest.raises(ValueError, match="3 references cannot be compared with 5 pictures; give one, or one for each"):
        measure(pack, image=looks, reference=looks[:3])


def test_a_photo_without_a_face_is_named(pack):
    empty = torch.zeros(1, 128, 128, 3)
    with pytest.raises(ValueError, match="no face in picture 1 of 1 of identity"):
        measure(pack, image=samples(pack, "person_1"), identity=empty)


def raising(error: BaseException):
    def call(*_, **__):
        raise error

    return call


@pytest.mark.parametrize("name", ["dsid", "heads", "landmarks", "buffalo_l"])
@pytest.mark.parametrize("kind", ["InterruptProcessingException", "OutOfMemoryError", "MemoryError", "KeyError"])
def test_only_a_missing_or_unfit_judge_is_passed_over(pack, starter, monkeypatch, name, kind):
    """Whoever judges: a cancelled run ends, and what ComfyUI itself answers (memory) or what is a mistake of ours comes out."""
    import comfy.model_management as management

    judges, cancelled = pack.module("nodes.comfy_host.judges"), management.InterruptProcessingException
    errors = (cancelled, torch.cuda.OutOfMemoryError, MemoryError, KeyError)
    error = next(error for error in errors if error.__name__ == kind)
    opens = {"dsid": "_by_dsid", "heads": "_heads_judge", "landmarks": "landmarks_of", "buffalo_l": "face_recogniser"}
    monkeypatch.setattr(judges, opens[name], raising(error()))
    chosen = (name, name) if name in judges.EXPRESSION_JUDGES else (name, "heads")
    if name == "landmarks":
        chosen = ("heads", name)
    with pytest.raises(error):
        measure(pack, chosen, image=samples(pack, "person_1"), dsid=starter)


def test_a_judge_of_both_looks_once_at_each_picture(pack, starter, monkeypatch):
    judges, seen = pack.module("nodes.comfy_host.judges"), []
    look = judges._by_dsid
    monkeypatch.setattr(judges, "_by_dsid", lambda dsid, image: seen.append(image) or look(dsid, image))
    given = {"image": samples(pack, "all references"), "identity": samples(pack, "person_1")}
    measure(pack, ("dsid", "dsid"), **given, dsid=starter)
    assert [len(image) for image in seen] == [5, 1]


def test_of_several_faces_the_largest_is_measured(pack, monkeypatch):
    """As landmarkers do, the stand-in gives its most certain faces first, and no more than it is asked for."""
    small = face(angles=(30.0, 0.0, 0.0), scale=4.0)
    found = {1: [small, face()], 2: [face()]}

    def landmarker(images, most, confidence):
        return landmarks(*(found[len(images)][: most or None] for _ in images))

    monkeypatch.setattr(pack.module("nodes.comfy_host.judges"), "landmarks_of", landmarker)
    picture = samples(pack, "person_1")
    *_, pose, _ = measure(pack, ("heads", "landmarks"), image=picture.repeat(2, 1, 1, 1), identity=picture, reference=picture)
    assert pose == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("role", ["image", "identity", "reference"])
def test_landmarks_of_other_pictures_are_refused(pack, role):
    given = dict.fromkeys(("image", "identity", "reference"), samples(pack, "person_1"))
    for chosen in ("auto", "landmarks"):
        with pytest.raises(ValueError, match=f"^the landmarks of {role} are of 2 pictures, and 1 are connected; connect"):
            measure(pack, ("heads", chosen), **given, **{f"{role}_landmarks": landmarks([face()], [face()])})
