// On our nodes: wires in colours of their own, and what a node says of its last run, as lines at its foot.

import { app } from "../../../scripts/app.js";

const COLOURS = {
  DEEPEXPO_DSID: "#8f9bff",
  DEEPEXPO_MEAF: "#ffa45c",
  DEEPEXPO_IDENTITY: "#ff8fb3",
  DEEPEXPO_SEMANTICS: "#5fd9a7",
  DEEPEXPO_SHEET: "#c98bff",
  FACE_LANDMARKS: "#d9d05f",
  POSE_KEYPOINT: "#7fc8e8",
  BOUNDING_BOX: "#e0a3c8",
};
const PREFIX = "DeepExPo", WIDGET = "deepexpo_said", LINES = 2, LINE = 15; // pixels of a line
const STYLE = "font:11px sans-serif;color:#aaa;overflow:auto;white-space:pre-line;padding:2px 6px;box-sizing:border-box;width:100%";

// A palette that is loaded later clears the colours of types that it does not name: an empty one is not taken.
function colour(table, type, ours) {
  let shown = table[type] || ours;
  Object.defineProperty(table, type, {
    get: () => shown, set: (given) => { shown = given || ours; }, enumerable: true, configurable: true,
  });
}

function colourWires() {
  const tables = [app.canvas.default_connection_color_byType, app.canvas.constructor.link_type_colors];
  for (const [type, ours] of Object.entries(COLOURS)) {
    for (const table of tables) if (table) colour(table, type, ours);
  }
  const sheet = document.createElement("style"); // where nodes are drawn by the page
  const rules = Object.entries(COLOURS).map(([type, ours]) => `--color-datatype-${type}: ${ours};`);
  sheet.textContent = `:root { ${rules.join(" ")} }`;
  document.head.append(sheet);
}

function say(node, lines) {
  const text = (lines ?? []).filter(Boolean).join("\n");
  let widget = node.widgets?.find((known) => known.name === WIDGET);
  if (!widget && !text) return;
  if (!widget) {
    const height = () => LINES * LINE + 4;
    const options = { serialize: false, hideOnZoom: false, getMinHeight: height, getMaxHeight: height };
    widget = node.addDOMWidget(WIDGET, WIDGET, document.createElement("div"), options);
    widget.serialize = false;
    widget.element.style.cssText = STYLE;
  }
  widget.element.textContent = text;
  widget.element.title = text;
  node.setDirtyCanvas?.(true, true);
}

app.registerExtension({
  name: "DeepExPo.Nodes",
  setup: colourWires,
  beforeRegisterNodeDef(nodeType, definition) {
    if (!definition.name.startsWith(PREFIX)) return;
    const executed = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      executed?.apply(this, arguments);
      say(this, output?.text);
    };
  },
});
