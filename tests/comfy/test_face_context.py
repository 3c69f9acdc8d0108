"""Identity to ControlNet: InstantID's ControlNet reads the face's tokens, whatever stands before, beside or behind it."""

import pytest
import torch

import public_adapters as published
from imported import Imported
from rig.models import conditioning, controlnet_twin, diffusers_twin, latents, predict_noise, tiny_controlnet, twin_noise
from rig.pack import the_pack
from studio import Studio, same

HINT = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio("sdxl")


@pytest.fixture(scope="module")
def instantid() -> Imported:
    return Imported("instantid", "sdxl")


@pytest.fixture(scope="module")
def control(studio):
    return tiny_controlnet(studio.family)


def controlled(control, positive, negative, strength=0.8, hint=HINT):
    import nodes

    return nodes.ControlNetApplyAdvanced().apply_controlnet(positive, negative, control, hint, strength, 0.0, 1.0)


def seen(instantid, sides, code):
    return the_pack().run("DeepExPoIdentityToControlNet", positive=sides[0], negative=sides[1], meaf=instantid.meaf, **code)


def noise(model, sides, noisy=None, cfg=3.0):
    return predict_noise(model, latents() if noisy is None else noisy, 500, *sides, cfg=cfg)


def row_of(code, row: int):
    rows = slice(row, row + 1)
    return type(code)(code.embedding[rows], code.encoder, code.norm[rows])


@torch.no_grad()
def test_equals_the_published_pipeline(studio, instantid, control):
    """Resampled tokens beside the text in the U-Net, and in its place in the ControlNet; zeros' tokens where no face is."""
    codes, tokens = instantid.codes(batch=1)
    nobody = instantid.tokens(torch.zeros(1, 512))
    texts = studio.positive, studio.negative
    sides = seen(instantid, controlled(control, *texts), codes)
    model = instantid.apply(studio.model, **codes)
    alone, both = noise(model, sides, cfg=1.0), noise(model, sides)
    twin = diffusers_twin(studio.model)
    net = controlnet_twin(control, twin, studio.model.model.model_config.unet_config)
    expected = []
    for text, face in zip(texts, (tokens, nobody)):
        published.attach_reference(twin, instantid.file, face)
        given = {"encoder_hidden_states": face, "controlnet_cond": HINT.movedim(-1, 1), "conditioning_scale": 0.8}
        expected.append(twin_noise(twin, latents(), 500, text, net, **given))
    with_text = noise(model, controlled(control, *texts), cfg=1.0)
    print(f"max difference {(alone - expected[0]).abs().max():.2g}, effect {(alone - with_text).abs().max():.2g}")
    assert (alone - expected[0]).abs().max() < 1e-5 and (alone - with_text).abs().max() > 1e-3
    assert (both - (expected[1] + 3 * (expected[0] - expected[1]))).abs().max() < 3e-5, "rounding five times as large"


@torch.no_grad()
def test_before_apply_controlnet_it_acts_on_all_behind_it_on_that_one(studio, instantid, control):
    codes, texts, other = instantid.codes(batch=1)[0], (studio.positive, studio.negative), tiny_controlnet("sdxl", seed=8)
    behind, before = (
        noise(studio.model, sides)
        for sides in (
            seen(instantid, controlled(control, *texts), codes),
            controlled(control, *seen(instantid, texts, codes)),
        )
    )
    assert same(behind, before)
    text_only = controlled(other, *texts)
    beside = {
        "first": controlled(other, *seen(instantid, controlled(control, *texts), codes)),
        "second": seen(instantid, controlled(control, *text_only), codes),
        "all": controlled(other, *controlled(control, *seen(instantid, texts, codes))),
        "none": controlled(control, *text_only),
    }
    found = {name: noise(studio.model, sides) for name, sides in beside.items()}
    assert same(found["first"], found["second"]), "the other ControlNet keeps the text"
    assert not same(found["first"], found["all"]) and not same(found["first"], found["none"])


@torch.no_grad()
def test_inputs_are_untouched_and_the_last_identity_counts(studio, instantid, control):
    (first, _), (second, _) = instantid.codes(batch=1), instantid.codes(batch=2)
    dsid = the_pack().module("deepexpo_models.dsid")
    other = {
        "identity": dsid.Identity(second["identity"].embedding[1:], second["identity"].encoder, second["identity"].norm[1:])
    }
    sides = controlled(control, studio.positive, studio.negative)
    before = noise(studio.model, sides)
    once = seen(instantid, sides, first)
    again = noise(studio.model, seen(instantid, seen(instantid, sides, other), first))
    assert same(noise(studio.model, once), again)
    assert not same(again, noise(studio.model, seen(instantid, sides, other)))
    assert torch.equal(noise(studio.model, sides), before)


@torch.no_grad()
def test_two_nodes_share_a_control_and_neither_changes_it(studio, instantid, control):
    """What is before it in the chain is shared, too; each node's own copy alone has the chain taken off and the tokens."""
    code = instantid.codes(batch=2)[0]["identity"]
    texts = controlled(tiny_controlnet("sdxl", seed=8), studio.positive, studio.negative)
    sides = controlled(control, *texts)
    shared = sides[0][0][1]["control"]
    before = [dict(vars(part)) for part in (shared, shared.previous_controlnet)]
    both = [seen(instantid, sides, {"identity": row_of(code, row)}) for row in range(2)]
    found = [noise(studio.model, each) for each in both]
    assert [dict(vars(part)) for part in (shared, shared.previous_controlnet)] == before
    wrapped = [each[0][0][1]["control"] for each in both]
    assert len({id(own) for control in wrapped for own in (control.inner, shared)}) == 3
    assert not same(*found) and same(found[0], noise(studio.model, both[0]))


@torch.no_grad()
def test_a_batch_of_identities_is_one_per_latent(studio, instantid, control):
    (codes, _), sides = instantid.codes(batch=2), controlled(control, studio.positive, studio.negative)
    batch = noise(studio.model, seen(instantid, sides, codes), latents(batch=2))
    for row in range(2):
        one = {"identity": row_of(codes["identity"], row)}
        single = noise(studio.model, seen(instantid, sides, one), latents(batch=2)[row : row + 1])
        assert same(single, batch[row : row + 1])
    with pytest.raises(ValueError, match="2 identities for 3 latents; connect one, or set the batch size of the latent to 2"):
        noise(studio.model, seen(instantid, sides, codes), latents(batch=3))


@torch.no_grad()
def test_people_in_their_own_masks(studio, instantid, control):
    """Each has a text, a ControlNet and tokens in one half: what each half shows is what its person alone shows there."""
    import nodes

    code = instantid.codes(batch=2)[0]["identity"]
    halves = torch.zeros(2, 64, 64)
    halves[0, :, :32], halves[1, :, 32:] = 1, 1
    positive, alone = [], []
    for row, text in enumerate((studio.positive, conditioning("sdxl", 7))):
        one = {"identity": row_of(code, row)}
        side, negative = seen(instantid, controlled(control, text, studio.negative), one)
        alone.append(noise(studio.model, (side, negative), cfg=1.0))
        positive += nodes.ConditioningSetMask().append(side, halves[row : row + 1], "default", 1.0)[0]
    together = noise(studio.model, (positive, studio.negative), cfg=1.0)
    assert same(together[..., :4], alone[0][..., :4]) and same(together[..., 4:], alone[1][..., 4:])
    assert not same(alone[0], alone[1])


@torch.no_grad()
def test_the_old_apply_node_gives_the_negative_side_its_control(studio, instantid, control):
    import nodes

    code = instantid.codes(batch=1)[0]
    positive = nodes.ControlNetApply().apply_controlnet(studio.positive, control, HINT, 0.8)[0]
    old = seen(instantid, (positive, studio.negative), code)
    new = seen(instantid, controlled(control, studio.positive, studio.negative), code)
    assert same(noise(studio.model, old), noise(studio.model, new))


@torch.no_grad()
def test_outside_its_steps_the_control_is_off(studio, instantid, control):
    import nodes

    sides = nodes.ControlNetApplyAdvanced().apply_controlnet(studio.positive, studio.negative, control, HINT, 0.8, 0.0, 0.1)
    late = noise(studio.model, seen(instantid, sides, instantid.codes(batch=1)[0]))
    assert same(late, noise(studio.model, (studio.positive, studio.negative)))


def test_a_control_can_be_copied_to_another_device(control):
    context = the_pack().module("nodes.comfy_host.face_context")
    one = context.FaceControl(control.set_cond_hint(HINT.movedim(-1, 1)), "name")
    assert one.copy().name == "name" and one.copy().inner.control_model is control.control_model
    if hasattr(control, "deepclone_multigpu"):
        clone = one.deepclone_multigpu(torch.device("cpu"), autoregister=True)
        assert one.get_instance_for_device(torch.device("cpu")) is clone and len(one.get_models()) == 2


def test_mismatches_are_refused_in_one_sentence(studio, instantid, control):
    (codes, _), texts = instantid.codes(batch=1), (studio.positive, studio.negative)
    expression = Imported("arc2face-expression", "sd15")
    with pytest.raises(ValueError, match="makes no identity tokens that can stand in the text's place; load one such"):
        seen(expression, texts, codes)
    with pytest.raises(ValueError, match=r"public encoder 'buffalo_l'.*public encoder 'antelopev2'"):
        seen(instantid, texts, Imported("faceid", "sd15").codes(batch=1)[0])
    network = control.control_model
    wide = torch.nn.Module()
    wide.attn2 = torch.nn.ModuleDict({"to_k": torch.nn.Linear(768, 8)})
    control.control_model = wide
    try:
        with pytest.raises(ValueError, match="reads tokens of 768 numbers, those of MEAF 'instantid' have 24"):
            seen(instantid, controlled(control, *texts), codes)
    finally:
        control.control_model = network
