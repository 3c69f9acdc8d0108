"""The starter: its sizes, its vocabulary on the real tokenizer, its file."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deepexpo_models.data.heads.captions import CAPTION_WORDS
from deepexpo_models.meaf.sites import unet_sites
from deepexpo_models.starter import (
    FILE_KIND,
    STARTER,
    StarterConfig,
    build_vocabulary,
    load_starter_tensors,
    save_starter_tensors,
    write_tokenizer,
)
from deepexpo_models.starter import diffusers_host as host
from deepexpo_models.starter.vocabulary import END, START, tokens
from deepexpo_models.weights import save_tensors

CONFIG = replace(STARTER, merges=build_vocabulary(CAPTION_WORDS))
TENSORS = {"unet": {"a.b": torch.ones(2)}, "vae": {"a.b": torch.zeros(3)}, "text_encoder": {"c": torch.ones(1).half()}}


@pytest.fixture(scope="module")
def parts() -> host.StarterParts:
    return host.build_starter(CONFIG)


def tokenizer(folder: Path, merges: tuple[str, ...]):
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(write_tokenizer(folder, merges, 77))


def test_config_survives_json():
    assert StarterConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG


@pytest.mark.parametrize(
    "change, sentence",
    [({"unet_channels": (64, 100)}, "a width of 100 channels is no multiple of 32"),
     ({"prediction": "sample"}, "prediction is 'sample'; choose epsilon or v_prediction")],
)  # fmt: skip
def test_unusable_configs_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(STARTER, **change)


def test_configs_of_another_version_are_refused():
    values = CONFIG.to_dict()
    for changed in ({**values, "new": 1}, {name: values[name] for name in list(values)[1:]}):
        with pytest.raises(ValueError, match="not a usable starter config"):
            StarterConfig.from_dict(changed)


def test_sizes(parts):
    """Small enough for a repository and a CPU; the picture is 8 times the latent, as ComfyUI's empty latents are."""
    count = {n: sum(p.numel() for p in getattr(parts, n).parameters()) for n in ("unet", "vae", "text_encoder")}
    assert sum(count.values()) < 8e6, count
    assert parts.latent_shape == (16, 16, 16) and CONFIG.image_size == 128
    ids = torch.zeros(1, 77, dtype=torch.long)
    assert parts.text_encoder(ids).last_hidden_state.shape == (1, 77, STARTER.unet_shape.context_width)
    assert parts.vae.encode(torch.zeros(1, 3, 128, 128)).latent_dist.mean.shape == (1, *parts.latent_shape)


def test_unet_has_the_sites_that_meaf_expects(parts):
    found = {name: module.to_q.out_features for name, module in parts.unet.named_modules() if name.endswith(".attn2")}
    assert found == unet_sites(STARTER.unet_shape) and len(found) == 7


def test_each_word_of_the_captions_is_one_token(tmp_path):
    reader = tokenizer(tmp_path, CONFIG.merges)
    ids = [reader(word).input_ids for word in CAPTION_WORDS]
    assert all(len(found) == 3 for found in ids) and len({found[1] for found in ids}) == len(CAPTION_WORDS) > 40
    sentence = "a portrait of a young woman with long brown hair, smiling, blue striped background"
    assert len(reader(sentence).input_ids) == 2 + len(sentence.replace(",", " ,").split())


@pytest.mark.parametrize("seed", range(5))
def test_each_word_is_one_token_whatever_the_words(tmp_path, seed):
    """Words that share beginnings, middles and ends: a merge of one word must not break another."""
    draw = random.Random(seed)
    words = {"".join(draw.choices("abc", k=draw.randint(1, 6))) for _ in range(12)}
    reader = tokenizer(tmp_path, build_vocabulary(tuple(words)))
    assert {word for word in words if len(reader(word).input_ids) != 3} == set()


@pytest.mark.parametrize("text", ["xylophone", "Ünïcode", "日本", "a1b2 ! ?", "🙂"])
def test_any_text_is_told(tmp_path, text):
    reader, known = tokenizer(tmp_path, CONFIG.merges), tokens(CONFIG.merges)
    start, *inside, end = reader(text).input_ids
    assert (start, end) == (known[START], known[END]) == (len(known) - 2, len(known) - 1)
    assert inside and not {start, end} & set(inside)
    assert reader.decode(inside).replace(" ", "") == text.lower().replace(" ", "")


def test_vocabulary_does_not_depend_on_the_order_or_number_of_the_words():
    again = build_vocabulary(tuple(reversed(CAPTION_WORDS)) + CAPTION_WORDS)
    assert again == CONFIG.merges and sorted(tokens(again).values()) == list(range(len(tokens(again))))


def test_file_round_trip(parts, tmp_path):
    path = tmp_path / "starter.safetensors"
    host.save_starter(path, parts)
    again = host.load_starter(path)
    assert again.config == CONFIG
    for name in TENSORS:
        stored, loaded = getattr(parts, name).state_dict(), getattr(again, name).state_dict()
        assert stored.keys() == loaded.keys() and all(torch.equal(loaded[k], stored[k].half().float()) for k in stored)
    assert not any(p.requires_grad for p in again.unet.parameters()) and not again.unet.training
    assert host.encode_prompts(again, ["a person", ""]).shape == (2, 77, 128)


def test_tensors_come_back_by_part(tmp_path):
    path = tmp_path / "starter.safetensors"
    save_starter_tensors(path, CONFIG, TENSORS)
    config, found = load_starter_tensors(path)
    assert config == CONFIG and {part: set(state) for part, state in found.items()} == {p: set(s) for p, s in TENSORS.items()}
    assert found["vae"]["a.b"].sum() == 0 and found["text_encoder"]["c"].dtype == torch.float16
    with pytest.raises(ValueError, match=r"starter\.safetensors does not hold the unet of its config"):
        host.load_starter(path)


def test_wrong_files_are_one_sentence(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match=r"x\.safetensors cannot be opened"):
        load_starter_tensors(path)
    save_tensors(path, "dsid", {"a": torch.ones(1)}, name="x", config={})
    with pytest.raises(ValueError, match=r"x\.safetensors holds dsid data, expected starter: it belongs into Load DSID"):
        load_starter_tensors(path)
    save_tensors(path, FILE_KIND, {"a": torch.ones(1)}, name="x", config={"name": "x"})
    with pytest.raises(ValueError, match=r"x\.safetensors cannot be used: not a usable starter config"):
        load_starter_tensors(path)
    save_tensors(path, FILE_KIND, {"a": torch.ones(1)}, name="x", config={**CONFIG.to_dict(), "unet_channels": 3})
    with pytest.raises(ValueError, match=r"x\.safetensors cannot be used"):
        load_starter_tensors(path)
