"""Whose each row of a U-Net call is, whoever calls: the batch repeated, reordered, split, cropped or replaced on the way.

docs/callers.md is the table of them.
"""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from rig.cost import in_windows
from rig.host import extra_nodes
from rig.models import conditioning, latents, predict_noise, sample
from studio import Studio, same

SIZES = ("light", "control", "full")
HALF = torch.zeros(1, 64, 64)
HALF[..., :32] = 1


@pytest.fixture(scope="module", params=SIZES)
def studio(request) -> Studio:
    return Studio("sd15", request.param)


@pytest.fixture(scope="module")
def light() -> Studio:
    return Studio("sd15")


# ---- around the model function -------------------------------------------------------------------------------------------


def chosen(args: dict, rows: list[int]) -> tuple:
    """The call with these rows of the batch. Options stay as they are: they tell of the batch that it was."""
    x, t, c = args["input"], args["timestep"], args["c"]
    pick = {name: value[rows] if torch.is_tensor(value) and len(value) == len(x) else value for name, value in c.items()}
    return x[rows], t[rows], pick


def reversed_rows(apply, args):
    order = list(range(len(args["input"])))[::-1]
    x, t, c = chosen(args, order)
    return apply(x, t, **c)[order]


def interleaved_rows(apply, args):
    count = len(args["input"])
    order = [*range(0, count, 2), *range(1, count, 2)]
    x, t, c = chosen(args, order)
    back = [order.index(row) for row in range(count)]
    return apply(x, t, **c)[back]


def one_row_at_a_time(apply, args):
    parts = [chosen(args, [row]) for row in range(len(args["input"]))]
    return torch.cat([apply(x, t, **c) for x, t, c in parts])


def repeated_rows(apply, args):
    order = [row for row in range(len(args["input"])) for _ in range(1 + row % 3)]
    x, t, c = chosen(args, order)
    out = apply(x, t, **c)
    return out[[order.index(row) for row in range(len(args["input"]))]]


def longer_texts(apply, args):
    """A pack appends tokens of its own; here zeros, which the U-Net's keys nearly ignore, so only the row matters."""
    x, t, c = args["input"], args["timestep"], args["c"]
    return apply(x, t, **{**c, "c_crossattn": torch.cat([c["c_crossattn"], c["c_crossattn"]], dim=1)})


AROUND = {f.__name__: f for f in (reversed_rows, interleaved_rows, one_row_at_a_time, repeated_rows, longer_texts)}


def wrapped(model, function):
    model = model.clone()
    model.set_model_unet_function_wrapper(function)
    return model


@pytest.mark.parametrize("codes", ["one code", "a code per latent", "a mask per latent"])
@pytest.mark.parametrize("name", AROUND)
def test_a_batch_rearranged_around_the_model(studio, name, codes):
    inputs = {}
    if codes == "a code per latent":
        inputs["identity"], inputs["semantics"] = studio.codes(3, batch=3)
    if codes == "a mask per latent":
        inputs["mask"] = torch.cat([HALF, 1 - HALF, torch.ones_like(HALF)])
    noise, model = latents(batch=3, height=4, width=4), studio.apply(**inputs)
    assert same(studio.sample(wrapped(model, AROUND[name]), noise=noise), studio.sample(model, noise=noise))


def test_texts_that_a_pack_replaces_keep_their_place(light):
    """As ELLA does: the words change, the batch does not, and the host's own statement stands."""

    def replaced(apply, args):
        return apply(args["input"], args["timestep"], **{**args["c"], "c_crossattn": args["c"]["c_crossattn"] * 1.5})

    noise = latents(batch=2, height=4, width=4)
    on, off = (light.sample(wrapped(model, replaced), noise=noise) for model in (light.apply(), light.model))
    assert not same(on, off)


def test_equal_texts_in_another_order_are_left_alone(light, caplog):
    """Positive and negative prompt are the same words, and the batch was split: nothing tells them apart."""
    text = conditioning("sd15", 1)
    noise = latents(height=4, width=4)

    def run(model):
        return sample(model, text, text, noise=noise)

    caplog.clear()
    unknown = run(wrapped(light.apply(), one_row_at_a_time))
    assert same(unknown, run(light.model))
    assert caplog.text.count("DeepExPo is skipped") == 1
    assert not same(run(light.apply()), run(light.model))  # unsplit, the host's statement tells


def test_tiles_are_found_in_the_picture(light):
    """Packs that draw in tiles send crops of the latents, of which nothing tells the place."""
    mask = torch.zeros(1, 128, 128)
    mask[..., :64] = 1
    noisy = latents(height=16, width=16)

    def tiled(apply, args):
        x, out = args["input"], torch.empty_like(args["input"])
        for left in (0, 8):
            out[..., left : left + 8] = apply(x[..., left : left + 8].contiguous(), args["timestep"], **args["c"])
        return out

    on, off, masked = (
        predict_noise(wrapped(model, tiled), noisy, 500, light.positive)
        for model in (light.apply(), light.model, light.apply(mask=mask))
    )
    assert same(masked[..., :8], on[..., :8]) and same(masked[..., 8:], off[..., 8:])


# ---- inside the attention ------------------------------------------------------------------------------------------------


def couple(model, times, order=None, other_texts=False):
    """An attention-couple pack: times(role) repeats of each chunk, averaged after it; order: of the chunks while inside."""

    def before(q, k, v, extra):
        roles = extra["cond_or_uncond"]
        chunks = list(zip(*(x.chunk(len(roles)) for x in (q, k, v)), roles))
        rows = []
        for i in order or range(len(roles)):
            for n in range(times(roles[i])):
                context = [x * (1 + 0.1 * n) if other_texts and n else x for x in chunks[i][1:3]]
                rows.append((chunks[i][0], *context))
        return tuple(torch.cat(parts) for parts in zip(*rows))

    def after(out, extra):
        roles = extra["cond_or_uncond"]
        counts = [times(roles[i]) for i in order or range(len(roles))]
        rows = len(out) // sum(counts)
        means = [part.unflatten(0, (n, rows)).mean(0) for part, n in zip(out.split([n * rows for n in counts]), counts)]
        return torch.cat([means[(order or list(range(len(roles)))).index(i)] for i in range(len(roles))])

    model = model.clone()
    model.set_model_attn2_patch(before)
    model.set_model_attn2_output_patch(after)
    return model


COUPLES = {
    "positive per region": {"times": lambda role: 3 if role == 0 else 1},
    "negative per region": {"times": lambda role: 2 if role == 1 else 1},
    "chunks exchanged": {"times": lambda role: 1, "order": [1, 0]},
    "exchanged and repeated": {"times": lambda role: 4 - role, "order": [1, 0]},
}


@pytest.mark.parametrize("latent_codes", [False, True])
@pytest.mark.parametrize("name", COUPLES)
def test_a_batch_rearranged_inside_the_attention(studio, name, latent_codes):
    inputs = dict(zip(("identity", "semantics"), studio.codes(3, batch=2))) if latent_codes else {"mask": HALF}
    noise = latents(batch=2, height=4, width=4)
    wanted = studio.sample(studio.apply(**inputs), noise=noise)
    for model in (
        couple(studio.apply(**inputs), **COUPLES[name]),
        studio.apply(couple(studio.model, **COUPLES[name]), **inputs),
    ):
        assert same(studio.sample(model, noise=noise), wanted)


def test_regions_with_words_of_their_own(light, caplog):
    """Before the first text attention both sides' queries are equal, and a region's words are in no prompt: that layer's
    rows stay open until later layers have shown the pattern. No side is given the other's tokens."""
    settings = {"times": lambda role: 3 if role == 0 else 1, "other_texts": True}
    on, off = (light.sample(couple(model, **settings), steps=3) for model in (light.apply(), light.model))
    assert not same(on, off) and "skipped" not in caplog.text


# ---- nothing stays -------------------------------------------------------------------------------------------------------


class OutOfMemory(Exception):
    pass


def broken(function, at: int, error: BaseException):
    calls = []

    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            raise error
        return function(*args, **kwargs)

    return call


PLACES = [
    ("nodes.comfy_host.patch", "read_rows"), ("nodes.comfy_host.patch", "join_branches"),
    ("nodes.comfy_host.branch", "_residuals"), ("nodes.comfy_host.branch", "_joins"), ("nodes.comfy_host.branch", "_last_join"),
    ("nodes.comfy_host.branch", "_added"), ("nodes.comfy_host.sampling", "lay_out"),
    ("nodes.comfy_host.sampling", "resize_mask"), ("nodes.comfy_host.sampling", "window_latents"),
]  # fmt: skip


def pair(first: str, second: str):
    studio = Studio("sd15", first)
    return studio, studio.apply(studio.apply(mask=HALF), meaf=studio.pack.meaf("sd15", second), mask=1 - HALF)


@pytest.mark.parametrize(
    "sizes", [(size, size) for size in SIZES] + [("full", "control"), ("control", "full"), ("light", "full")]
)
def test_an_error_anywhere_leaves_nothing(sizes, monkeypatch):
    """The next patched and unpatched pictures are bit-equal to those before, whatever failed where, and how often."""
    import comfy.model_management

    studio, patched = pair(*sizes)
    settings = {"noise": latents(height=4, width=4), "steps": 1}
    wanted, plain = studio.sample(patched, **settings), studio.sample(studio.model, **settings)
    unet, failed = studio.model.model.diffusion_model, 0
    interrupt = comfy.model_management.InterruptProcessingException()
    for place, name in PLACES:
        module = studio.pack.module(place)
        for at, error in ((1, OutOfMemory("of the test")), (2, interrupt), (3, KeyboardInterrupt())):
            with monkeypatch.context() as patch, contextlib.suppress(OutOfMemory, type(interrupt), KeyboardInterrupt):
                patch.setattr(module, name, broken(getattr(module, name), at, error))
                studio.sample(patched, **settings)
                continue
            failed += 1
            assert not any(m._forward_pre_hooks or m._forward_hooks for m in unet.modules()), (place, name, at)
            assert "deepexpo" not in repr(patched.model_options["transformer_options"].keys())
            assert torch.equal(studio.sample(studio.model, **settings), plain), (place, name, at)
    assert torch.equal(studio.sample(patched, **settings), wanted) and failed > 8


# ---- what cannot be used -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_strength_that_is_no_number_is_refused(light, value):
    with pytest.raises(ValueError, match=r"a strength of -?(nan|inf) cannot be used; set one from 0 to 3"):
        light.apply(identity_strength=value)


def test_strengths_beyond_the_widget_are_its_ends(light, caplog):
    assert torch.equal(light.sample(light.apply(pose_strength=1e6)), light.sample(light.apply(pose_strength=3.0)))
    assert "the pose strength is 1e+06; DeepExPo uses 3" in caplog.text
    assert torch.equal(light.sample(light.apply(pose_strength=-5.0)), light.sample(light.apply(pose_strength=0.0)))


@pytest.mark.parametrize("mask", [torch.full((1, 8, 8), float("nan")), torch.full((1, 8, 8), float("inf"))])
def test_a_mask_that_is_no_number_is_refused(light, mask):
    with pytest.raises(ValueError, match="NaN or infinite"):
        light.apply(mask=mask)


@pytest.mark.parametrize("shape", [(1, 0, 0), (0, 8, 8), (8,), (1, 8, 8, 3)])
def test_a_mask_that_is_none_is_refused(light, shape):
    with pytest.raises(ValueError, match="has the shape"):
        light.apply(mask=torch.zeros(shape))


def test_masks_are_clamped(light):
    assert torch.equal(light.sample(light.apply(mask=HALF * 50)), light.sample(light.apply(mask=HALF)))
    assert torch.equal(light.sample(light.apply(mask=HALF - 1)), light.sample(light.model))


# ---- areas, sizes, clips -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["area", "percentage", "mask bounds"])
def test_masks_are_cropped_with_an_area(studio, where):
    import nodes

    height, width = 8, 16
    left = torch.zeros(1, 8 * height, 8 * width)
    left[..., : 4 * width] = 1
    prompt = conditioning("sd15", 1)
    positive = {
        "area": lambda: nodes.ConditioningSetArea().append(prompt, 4 * width, 8 * height, 0, 0, 1.0),
        "percentage": lambda: nodes.ConditioningSetAreaPercentage().append(prompt, 0.5, 1.0, 0.0, 0.0, 1.0),
        "mask bounds": lambda: nodes.ConditioningSetMask().append(prompt, left, "mask bounds", 1.0),
    }[where]()[0]
    noisy = latents(height=height, width=width)
    off, on, outside, inside = (
        predict_noise(model, noisy, 500, positive)[..., : width // 2]
        for model in (studio.model, studio.apply(), studio.apply(mask=1 - left), studio.apply(mask=left))
    )
    assert torch.equal(outside, off) and same(inside, on) and not same(on, off)


def test_an_area_that_hangs_over_the_edge(studio):
    """The U-Net sees what of it is in the picture; so do masks: the mask's edge stays where it is. In a flat picture no pixel
    tells where a crop lies."""
    import nodes

    height, width = 8, 16
    left = torch.zeros(1, 8 * height, 8 * width)
    left[..., : 6 * width] = 1  # of the visible half the first half
    prompt = conditioning("sd15", 1)
    positive = nodes.ConditioningSetArea().append(prompt, 8 * width, 8 * height, 4 * width, 0, 1.0)[0]
    noisy = torch.full_like(latents(height=height, width=width), 0.5)
    inside = nodes.ConditioningSetArea().append(prompt, 4 * width, 8 * height, 4 * width, 0, 1.0)[0]
    for model in (studio.apply(), studio.apply(mask=left), studio.apply(mask=1 - left)):
        over, exact = (predict_noise(model, noisy, 500, given)[..., width // 2 :] for given in (positive, inside))
        assert same(over, exact)
    on, off = (predict_noise(model, noisy, 500, positive) for model in (studio.apply(mask=left), studio.model))
    assert not same(on[..., width // 2 :], off[..., width // 2 :])


def test_two_areas_of_one_size_in_one_call(studio):
    import nodes

    height, width = 8, 16
    halves = [
        nodes.ConditioningSetArea().append(conditioning("sd15", seed), 4 * width, 8 * height, x, 0, 1.0)[0]
        for seed, x in ((1, 0), (9, 4 * width))
    ]
    left = torch.zeros(1, 8 * height, 8 * width)
    left[..., : 4 * width] = 1
    noisy = latents(height=height, width=width)
    off, on, masked = (
        predict_noise(model, noisy, 500, halves[0] + halves[1])
        for model in (studio.model, studio.apply(), studio.apply(mask=left))
    )
    assert same(masked[..., :8], on[..., :8]) and same(masked[..., 8:], off[..., 8:])


@pytest.mark.parametrize(("block", "factor"), [(3, 2.0), (3, 1.5), (1, 2.0), (7, 2.0)])
def test_beside_deep_shrink(studio, block, factor, caplog):
    node = extra_nodes("nodes_model_downscale").PatchModelAddDownscale

    def shrunk(model):
        return node.execute(model, block, factor, 0.0, 1.0, True, "bicubic", "bicubic").args[0]

    noisy = latents(height=8, width=16)
    alone = studio.noise(shrunk(studio.model), noisy=noisy)
    one, two = (studio.noise(model, noisy=noisy) for model in (shrunk(studio.apply()), studio.apply(shrunk(studio.model))))
    assert same(one, two) and not same(one, alone) and "could not be applied" not in caplog.text
    off = studio.apply(shrunk(studio.model), identity_strength=0.0, expression_strength=0.0, pose_strength=0.0)
    assert torch.equal(studio.noise(off, noisy=noisy), alone)


def test_what_is_kept_grows_with_the_window_not_the_clip(light):
    kept = {}
    for frames in (6, 12, 24):
        model, found = in_windows(light, frames, 3)
        light.sample(model, noise=latents(batch=frames, height=4, width=4), steps=1)
        kept[frames] = max(found)
    assert kept[6] == kept[12] == kept[24] > 0


# ---- reading rows, without a U-Net ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "order", "latents_read"),
    [
        ({}, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
        ({"ad_params": {"sub_idxs": [3, 4]}}, [3, 4], [3, 4]),
        ({"ad_params": {"sub_idxs": None}}, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
        ({"ad_params": {"sub_idxs": [0, 1, 2]}}, [3, 4], [3, 4]),  # not of this call: the pixels tell
        ({}, [4, 2], [4, 2]),
    ],
)
def test_latents_of_a_window(light, options, order, latents_read):
    rows, full = light.pack.module("nodes.comfy_host.rows"), latents(batch=5)
    assert list(rows.window_latents(options, full[order], full)) == latents_read
    blurred = full[order] + 1  # changed on the way: what is stated stands, else nothing is known
    stated = options.get("ad_params", {}).get("sub_idxs") or (range(5) if len(order) == 5 else None)
    wanted = list(stated) if stated is not None and len(stated) == len(order) else [None] * len(order)
    assert list(rows.window_latents(options, blurred, full)) == wanted


def test_equal_latents_are_told_apart_by_the_statement_only(light):
    rows, full = light.pack.module("nodes.comfy_host.rows"), latents(batch=3)[[0, 1, 0]]
    assert list(rows.window_latents({}, full, full)) == [0, 1, 2]
    assert list(rows.window_latents({}, full[[0, 1]], full)) == [None, 1]
    assert list(rows.window_latents({"ad_params": {"sub_idxs": [2, 1]}}, full[[2, 1]], full)) == [2, 1]


@pytest.mark.parametrize(
    ("window", "shown"),
    [
        ({"index_list": [1, 2]}, [1, 2]),
        ({"index_list": [1, 2], "causal_anchor_index": 0}, [0, 1, 2]),
        ({"index_list": [1, 2], "causal_anchor_index": -1}, [1, 2]),
        ({"index_list": [1, 2], "guide_frames_indices": [1, 0]}, [1, 2, 5, 4]),
        ({"index_list": [1, 2], "causal_anchor_index": 0, "guide_frames_indices": [1]}, [0, 1, 2, 5]),
    ],
)
def test_the_statement_of_a_window_of_comfyui(light, window, shown):
    """As ComfyUI 0.33 builds it: an anchor before the frames, guides after them, which lie behind the frames of the whole. Of
    latents that were changed on the way the statement alone tells which they are."""
    rows, full = light.pack.module("nodes.comfy_host.rows"), latents(batch=6)
    options = {"context_window": SimpleNamespace(dim=0, total_frames=4, **window)}
    assert list(rows.window_latents(options, full[shown] + 1, full)) == shown
    along_time = {"context_window": SimpleNamespace(dim=2, total_frames=4, **window)}
    assert list(rows.window_latents(along_time, full[shown] + 1, full)) == [None] * len(shown)


def test_whose_a_conditioning_is_its_guider_says_by_name(light):
    """The names of ComfyUI's guiders and of other packs'; a name that says nothing is a positive one's."""
    names = ["positive", "middle", "cond", "negative", "neg", "uncond", "empty_negative_prompt", "empty"]
    sides = light.pack.module("nodes.comfy_host.sampling").sides_by_uuid
    assert sides({name: [{"uuid": name}, {}] for name in names}) == dict(zip(names, ["cond"] * 3 + ["uncond"] * 5))
