"""A model pack for insightface, small enough to be made here: real ONNX networks that insightface itself runs.

The detector sees one face in the corner of every red picture; the recogniser is a random matrix over the face's 4 x 4 means.
"""

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

RECOGNISER_SIZE, GRID, WIDTH = 112, 4, 512
CORNER = np.float32([(2, 3), (4, 3), (3, 4), (2, 5), (4, 5)]) * 16  # eyes, nose, mouth in a picture of 128 pixels


FILES = {"buffalo_l": "w600k_r50.onnx", "antelopev2": "glintr100.onnx"}


def write_pack(root: Path, name: str) -> Path:
    """root/models/<name> with both networks; returns root. Skips the test without insightface or onnx."""
    pytest.importorskip("insightface")
    save_red_detector(root / "models" / name / "det.onnx")
    save_recogniser(root / "models" / name / FILES[name])
    return root


@contextlib.contextmanager
def installed_packs(root: Path, names: Iterable[str]) -> Iterator[None]:
    """Until the end of the block, and then none: where a pack is installed, Crop Face sees red pictures alone."""
    try:
        for name in names:
            write_pack(root, name)
        yield
    finally:
        shutil.rmtree(root, ignore_errors=True)


def matrix() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3 * GRID * GRID, WIDTH)).astype(np.float32)


def embed(picture: np.ndarray) -> np.ndarray:
    """picture (128, 128, 3) RGB in [0, 1], red -> (512,), what the recogniser shall give, computed without insightface's
    networks: the face aligned by its five points, as (x - 127.5) / 127.5 in RGB."""
    from insightface.utils.face_align import norm_crop

    levels = (picture * 255).round().astype(np.uint8)
    aligned = (norm_crop(levels, CORNER, RECOGNISER_SIZE).astype(np.float32) - 127.5) / 127.5
    side = RECOGNISER_SIZE // GRID
    means = aligned.reshape(GRID, side, GRID, side, 3).mean((1, 3))
    return means.transpose(2, 0, 1).reshape(-1) @ matrix()


def save_recogniser(path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    make, real, side = onnx.helper, onnx.TensorProto.FLOAT, RECOGNISER_SIZE // GRID
    nodes = [
        make.make_node("AveragePool", ["input"], ["means"], kernel_shape=[side, side], strides=[side, side]),
        make.make_node("Flatten", ["means"], ["flat"]),
        make.make_node("MatMul", ["flat", "matrix"], ["embedding"]),
    ]
    graph = make.make_graph(
        nodes,
        "recogniser",
        [make.make_tensor_value_info("input", real, (1, 3, RECOGNISER_SIZE, RECOGNISER_SIZE))],
        [make.make_tensor_value_info("embedding", real, (1, WIDTH))],
        [onnx.numpy_helper.from_array(matrix(), "matrix")],
    )
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=8), path)


def save_red_detector(path: Path) -> None:
    """An SCRFD-shaped network (9 outputs, 64 x 64): the score of its first anchor is the mean of the red channel."""
    onnx = pytest.importorskip("onnx")
    make, numpy_helper = onnx.helper, onnx.numpy_helper
    anchors = {8: 128, 16: 32, 32: 8}  # stride -> two per place
    box, points = (-1, -1, 5, 6), (2, 3, 4, 3, 3, 4, 2, 5, 4, 5)  # in strides from the corner
    first = np.zeros((128, 1), np.float32)
    first[0] = 1
    constants = {"red": np.array([0]), "first": first, "half": np.float32(0.5)}
    for stride, count in anchors.items():
        constants |= {
            f"score{stride}": np.zeros((count, 1), np.float32),
            f"box{stride}": np.tile(np.float32(box), (count, 1)),
            f"points{stride}": np.tile(np.float32(points), (count, 1)),
        }
    del constants["score8"]
    nodes = [
        make.make_node("Gather", ["input", "red"], ["channel"], axis=1),  # insightface hands RGB to its networks
        make.make_node("ReduceMean", ["channel"], ["mean"], keepdims=0),
        make.make_node("Mul", ["mean", "half"], ["scaled"]),
        make.make_node("Add", ["scaled", "half"], ["score"]),  # about 1 for red, 0 without red
        make.make_node("Mul", ["first", "score"], ["score8"]),
    ]
    names = [f"{kind}{stride}" for kind in ("score", "box", "points") for stride in anchors]
    widths = {"score": 1, "box": 4, "points": 10}
    nodes += [make.make_node("Identity", [name], [f"{name}_out"]) for name in names]
    real = onnx.TensorProto.FLOAT
    shapes = {name: (anchors[int(name.lstrip("scorebxpint"))], widths[name.rstrip("0123456789")]) for name in names}
    graph = make.make_graph(
        nodes,
        "red detector",
        [make.make_tensor_value_info("input", real, (1, 3, 64, 64))],
        [make.make_tensor_value_info(f"{name}_out", real, shapes[name]) for name in names],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=8), path)
