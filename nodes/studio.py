"""Clips, sheets and measured likeness."""

from comfy_api.latest import io

from ..deepexpo_models.dsid import every_pair, join_identities, smooth_semantics
from ..deepexpo_models.dsid.edit import readout_for
from ..deepexpo_models.dsid.pairs import Sheet
from ..deepexpo_models.dsid.sheets import COLUMN_KINDS, MOST_STEPS, STEPPED, Columns, sheet_columns, sheet_names
from ..deepexpo_models.dsid.smoothing import describe_smoothing, plot_smoothing
from ..deepexpo_models.evaluation.likeness import compare_pictures, plot, report
from ..deepexpo_models.panels import label_sheet
from . import sockets
from .comfy_host.judges import AUTO, EXPRESSION_JUDGES, IDENTITY_JUDGES, judge_all
from .sockets import folded, schema

MORE_PEOPLE, MORE_LOOKS = (2, 3, 4), (2, 3, 4, 5, 6)


class SmoothSemantics(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DeepExPoSmoothSemantics",
            display_name="Smooth Semantics (Clip Without Jitter)",
            description="Takes the jitter out of a clip's expressions and head poses and keeps fast movement (one-euro filter, "
            "forward and backward). The node shows the jitter before and after.",
            has_intermediate_output=True,
            inputs=[
                sockets.Semantics.Input(
                    "semantics", tooltip="Codes of a clip's frames in order, from Encode Semantics with a batch of frames."
                ),
                io.Float.Input(
                    "strength", default=0.5, min=0.0, max=1.0, step=0.05, tooltip="0 leaves the clip as it is, 1 is steadiest."
                ),
                io.Float.Input(
                    "frames_per_second",
                    default=25.0,
                    min=1.0,
                    max=240.0,
                    step=0.01,
                    tooltip="The clip's rate: connect fps of Get Video Components.",
                ),
            ],
            outputs=[
                sockets.Semantics.Output("smoothed", display_name="SEMANTICS", tooltip="One steadier code per frame."),
                io.String.Output("report", display_name="report", tooltip="The jitter before and after, in a line."),
                io.Int.Output("count", display_name="count", tooltip="Number of codes: the latent's batch size."),
            ],
        )

    @classmethod
    def execute(cls, semantics, strength, frames_per_second) -> io.NodeOutput:
        smooth = smooth_semantics(semantics, strength, frames_per_second)
        said = describe_smoothing(semantics, smooth)
        return io.NodeOutput(
            smooth, said, len(smooth.expression), ui=sockets.shown(plot_smoothing(semantics, smooth), cls, [said])
        )


class PairSheet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DeepExPoPairSheet",
            display_name="Pair Sheet (Every Person, Every Expression)",
            description="Every person with every expression, one pair per latent: people by references, presets or a slider's "
            "steps. Connect count to the latent's batch size, and sheet to Draw Sheet after sampling.",
            inputs=[
                sockets.Identity.Input("identity", tooltip="The first row's person, or several in one code."),
                io.Combo.Input(
                    "columns",
                    options=list(COLUMN_KINDS),
                    tooltip="What stands in the columns: the connected semantics, presets, or a slider's steps.",
                ),
                sockets.Semantics.Input(
                    "semantics",
                    optional=True,
                    tooltip="References, one column per code. Presets and sliders start from it, or from rest.",
                ),
                *(
                    sockets.Identity.Input(f"identity_{number}", optional=True, tooltip=f"The person of row {number}.")
                    for number in MORE_PEOPLE
                ),
                *(
                    sockets.Semantics.Input(f"semantics_{number}", optional=True, tooltip="More references, to the right.")
                    for number in MORE_LOOKS
                ),
                io.String.Input(
                    "presets",
                    default=Columns.presets,
                    optional=True,
                    tooltip="For presets: names with commas between, as Edit Semantics lists them.",
                ),
                io.Combo.Input(
                    "slider",
                    options=list(STEPPED),
                    default=Columns.slider,
                    optional=True,
                    tooltip="For slider: what is stepped.",
                ),
                io.Float.Input(
                    "slider_from",
                    default=Columns.low,
                    min=-90.0,
                    max=90.0,
                    step=0.05,
                    optional=True,
                    tooltip="First step: -1 to 1, or degrees for yaw, pitch, roll.",
                ),
                io.Float.Input(
                    "slider_to", default=Columns.high, min=-90.0, max=90.0, step=0.05, optional=True, tooltip="The last step."
                ),
                io.Int.Input(
                    "slider_steps", default=Columns.steps, min=1, max=MOST_STEPS, optional=True, tooltip="Number of columns."
                ),
                sockets.DSID.Input(
                    "dsid",
                    optional=True,
                    tooltip="Only for presets and expression sliders on codes that a DSID made: the same one.",
                ),
                folded(
                    io.String.Input(
                        "identity_names", default="", optional=True, tooltip="Names of the rows, with commas between."
                    )
                ),
                folded(
                    io.String.Input(
                        "column_names", default="", optional=True, tooltip="Names of the columns, with commas between."
                    )
                ),
            ],
            outputs=[
                sockets.Identity.Output("identities", display_name="IDENTITY", tooltip="One per pair, row by row."),
                sockets.Semantics.Output("expressions", display_name="SEMANTICS", tooltip="One per pair, row by row."),
                io.Int.Output("count", display_name="count", tooltip="Number of pairs: the latent's batch size."),
                io.Int.Output("column_count", display_name="columns", tooltip="Number of columns."),
                sockets.Sheet.Output("sheet", display_name="sheet", tooltip="Labels for Draw Sheet, pairs for Measure."),
            ],
        )

    @classmethod
    def execute(
        cls, identity, columns, semantics=None, presets=Columns.presets, slider=Columns.slider, slider_from=Columns.low,
        slider_to=Columns.high, slider_steps=Columns.steps, dsid=None, identity_names="", column_names="", **more,
    ) -> io.NodeOutput:  # fmt: skip
        people = join_identities(identity, *sockets.numbered("identity", MORE_PEOPLE, more))
        looks = [code for code in (semantics, *sockets.numbered("semantics", MORE_LOOKS, more)) if code is not None]
        wanted = Columns(columns, presets, slider, slider_from, slider_to, slider_steps, column_names)
        codes, names = sheet_columns(wanted, looks, readout_for(dsid, *looks))
        rows = tuple(f"person {number}" for number in range(1, len(people.embedding) + 1))
        sheet = Sheet(sheet_names(identity_names, rows, "people"), names)
        return io.NodeOutput(*every_pair(people, codes), sheet.count, len(names), sheet)


class DrawSheet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DeepExPoDrawSheet",
            display_name="Draw Sheet (Labelled Grid)",
            description="Puts the pictures of a Pair Sheet into one: people beside the rows, expressions above the columns.",
            has_intermediate_output=True,
            inputs=[
                io.Image.Input("image", tooltip="The sampled pictures, one per pair."),
                sockets.Sheet.Input("sheet", tooltip="From Pair Sheet."),
                io.Int.Input(
                    "cell", default=256, min=32, max=2048, tooltip="Longer side of each picture in the sheet, in pixels."
                ),
            ],
            outputs=[io.Image.Output("drawn", display_name="IMAGE", tooltip="One picture, for Save Image.")],
        )

    @classmethod
    def execute(cls, image, sheet, cell) -> io.NodeOutput:
        drawn = label_sheet(image, sheet.rows, sheet.columns, cell)
        return io.NodeOutput(drawn, ui=sockets.shown(drawn, cls))


class Measure(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DeepExPoMeasure",
            display_name="Measure Likeness (Identity, Expression, Pose)",
            description="How much of the person is in the pictures, how much of the reference's person leaked in, and how far "
            "expression and head pose are from the reference's. Names its judges; use it to tune strengths.",
            has_intermediate_output=True,
            inputs=[
                io.Image.Input("image", tooltip="The pictures to measure."),
                io.Combo.Input(
                    "identity_judge",
                    options=list(IDENTITY_JUDGES),
                    tooltip="Who compares faces. auto: the first at hand that sees every photo. buffalo_l and antelopev2 are "
                    "insightface's; dsid the connected one; heads our judge of rendered heads.",
                ),
                io.Combo.Input(
                    "expression_judge",
                    options=list(EXPRESSION_JUDGES),
                    tooltip="Who reads expression and head pose. auto: the first at hand. landmarks is MediaPipe's face "
                    "landmarker, or the connected landmarks.",
                ),
                io.Image.Input("identity", optional=True, tooltip="The person's photos; with a sheet one per row."),
                io.Image.Input(
                    "reference", optional=True, tooltip="The reference: one for all pictures, one each, or one per column."
                ),
                sockets.DSID.Input(
                    "dsid",
                    optional=True,
                    tooltip="For the judge dsid; then give face crops. The one that made the codes judges its own work.",
                ),
                sockets.Sheet.Input(
                    "sheet", optional=True, tooltip="From Pair Sheet: which picture is of whom, and with what."
                ),
                *(
                    sockets.Landmarks.Input(
                        f"{role}_landmarks",
                        optional=True,
                        tooltip=f"Of {role}, from Detect Face Landmarks, where there is no file.",
                    )
                    for role in ("image", "identity", "reference")
                ),
            ],
            outputs=[
                io.String.Output("report", display_name="report", tooltip="All figures with their judges, a line each."),
                io.Float.Output(
                    "identity_kept", display_name="identity kept", tooltip="Cosine to the person: 1 is the same photo."
                ),
                io.Float.Output(
                    "identity_leaked",
                    display_name="identity leaked",
                    tooltip="0: none of the reference's person, 1: all of it.",
                ),
                io.Float.Output(
                    "expression_distance", display_name="expression distance", tooltip="0: the reference's expression."
                ),
                io.Float.Output(
                    "pose_distance", display_name="pose distance", tooltip="Degrees from the reference's head pose."
                ),
                io.Image.Output("plot", display_name="plot", tooltip="The figures of every picture as bars."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, image, identity_judge=AUTO, expression_judge=AUTO, identity=None, reference=None, dsid=None, sheet=None,
        image_landmarks=None, identity_landmarks=None, reference_landmarks=None,
    ) -> io.NodeOutput:  # fmt: skip
        given = {"made": image, "identity": identity, "reference": reference}
        landmarks = {"made": image_landmarks, "identity": identity_landmarks, "reference": reference_landmarks}
        seen, judges = judge_all(
            {role: pictures for role, pictures in given.items() if pictures is not None}, landmarks, dsid, identity_judge,
            expression_judge,
        )  # fmt: skip
        figures = compare_pictures(seen, judges, sheet)
        said, drawn = report(figures), plot(figures)
        return io.NodeOutput(said, *(figure.mean for figure in figures), drawn, ui=sockets.shown(drawn, cls, [said]))


NODES = (SmoothSemantics, PairSheet, DrawSheet, Measure)
