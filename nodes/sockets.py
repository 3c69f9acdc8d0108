"""The pack's own socket types and what every node shares."""

from comfy_api.latest import io

CATEGORY = "DeepExPo"

DSID = io.Custom("DEEPEXPO_DSID")
MEAF = io.Custom("DEEPEXPO_MEAF")
Identity = io.Custom("DEEPEXPO_IDENTITY")
Semantics = io.Custom("DEEPEXPO_SEMANTICS")

DSID_TOOLTIP = "The face encoders, from Load DSID. Use the same one for everything in a workflow."
