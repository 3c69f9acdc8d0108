"""The starter as ComfyUI's own MODEL, CLIP and VAE, as a checkpoint loader gives them.

ComfyUI tells checkpoints apart by the widths of the published families, so the starter is described here instead: its
U-Net, text encoder and VAE are ComfyUI's classes of Stable Diffusion at other sizes. Read on ComfyUI 0.3.64 and 0.12.
"""

from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import comfy.diffusers_convert
import comfy.latent_formats
import comfy.model_management
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch
from comfy.clip_model import CLIPTextModel
from comfy.model_base import ModelType
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer, SDClipModel, SDTokenizer
from torch import Tensor

from ...deepexpo_models.starter import StarterConfig, load_starter_tensors, write_tokenizer
from ...deepexpo_models.starter.vocabulary import END, START, tokens
from ...deepexpo_models.weights import check_shapes
from .folders import FOLDER, weight_path

FILE = "heads-base.safetensors"
MODEL_TYPES = {"epsilon": ModelType.EPS, "v_prediction": ModelType.V_PREDICTION}

State = dict[str, Tensor]


def open_starter() -> tuple[ModelPatcher, CLIP, VAE]:
    """MODEL, CLIP and VAE. Raises ValueError, in one sentence, when the file is missing, damaged, or another."""
    path = weight_path(FILE)
    config, parts = load_starter_tensors(path)
    try:
        model = _model(path, config, parts["unet"])
        return model, _clip(path, config, parts["text_encoder"]), _vae(path, config, parts["vae"])
    except RuntimeError as error:
        if "size mismatch" not in str(error):
            raise
        raise ValueError(f"{path.name} does not hold the tensors that its config describes; download it again") from error


class Multiple(Fraction):
    """A channel multiplier that need not be whole: 1.5 of 64 channels are 96, and PyTorch takes no 96.0 for a width."""

    def __mul__(self, channels: Any) -> Any:
        return int(super().__mul__(channels))

    def __rmul__(self, channels: Any) -> Any:
        return self * channels


class StarterLatents(comfy.latent_formats.LatentFormat):
    def __init__(self, config: StarterConfig):
        self.latent_channels, self.scale_factor = config.latent_channels, config.scale


class StarterModel(comfy.supported_models_base.BASE):
    """What ComfyUI's model detection would give; the noise schedule is its default, Stable Diffusion's."""

    unet_extra_config: dict = {}
    memory_usage_factor = 1.0

    def __init__(self, config: StarterConfig):
        super().__init__(_unet_config(config))
        self.latent_format = StarterLatents(config)
        self.deepexpo_starter = config.name  # what `patch` compares with a MEAF's base
        self.prediction = config.prediction

    def model_type(self, state_dict, prefix="") -> ModelType:
        return MODEL_TYPES[self.prediction]

    def inpaint_model(self) -> bool:
        return False  # ComfyUI takes a U-Net of more than 4 input channels for one


class StarterTextModel(CLIPTextModel):
    """CLIP's text model with the config's vocabulary: ComfyUI 0.3 builds CLIP's own, whatever the config says."""

    def __init__(self, config: dict, dtype, device, operations):
        super().__init__(config, dtype, device, operations)
        sizes = config["vocab_size"], config["hidden_size"]
        self.set_input_embeddings(operations.Embedding(*sizes, dtype=dtype, device=device))


def _model(path: Path, config: StarterConfig, state: State) -> ModelPatcher:
    management, described = comfy.model_management, StarterModel(config)
    names = comfy.utils.unet_to_diffusers(described.unet_config)
    state = {names.get(name, name): tensor for name, tensor in state.items()}
    device, types = management.get_torch_device(), described.supported_inference_dtypes
    size, stored = comfy.utils.calculate_parameters(state), comfy.utils.weight_dtype(state)
    dtype = management.unet_dtype(model_params=size, supported_dtypes=types, weight_dtype=stored)
    described.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device, types))
    offload = management.unet_offload_device()
    model = described.get_model(state).to(offload)
    model.load_model_weights(dict(state))  # empties the dict it is given
    _check(path, model.diffusion_model, state)
    return ModelPatcher(model, load_device=device, offload_device=offload)


def _unet_config(config: StarterConfig) -> dict:
    """As comfy.model_detection would find it in a checkpoint."""
    shape = config.unet_shape
    first, layers = shape.channels[0], shape.layers
    return {
        "image_size": 32, "in_channels": config.latent_channels, "out_channels": config.latent_channels,
        "model_channels": first,
        "channel_mult": [width // first if width % first == 0 else Multiple(width, first) for width in shape.channels],
        "num_res_blocks": [layers] * len(shape.channels), "num_heads": config.heads, "num_head_channels": -1,
        "transformer_depth": [depth for depth in shape.depth for _ in range(layers)],
        "transformer_depth_middle": shape.mid_depth,
        "transformer_depth_output": [depth for depth in shape.depth for _ in range(layers + 1)],
        "context_dim": shape.context_width, "use_spatial_transformer": True, "use_linear_in_transformer": False,
        "legacy": False, "adm_in_channels": None, "use_temporal_attention": False, "use_temporal_resblock": False,
    }  # fmt: skip


def _clip(path: Path, config: StarterConfig, state: State) -> CLIP:
    vocabulary = tokens(config.merges)
    special = {"start": vocabulary[START], "end": vocabulary[END], "pad": vocabulary[END]}
    encoder = partial(
        SDClipModel,
        max_length=config.tokens,
        model_class=StarterTextModel,
        special_tokens=special,
        return_projected_pooled=False,
    )
    folder = Path(folder_paths.get_temp_directory(), f"{FOLDER}-tokenizer")
    tokenizer = partial(
        SDTokenizer,
        tokenizer_path=str(write_tokenizer(folder, config.merges, config.tokens)),
        max_length=config.tokens,
        embedding_size=config.text_width,
    )
    target = comfy.supported_models_base.ClipTarget(
        partial(SD1Tokenizer, tokenizer=tokenizer),
        partial(SD1ClipModel, clip_model=encoder, textmodel_json_config=_text_config(config, vocabulary)),
    )
    # transformers has dropped the prefix in 5.0; ComfyUI keeps it, and has a projection that CLIPTextModel lacks
    state = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in state.items()}
    state["text_projection.weight"] = torch.eye(config.text_width)
    clip = CLIP(
        target,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=comfy.utils.calculate_parameters(state),
    )
    clip.load_sd(state)
    _check(path, clip.cond_stage_model.clip_l.transformer, state)
    return clip


def _text_config(config: StarterConfig, vocabulary: dict[str, int]) -> dict:
    return {
        "vocab_size": len(vocabulary), "hidden_size": config.text_width, "intermediate_size": 4 * config.text_width,
        "num_hidden_layers": config.text_layers, "num_attention_heads": config.text_heads,
        "max_position_embeddings": config.tokens, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
        "eos_token_id": vocabulary[END], "projection_dim": config.text_width,
    }  # fmt: skip


def _vae(path: Path, config: StarterConfig, state: State) -> VAE:
    state = comfy.diffusers_convert.convert_vae_state_dict(state)
    first = config.vae_channels[0]
    sizes = {
        "double_z": True, "z_channels": config.latent_channels, "resolution": config.image_size, "in_channels": 3,
        "out_ch": 3, "ch": first, "ch_mult": [width // first for width in config.vae_channels],
        "num_res_blocks": config.vae_layers, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    vae = VAE(state, config={"params": {"ddconfig": sizes, "embed_dim": config.latent_channels}})
    vae.latent_channels = config.latent_channels
    _check(path, vae.first_stage_model, state)
    return vae


def _check(path: Path, module: torch.nn.Module, state: State) -> None:
    """ComfyUI loads what it finds; missing and unknown tensors are only logged."""
    found, expected = ({name: tuple(t.shape) for name, t in tensors.items()} for tensors in (state, module.state_dict()))
    check_shapes(path.name, found, expected)
