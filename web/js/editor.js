// The live head on Edit Semantics: it follows the node's widgets at once, and dragging it turns it.
//
// The widgets are read once a frame, so that typing, undo, pasting and other nodes' writes show as sliders do, in every
// frontend. What is connected is known after a run, from what the node then says of it; until then an average face rests there.

import { app } from "../../../scripts/app.js";
import { bust } from "./bust.js";
import { editCode, parseHead, shapeOf } from "./head.js";
import { Picture } from "./shade.js";

const NODE = "DeepExPoEditSemantics", WIDGET = "deepexpo_head";
const SIDE = 448; // pixels, shown at about 280
const LEAST = { width: 300, height: 260 }; // of the node, of the head
const DEGREES = 110; // for a drag from one border to the other
const HINT = "Drag: turn the head. Shift and drag: lean it. Double click: look ahead.";
const STYLE = "width:100%;height:100%;display:block;object-fit:contain;background:linear-gradient(#25272a,#3c3d40);border-radius:6px;cursor:grab;"
  + "touch-action:none;user-select:none";

const LINE_STYLE = "position:absolute;right:8px;top:6px;font:11px sans-serif;color:#aaa;cursor:pointer;display:none";
const UNFOLDED = "deepexpo_all_numbers"; // property of a node

const previews = new Set(); // of nodes that are in a graph
let loading = null;

function loadHead() {
  const file = new URL("../head.safetensors", import.meta.url);
  loading ??= fetch(file, { cache: "no-cache" }).then((answer) => answer.arrayBuffer()).then(parseHead);
  return loading;
}

class Preview {
  constructor(node, head) {
    Object.assign(this, { node, head, state: {}, drawn: null, picture: new Picture(SIDE) });
    this.canvas = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE, title: HINT });
    this.canvas.style.cssText = STYLE;
    this.element = document.createElement("div");
    this.element.style.cssText = "position:relative;width:100%;height:100%;overflow:hidden";
    this.folding = new Folding(node);
    this.element.append(this.canvas, this.folding.line);
    this.listen();
  }

  // By name, the value of every widget; of one that another node drives, what it was in the last run.
  settings() {
    const inputs = this.node.inputs ?? [];
    const linked = new Set(inputs.filter((input, i) => input.widget && this.node.isInputConnected(i)).map(({ widget }) => widget.name));
    const ran = this.state.settings ?? {};
    const widgets = (this.node.widgets ?? []).filter((widget) => widget.name !== WIDGET);
    return Object.fromEntries(widgets.map(({ name, value }) => [name, linked.has(name) && name in ran ? ran[name] : value]));
  }

  // What came in, as far as it is still connected.
  inputs() {
    const connected = (name) => this.node.isInputConnected(this.node.inputs.findIndex((input) => input.name === name));
    const { source, onto, rest } = this.state;
    return {
      source: connected("semantics") ? source : null,
      onto: connected("onto") ? onto : null,
      rest: connected("identity") ? rest : null,
    };
  }

  ran(state) {
    this.state = state ?? {};
    this.drawn = null;
  }

  update() {
    this.folding.update();
    this.fit();
    const settings = this.settings(), inputs = this.inputs();
    const key = JSON.stringify([settings, Object.values(inputs).map(Boolean)]);
    if (key === this.drawn || !this.canvas.getClientRects().length) return;
    this.drawn = key;
    const code = editCode(this.head, inputs, settings);
    const shape = shapeOf(this.head, inputs.rest, code);
    this.picture.draw(bust(this.head, inputs.rest ?? this.head.rest, shape, code.angles));
    this.canvas.getContext("2d").putImageData(new ImageData(this.picture.pixels, SIDE), 0, 0);
  }

  // A new node begins as high as what it shows; a loaded one has its height.
  fit() {
    if (this.fitted) return;
    this.fitted = true;
    this.node.setSize([Math.max(this.node.size[0], LEAST.width), this.node.computeSize()[1]]);
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.stopPropagation(); // the node stays where it is
      canvas.setPointerCapture(event.pointerId);
      canvas.style.cursor = "grabbing";
      this.grabbed = { x: event.clientX, y: event.clientY, ...this.settings() };
    });
    canvas.addEventListener("pointermove", (event) => this.grabbed && this.drag(event));
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, () => {
        this.grabbed = null;
        canvas.style.cursor = "grab";
      });
    }
    canvas.addEventListener("dblclick", (event) => {
      event.stopPropagation();
      for (const name of this.head.tables.angles) this.write(name, 0);
    });
  }

  drag(event) {
    event.stopPropagation();
    const { x, y, yaw, pitch, roll } = this.grabbed, scale = DEGREES / this.canvas.getBoundingClientRect().height;
    const right = (event.clientX - x) * scale, up = (y - event.clientY) * scale;
    if (event.shiftKey) return this.write("roll", roll + right);
    this.write("yaw", yaw + right);
    this.write("pitch", pitch + up);
  }

  write(name, value) {
    const widget = this.node.widgets.find((candidate) => candidate.name === name);
    const { min, max } = widget.options;
    widget.value = Math.round(Math.min(Math.max(value, min), max));
    widget.callback?.(widget.value, app.canvas, this.node);
    this.node.setDirtyCanvas?.(true, true);
  }
}

// The canvas, unlike Nodes 2.0, shows inputs that are meant to be folded: there a line on the head shows and hides them.
class Folding {
  constructor(node) {
    this.node = node;
    this.sizes = new Map(); // how folded widgets say their sizes
    this.line = document.createElement("div");
    this.line.style.cssText = LINE_STYLE;
    this.line.addEventListener("pointerdown", (event) => event.stopPropagation());
    this.line.addEventListener("click", () => {
      node.properties[UNFOLDED] = !node.properties[UNFOLDED];
    });
  }

  // Hides or shows them; a node that is not being loaded grows or shrinks by as much.
  update(resize = true) {
    const inCanvas = !window.LiteGraph?.vueNodesMode, hidden = inCanvas && !this.node.properties[UNFOLDED];
    if (this.hidden === hidden && this.inCanvas === inCanvas) return;
    Object.assign(this, { hidden, inCanvas });
    this.line.style.display = inCanvas ? "block" : "none";
    this.line.textContent = hidden ? "all numbers \u25b8" : "fewer numbers \u25be";
    const [width, height] = this.node.size, before = this.node.computeSize()[1];
    const folded = this.node.widgets.filter((widget) => widget.options?.advanced);
    for (const widget of folded) this.fold(widget, hidden, hidden || !inCanvas);
    if (resize) this.node.setSize([width, Math.max(height + this.node.computeSize()[1] - before, 100)]);
    this.node.setDirtyCanvas?.(true, true);
  }

  // 1.27 gives hidden widgets room unless they say that they need none; Nodes 2.0 counts its own rows.
  fold(widget, hidden, flat) {
    widget.hidden = hidden;
    if (!this.sizes.has(widget)) this.sizes.set(widget, widget.computeSize);
    if (flat) widget.computeSize = () => [0, -4];
    else widget.computeSize = this.sizes.get(widget);
  }
}

function follow() {
  for (const preview of previews) preview.update();
  requestAnimationFrame(follow);
}

function after(node, name, then) {
  const before = node[name];
  node[name] = function (...given) {
    const answer = before?.apply(this, given);
    then(...given);
    return answer;
  };
}

function attach(node, head) {
  const preview = new Preview(node, head);
  const options = { serialize: false, hideOnZoom: false, getMinHeight: () => LEAST.height };
  const widget = node.addDOMWidget(WIDGET, WIDGET, preview.element, options);
  widget.serialize = false;
  preview.folding.update(false);
  after(node, "onConfigure", () => {
    preview.fitted = true;
    preview.folding.update(false);
  });
  after(node, "onExecuted", (output) => preview.ran(output?.[WIDGET]?.[0]));
  after(node, "onAdded", () => previews.add(preview));
  after(node, "onRemoved", () => previews.delete(preview));
}

let head = null;
app.registerExtension({
  name: "DeepExPo.LiveHead",
  async setup() {
    requestAnimationFrame(follow);
  },
  async init() {
    head = await loadHead().catch((error) => console.warn("DeepExPo: the live head is not shown:", error));
  },
  nodeCreated(node) {
    if (head && node.comfyClass === NODE && node.addDOMWidget) attach(node, head);
  },
});
