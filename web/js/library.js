// The library on Load Identity and Load Semantics: saved codes by their small pictures. Everything stays on this machine.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const KINDS = { DeepExPoLoadIdentity: "identity", DeepExPoLoadSemantics: "semantics" };
const HEIGHT = 220;

const STYLE = `
.deepexpo-library { display: flex; flex-direction: column; gap: 4px; height: 100%; min-height: 120px; font: 11px sans-serif; }
.deepexpo-library .bar { display: flex; gap: 4px; flex: none; }
.deepexpo-library input[type=search] { flex: 1; min-width: 40px; padding: 2px 6px; border-radius: 4px; border: 1px solid var(--border-color, #555);
  background: var(--comfy-input-bg, #222); color: var(--input-text, #ddd); }
.deepexpo-library .bar button { padding: 2px 6px; border-radius: 4px; border: 1px solid var(--border-color, #555); cursor: pointer;
  background: var(--comfy-input-bg, #222); color: var(--input-text, #ddd); }
.deepexpo-library .tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(64px, 1fr)); gap: 4px; overflow-y: auto;
  flex: 1; min-height: 0; align-content: start; grid-auto-rows: max-content; }
.deepexpo-library .tile { padding: 0; border: 2px solid transparent; border-radius: 4px; background: var(--comfy-input-bg, #222);
  color: var(--input-text, #ddd); cursor: pointer; overflow: hidden; }
.deepexpo-library .tile[hidden] { display: none; }
.deepexpo-library .tile.chosen { border-color: #6fb1ff; }
.deepexpo-library .tile img, .deepexpo-library .tile .blank { display: block; width: 100%; aspect-ratio: 1; object-fit: cover; }
.deepexpo-library .tile .blank { display: grid; place-items: center; font-size: 24px; opacity: 0.5; }
.deepexpo-library .tile span { display: block; padding: 1px 3px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.deepexpo-library .said { flex: none; min-height: 13px; opacity: 0.8; }
`;

function element(tag, className, properties = {}) {
  return Object.assign(document.createElement(tag), { className, ...properties });
}

function describe(entry) {
  const tags = entry.tags.length ? `\ntags: ${entry.tags.join(", ")}` : "";
  const count = entry.count > 1 ? `\n${entry.count} codes` : "";
  return `${entry.name}\nencoder: ${entry.encoder} (${entry.encoder_sha256.slice(0, 8)})${count}${tags}`;
}

function matches(entry, words) {
  const text = `${entry.title} ${entry.name} ${entry.encoder} ${entry.tags.join(" ")}`.toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

// The server's answer. Throws with its sentence where it refuses, and with what is known where it gives none.
async function ask(path, options) {
  const answer = await api.fetchApi(`/deepexpo/${path}`, options);
  if (answer.ok) return answer;
  const { error } = await answer.json().catch(() => ({}));
  throw new Error(error ?? `the server refused (${answer.status} ${answer.statusText})`);
}

class Library {
  constructor(kind, widget, redraw) {
    Object.assign(this, { kind, widget, redraw, entries: [], tiles: [] });
    this.root = element("div", "deepexpo-library");
    this.search = element("input", "", { type: "search", placeholder: "find by name or tag" });
    this.grid = element("div", "tiles");
    this.said = element("div", "said");
    this.file = element("input", "", { type: "file", accept: ".zip", hidden: true });
    const bar = element("div", "bar");
    bar.append(
      this.search,
      this.button("⟳", "Look again", () => this.attempt(() => this.load())),
      this.button("export", "All saved ones as one zip file", () => this.attempt(() => this.export())),
      this.button("import", "A zip file of saved ones into output/deepexpo/imported", () => this.file.click()),
    );
    this.root.append(bar, this.grid, this.said, this.file);
    this.search.addEventListener("input", () => this.show());
    this.file.addEventListener("change", () => this.attempt(() => this.import()));
    for (const kind of ["pointerdown", "wheel", "keydown"]) this.root.addEventListener(kind, (event) => event.stopPropagation());
  }

  button(text, title, onclick) {
    return element("button", "", { type: "button", textContent: text, title, onclick });
  }

  // Work that may fail: its sentence is shown.
  async attempt(work) {
    try {
      await work();
    } catch (error) {
      this.said.textContent = error.message;
    }
  }

  async load() {
    this.entries = await (await ask(`library?kind=${this.kind}`)).json();
    this.tiles = this.entries.map((entry) => this.tile(entry));
    this.grid.replaceChildren(...this.tiles);
    this.offer();
    this.show();
  }

  // What was saved since the page was opened can be chosen too.
  offer() {
    const values = this.widget.options?.values;
    if (Array.isArray(values)) for (const { name } of this.entries) if (!values.includes(name)) values.push(name);
  }

  show() {
    const found = this.entries.map((entry) => matches(entry, this.search.value));
    this.tiles.forEach((tile, number) => {
      tile.hidden = !found[number];
    });
    this.said.textContent = this.entries.length ? `${found.filter(Boolean).length} of ${this.entries.length}` : "nothing is saved yet";
  }

  tile(entry) {
    const tile = element("button", "tile", { type: "button", title: describe(entry) });
    tile.dataset.name = entry.name;
    tile.classList.toggle("chosen", entry.name === this.widget.value);
    const source = api.apiURL(`/deepexpo/thumbnail?name=${encodeURIComponent(entry.name)}`);
    tile.append(
      entry.has_picture ? element("img", "", { src: source, alt: "", loading: "lazy" }) : element("div", "blank", { textContent: "☺" }),
      element("span", "", { textContent: entry.title }),
    );
    tile.addEventListener("click", () => this.choose(entry.name));
    return tile;
  }

  choose(name) {
    this.widget.value = name;
    this.widget.callback?.(name);
    this.mark();
    this.redraw();
  }

  mark() {
    for (const tile of this.tiles) tile.classList.toggle("chosen", tile.dataset.name === this.widget.value);
  }

  async export() {
    const answer = await ask(`export?kind=${this.kind}`);
    const link = element("a", "", { href: URL.createObjectURL(await answer.blob()), download: `deepexpo-${this.kind}.zip` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  async import() {
    const [file] = this.file.files;
    this.file.value = "";
    if (!file) return;
    const { names } = await (await ask("import", { method: "POST", body: file })).json();
    await this.load();
    this.said.textContent = `${names.length} imported`;
  }
}

app.registerExtension({
  name: "DeepExPo.Library",
  setup() {
    document.head.append(element("style", "", { textContent: STYLE }));
  },
  nodeCreated(node) {
    const kind = KINDS[node.comfyClass];
    const widget = node.widgets?.find(({ name }) => name === "name");
    if (!kind || !widget) return;
    const library = new Library(kind, widget, () => node.setDirtyCanvas?.(true, true));
    const shown = node.addDOMWidget("library", "deepexpo-library", library.root, {
      serialize: false,
      getMinHeight: () => HEIGHT,
      getValue: () => "",
      setValue: () => {},
    });
    shown.serialize = false;
    const callback = widget.callback;
    widget.callback = function (...values) {
      const result = callback?.apply(this, values);
      library.mark();
      return result;
    };
    const [width, height] = node.size;
    node.setSize([Math.max(width, 260), Math.max(height, HEIGHT + 80)]);
    library.attempt(() => library.load());
  },
});
