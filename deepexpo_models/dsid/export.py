"""A DSID's encoders as ONNX files, for use outside torch:

    python -m deepexpo_models.dsid.export weights/photo-dsid.safetensors --out encoders

writes identity_encoder.onnx and semantic_encoder.onnx: float32, opset 20, any batch. Input `images` (B, 3, S, S) RGB face
crops in [-1, 1]; outputs as `DSID.encode_identity` and `DSID.encode_semantics` give them. Needs onnx and onnxscript.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from .config import DSIDConfig
from .files import load_dsid
from .model import DSID

OPSET = 20  # the first that samples pictures at any place of a grid (GridSample's "linear" of version 20)
OUTPUTS = {
    "identity_encoder": ("identity",),
    "semantic_encoder": ("expression", "rotation", "translation", "log_scale"),
}


class Encode(nn.Module):
    """One kind of a DSID's codes, in the order of their names. part: key of OUTPUTS."""

    def __init__(self, dsid: DSID, part: str):
        super().__init__()
        self.dsid, self.part = dsid, part

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if self.part == "identity_encoder":
            return (self.dsid.encode_identity(images),)
        codes = self.dsid.encode_semantics(images)
        return tuple(codes[name] for name in OUTPUTS[self.part])


def export(dsid: DSID, out: str | Path) -> list[Path]:
    """Write both encoders into the folder `out`; returns the files. Raises ValueError where a package is missing."""
    try:
        from onnxscript import opset20
    except ImportError as error:
        raise ValueError("the ONNX export needs two more packages: pip install onnx onnxscript") from error

    def hypot(x, y):
        return opset20.Sqrt(opset20.Add(opset20.Mul(x, x), opset20.Mul(y, y)))

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    dsid = dsid.float().eval()
    written = []
    for part, names in OUTPUTS.items():
        written.append(folder / f"{part}.onnx")
        torch.onnx.export(
            Encode(dsid, part).eval(),
            (example(dsid.config),),
            str(written[-1]),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=list(names),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            custom_translation_table={torch.ops.prims.hypot.default: hypot},
            external_data=False,
            verbose=False,
        )
    return written


def example(config: DSIDConfig) -> Tensor:
    """Two pictures (2, 3, S, S) in [-1, 1], always the same: one alone would fix the batch at 1."""
    shape = (2, 3, config.image_size, config.image_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write a DSID's encoders as ONNX files.")
    parser.add_argument("dsid", type=Path, help="a DSID file")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write into")
    options = parser.parse_args(arguments)
    try:
        for path in export(load_dsid(options.dsid), options.out):
            print(path)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
