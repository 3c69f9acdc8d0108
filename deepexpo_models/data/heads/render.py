"""Draws heads: moderngl on EGL, on a GPU or on Mesa's llvmpipe. About 22 ms of CPU for 128 pixels on llvmpipe.

Without multisampling, which doubled that time there; a training warps and blurs the pictures anyway.
"""

import io
from dataclasses import dataclass

import numpy as np

from .geometry import Actor, Stage, stage
from .model import HeadModel
from .scenery import BACKGROUND_SIDE, Setting
from .shaders import (
    BACK_FRAGMENT,
    BACK_VERTEX,
    FRAGMENT,
    KINDS,
    SHADOW_FRAGMENT,
    SHADOW_VERTEX,
    VERTEX,
)

SHADOW_SIDE = 320
UNITS = {"first": 0, "second": 1, "masks": 2, "shadow": 3}  # of textures
CASTS = ("skin", "hair", "mouth")
LIGHT = ("key_dir", "key", "fill_dir", "fill", "sky", "ground", "rim", "wrap", "gloss", "exposure")
CONTRAST = 0.45  # exponent of a hair picture's brightness: what was painted nearly black has more of it than can be seen
PERSON = ("mixing", "gamma", "stubble", "makeup", "lip", "freckles", "iris", "rings")


@dataclass(frozen=True, eq=False)
class Rendered:
    """picture (S, S, 3) uint8; labels: rotation (3, 3), units (52,), gaze (2,), five (5, 2), surface (96, 2), all float32;
    cloth: the share of the picture in which clothes are seen."""

    picture: np.ndarray
    labels: dict[str, np.ndarray]
    cloth: float


def open_context():
    """An off-screen OpenGL context. Raises ValueError, in one sentence, where there is none."""
    try:
        import moderngl
    except ImportError as error:
        raise ValueError("rendering heads needs moderngl, which is not installed; pip install moderngl") from error
    try:
        return moderngl.create_standalone_context(backend="egl")
    except Exception as error:  # moderngl raises bare Exceptions
        raise ValueError(
            f"no off-screen OpenGL could be opened ({error}); install EGL (on Debian: apt install libegl1 libgl1-mesa-dri)"
        ) from error


class HeadRenderer:
    """One size of pictures. Raises ValueError without EGL."""

    def __init__(self, model: HeadModel, size: int = 128):
        import moderngl

        self.model, self.size = model, size
        context = self.context = open_context()
        self.gl = moderngl
        self.program = context.program(vertex_shader=VERTEX, fragment_shader=FRAGMENT)
        self.shadow_program = context.program(vertex_shader=SHADOW_VERTEX, fragment_shader=SHADOW_FRAGMENT)
        self.back_program = context.program(vertex_shader=BACK_VERTEX, fragment_shader=BACK_FRAGMENT)
        self.target = context.framebuffer([context.renderbuffer((size, size), 4)], context.depth_renderbuffer((size, size)))
        self.shadows = context.depth_texture((SHADOW_SIDE, SHADOW_SIDE))
        self.shadows.compare_func = "<="
        self.shadow_target = context.framebuffer(depth_attachment=self.shadows)
        self.back = context.texture((BACKGROUND_SIDE, BACKGROUND_SIDE), 3)
        corners = context.buffer(np.array([-1, -1, 3, -1, -1, 3], "f4"))
        self.back_triangle = context.vertex_array(self.back_program, [(corners, "2f", "corner")])
        hair = {*model.hairs, *model.brows, *model.lashes}
        self.textures = {name: self._texture(png, name in hair) for name, png in model.pictures.items()}
        self.meshes: dict = {}
        for name, unit in UNITS.items():
            self.program[name] = unit

    def render(
        self, actor: Actor, units: np.ndarray, gaze: np.ndarray, rotation: np.ndarray, torso: np.ndarray, setting: Setting
    ) -> Rendered:
        """One picture; see `geometry.stage`. The same factors give the same picture on one machine."""
        scene = stage(self.model, actor, units, gaze, rotation, torso, setting)
        ordered = sorted(scene.surfaces, key=lambda surface: KINDS[surface.kind])  # what is see-through comes last
        drawn = [(surface, *self._mesh(surface)) for surface in ordered]
        if setting.light.shadows:
            self._draw_shadows(scene, drawn)
        self._draw(scene, drawn, actor, setting)
        pixels = np.frombuffer(self.target.read(components=4), np.uint8).reshape(self.size, self.size, 4)
        labels = {name: value.astype(np.float32) for name, value in scene.labels.items()}
        return Rendered(np.ascontiguousarray(pixels[..., :3]), labels, float((pixels[..., 3] < 128).mean()))

    def _draw_shadows(self, scene: Stage, drawn: list) -> None:
        self.shadow_target.use()
        self.shadow_target.clear(depth=1.0)
        self.context.enable_only(self.gl.DEPTH_TEST)
        _write(self.shadow_program, "light_clip", scene.light_clip)
        for surface, _, shadow in drawn:
            if surface.kind in CASTS:
                self.shadow_program["cut"] = int(surface.kind == "hair")
                self.textures[surface.uniforms["first"]].use(0)
                shadow.render()

    def _draw(self, scene: Stage, drawn: list, actor: Actor, setting: Setting) -> None:
        self.target.use()
        self.target.clear(0, 0, 0, 1, depth=1.0)
        self.context.front_face = "cw"  # the y axis runs down
        self.context.enable_only(self.gl.DEPTH_TEST)
        self.back.write(np.ascontiguousarray((setting.background * 255).astype(np.uint8)))
        self.back.use(0)
        self.back_triangle.render()
        for name in ("clip", "light_clip"):
            _write(self.program, name, getattr(scene, name))
        _write(self.program, "head", scene.turn)
        common = {name: getattr(setting.light, name) for name in LIGHT} | {name: getattr(actor.person, name) for name in PERSON}
        common |= {"shadows": setting.light.shadows, "cloth": setting.cloth, "cloth_second": setting.cloth_second}
        self._set(common | {"pattern": setting.pattern_form})
        self.textures["masks"].use(UNITS["masks"])
        self.shadows.use(UNITS["shadow"])
        for surface, mesh, _ in drawn:
            blends, faces = surface.kind in ("hair", "plain"), surface.kind == "skin"
            self.context.enable_only(
                self.gl.DEPTH_TEST | (self.gl.BLEND if blends else 0) | (self.gl.CULL_FACE if faces else 0)
            )
            self.program["kind"] = KINDS[surface.kind]
            self._set(surface.uniforms)
            mesh.render()

    def _set(self, values: dict) -> None:
        for name, value in values.items():
            if name in ("first", "second"):
                self.textures[value].use(UNITS[name])
            else:
                self.program[name] = tuple(np.asarray(value, float).ravel()) if np.ndim(value) else float(value)

    def _mesh(self, surface):
        """The surface's vertex arrays, for the picture and for shadows; buffers are made once a part."""
        data = np.concatenate([surface.at, surface.normals, surface.uv, surface.extra], 1).astype("f4")
        if surface.name not in self.meshes:
            vertices = self.context.buffer(reserve=data.nbytes)
            triangles = self.context.buffer(np.ascontiguousarray(surface.triangles, "i4").tobytes())
            layout = [(vertices, "3f 3f 2f 4f", "at", "normal", "uv", "extra")]
            shadow = [(vertices, "3f 12x 2f 16x", "at", "uv")]
            arrays = [
                self.context.vertex_array(program, form, triangles)
                for program, form in ((self.program, layout), (self.shadow_program, shadow))
            ]
            self.meshes[surface.name] = (vertices, *arrays)
        vertices, mesh, shadow = self.meshes[surface.name]
        vertices.write(data)
        return mesh, shadow

    def _texture(self, png: np.ndarray, hair: bool):
        from PIL import Image

        picture = Image.open(io.BytesIO(png.tobytes())).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        pixels = even_hair(np.asarray(picture)) if hair else np.asarray(picture)
        texture = self.context.texture(picture.size, pixels.shape[2], pixels.tobytes())
        texture.build_mipmaps()
        texture.filter = (self.gl.LINEAR_MIPMAP_LINEAR, self.gl.LINEAR)
        return texture


def even_hair(picture: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8 of hair, brows or lashes -> grey, as bright as it is beside its strands' mean, which
    is 127. MakeHuman's are painted from black to blond, and a tint would leave black ones black."""
    bright = (picture[..., :3] @ np.array([0.3, 0.6, 0.1]) / 255) ** 2.2
    strands = picture[..., 3] / 255
    shade = (bright / max((bright * strands).sum() / strands.sum(), 1e-6)) ** CONTRAST
    mean = (shade * strands).sum() / strands.sum()
    even = shade / mean if mean > 0 else np.ones_like(shade)  # black all over
    return np.concatenate([np.repeat((even.clip(0, 2) * 127.5).astype(np.uint8)[..., None], 3, 2), picture[..., 3:]], 2)


def _write(program, name: str, matrix: np.ndarray) -> None:
    """OpenGL reads columns first."""
    program[name].write(matrix.T.astype("f4").tobytes())
