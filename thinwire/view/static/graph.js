// The picture: edges on a canvas, items as buttons above it, row names in a gutter that stays in sight.

import { el, refill } from "./dom.js";
import { plural, signed } from "./format.js";
import { attempt, onResize } from "./guard.js";
import { SIGNS } from "./measurements.js";
import { called, company, relations, ROLES } from "./relations.js";
import { Viewport } from "./viewport.js";
import { drawEdges } from "./edges.js";

/** Room for the names of rows, and what is left of it on a phone, where they are not shown. */
const GUTTER = 158;
const SLIM_GUTTER = 8;
const PHONE = 560;
/** With more edges than this, gestures move the finished canvas and it is redrawn when they end. */
const REDRAW_AT_ONCE = 1200;
const SETTLED = 120;

export class Graph {
  /**
   * @param {HTMLElement} root
   * @param {(item: number | null) => void} onSelect
   */
  constructor(root, onSelect) {
    this.onSelect = onSelect;
    this.selected = /** @type {number | null} */ (null);
    this.hovered = /** @type {number | null} */ (null);
    this.drawn = { zoom: 1, x: 0, y: 0 };
    this.timer = 0;
    this.canvas = /** @type {HTMLCanvasElement} */ (el("canvas", { "aria-hidden": "true" }));
    this.layer = el("div", { class: "layer" });
    this.gutter = el("div", { class: "gutter", "aria-hidden": "true" });
    /** @param {string} sign @param {string} name @param {() => void} act */
    const tool = (sign, name, act) => el("button", { type: "button", title: name, "aria-label": name, on: { click: act } }, sign);
    const tools = el("div", { class: "tools" }, tool("+", "Zoom in (+)", () => this.view.zoomBy(1.3)),
      tool("−", "Zoom out (−)", () => this.view.zoomBy(1 / 1.3)), tool("⤢", "Fit (0)", () => this.fit()));
    refill(root, this.canvas, this.gutter, this.layer, tools);
    this.root = root;
    this.view = new Viewport(root, () => this.moved());
    this.layer.addEventListener("keydown", (event) => this.key(event));
    root.addEventListener("click", (event) => {
      if (event.target === this.canvas || event.target === this.layer) onSelect(null);
    });
    onResize(root, () => this.resized());
    attempt(() => matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint()));
  }

  /**
   * Show a task's picture.
   * @param {import("./data.js").Drawing} drawing
   * @param {import("./data.js").TaskView} task
   */
  show(drawing, task) {
    this.drawing = drawing;
    this.task = task;
    this.selected = this.hovered = null;
    const most = Math.max(1e-12, ...task.nodes.map((node) => node.strength ?? 0));
    const loudest = Math.max(1e-12, ...task.nodes.flatMap((node) => node.sides ?? []).map(Math.abs));
    this.buttons = drawing.items.map((item, index) => this.button(item, index, most, loudest));
    /** @param {{layer: number, head: number}} box */
    const oddHead = (box) => task.heads.find((head) => head.layer === box.layer && head.head === box.head && head.status !== "pass");
    refill(this.layer, drawing.boxes.map((box) => ({ box, odd: oddHead(box) })).map(({ box, odd }) => el("div", {
      class: `head ${odd?.status ?? ""}`, css: { left: `${box.x}px`, top: `${box.y}px`, width: `${box.width}px`, height: `${box.height}px` },
    }, el("span", { title: odd?.reason }, odd ? `${SIGNS[odd.status]} ` : "", box.label))), this.buttons);
    this.names = [
      ...drawing.bands.map((band) => ({ at: band.top + 6, tall: band.bottom - band.top, part: el("div", { class: "band" }, el("b", {}, band.label)) })),
      ...drawing.rows.map((row) => ({ at: row.y, tall: 0, part: el("div", { class: "rowname" }, row.label) })),
    ];
    refill(this.gutter, this.names.map((name) => name.part));
    this.root.classList.toggle("empty", !drawing.items.length);
    this.root.style.setProperty("--tall", String(drawing.height / (drawing.width || 1)));
    this.view.touched = false;
    this.resized();
  }

  /**
   * @param {import("./data.js").Item} item
   * @param {number} index
   * @param {number} most
   * @param {number} loudest
   */
  button(item, index, most, loudest) {
    const node = item.node === null || !this.task ? null : this.task.nodes[item.node];
    const kind = node ? node.kind.split(".")[1] : item.kind;
    /** @param {number} value */
    const heat = (value) => ({ class: value < 0 ? "neg" : "pos", css: { "--heat": `${Math.round(100 * Math.min(1, Math.abs(value) / loudest))}%` } });
    const hint = node ? `${node.name}\n${ROLES[node.kind]}${node.strength === null ? "" : `\nloss when ablated: ${signed(node.strength)}`}` : item.label;
    return el("button", {
      type: "button", class: `item ${item.kind} ${kind}`, title: hint, "aria-pressed": "false", "data-id": item.id,
      css: { left: `${item.x - item.width / 2}px`, top: `${item.y - 13}px`, width: `${item.width}px` },
      on: {
        click: () => this.onSelect(index), pointerenter: () => this.hover(index), pointerleave: () => this.hover(null),
        focus: () => { this.hover(index); this.view.reveal(item.x, item.y, this.margin); }, blur: () => this.hover(null),
      },
    }, el("span", { class: "label" }, item.label),
    node?.sides ? el("span", { class: "sides" }, node.sides.map((value) => el("i", heat(value)))) : null,
    node && node.strength !== null ? el("i", { class: "strength", css: { width: `${(100 * Math.max(0, node.strength)) / most}%` } }) : null);
  }

  /** @param {number | null} item */
  select(item) {
    this.selected = item;
    this.light();
    if (item !== null && this.drawing) this.view.reveal(this.drawing.items[item].x, this.drawing.items[item].y, this.margin);
  }

  /** @param {number | null} item */
  hover(item) {
    this.hovered = item;
    this.light();
  }

  /** Light up the item in focus with its company and dim the rest. */
  light() {
    if (!this.drawing || !this.task || !this.buttons) return;
    const focus = this.hovered ?? this.selected;
    this.lit = focus === null ? null : company(this.drawing, this.task, focus);
    this.layer.classList.toggle("focusing", focus !== null);
    this.buttons.forEach((button, index) => {
      button.classList.toggle("lit", this.lit?.has(index) ?? false);
      button.setAttribute("aria-pressed", String(index === this.selected));
    });
    this.paint();
  }

  /** Pixels at the left that the picture leaves free. */
  get margin() {
    return this.root.clientWidth < PHONE ? SLIM_GUTTER : GUTTER;
  }

  /** Show the picture anew, unless it has been moved by hand. */
  resized() {
    if (this.drawing?.items.length && !this.view.touched) this.view.open(this.drawing.width, this.drawing.height, this.margin);
    else this.paint();
  }

  fit() {
    if (this.drawing?.items.length) this.view.fit(this.drawing.width, this.drawing.height, this.margin);
    else this.paint();
  }

  /** Follow the viewport: items at once; edges at once when they are few, else when the gesture ends. */
  moved() {
    const { zoom, x, y } = this.view;
    this.layer.style.transform = `translate(${x}px, ${y}px) scale(${zoom})`;
    this.root.classList.toggle("far", zoom < 0.4);
    for (const { at, tall, part } of this.names ?? []) {
      part.style.top = `${at * zoom + y}px`;
      if (tall) part.style.height = `${tall * zoom - 2}px`;
    }
    clearTimeout(this.timer);
    if ((this.drawing?.links.length ?? 0) <= REDRAW_AT_ONCE) return this.paint();
    const scale = zoom / this.drawn.zoom;
    this.canvas.style.transform = `translate(${x - this.drawn.x * scale}px, ${y - this.drawn.y * scale}px) scale(${scale})`;
    this.timer = setTimeout(() => this.paint(), SETTLED);
    return undefined;
  }

  /** Draw the edges on the next frame. */
  paint() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      const { clientWidth: wide, clientHeight: tall } = this.root;
      const ratio = window.devicePixelRatio || 1;
      Object.assign(this.canvas, { width: wide * ratio, height: tall * ratio });
      this.canvas.style.transform = "";
      const pen = this.canvas.getContext("2d");
      if (!pen || !this.drawing) return;
      const { zoom, x, y } = this.view;
      pen.setTransform(zoom * ratio, 0, 0, zoom * ratio, x * ratio, y * ratio);
      drawEdges(pen, this.drawing, { focus: this.hovered ?? this.selected, lit: this.lit ?? null, zoom });
      this.drawn = { zoom, x, y };
    });
  }

  /**
   * Arrows move within a row, and along the strongest edge between rows.
   * @param {KeyboardEvent} event
   */
  key(event) {
    const from = this.buttons?.indexOf(/** @type {HTMLElement} */ (event.target)) ?? -1;
    if (from < 0 || !this.drawing || !this.task || event.altKey || event.ctrlKey || event.metaKey) return;
    const { items } = this.drawing;
    const here = items[from];
    /** @param {(item: import("./data.js").Item) => boolean} wanted */
    const nearest = (wanted) => items.map((item, index) => ({ index, far: Math.hypot(item.x - here.x, 3 * (item.y - here.y)), ok: wanted(item) }))
      .filter((other) => other.ok).sort((a, b) => a.far - b.far)[0]?.index;
    const joined = relations(this.drawing, this.task, from);
    const steps = /** @type {Record<string, () => number | undefined>} */ ({
      ArrowLeft: () => nearest((item) => item.y === here.y && item.x < here.x),
      ArrowRight: () => nearest((item) => item.y === here.y && item.x > here.x),
      ArrowUp: () => joined.outgoing[0]?.item ?? joined.after[0] ?? nearest((item) => item.y < here.y),
      ArrowDown: () => joined.incoming[0]?.item ?? joined.before.at(-1) ?? nearest((item) => item.y > here.y),
    });
    const to = steps[event.key]?.();
    if (to === undefined) return;
    event.preventDefault();
    this.buttons?.[to].focus();
  }

  /** @param {number} item */
  name(item) {
    return this.drawing && this.task ? `${called(this.drawing, this.task, item)}, ${plural(this.lit?.size ?? 1, "item")} lit` : "";
  }
}
