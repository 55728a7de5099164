// The panel of a node: its edges, its mean, how active it is, and the texts where it is strongest.

import { headOf } from "./attention.js";
import { el, factList, refill } from "./dom.js";
import { nats, num, plural, signed } from "./format.js";
import { heatmap, scaleBar } from "./heatmap.js";
import { histogram } from "./histogram.js";
import { called, relations, ROLES } from "./relations.js";

/** @typedef {{payload: import("./data.js").Payload, task: import("./data.js").TaskView, drawing: import("./data.js").Drawing,
 *   select: (item: number | null) => void}} Context */

/**
 * @param {Context} context
 * @param {number} item
 * @param {import("./data.js").NodeView} node
 */
export function nodePanel(context, item, node) {
  return [
    panelHead(context, node.name, `Layer ${node.layer}${node.head === null ? "" : `, head ${node.head}`}: ${ROLES[node.kind]}`),
    nodeFacts(context.task, node),
    headOf(context, node),
    edgeLists(context, item, node.bias),
    el("section", {}, el("h3", {}, "Activation over pretraining text"),
      node.activity ? histogram(node.activity, node.mean) : el("p", { class: "note" }, "Not sampled.")),
    texts(context, node),
  ];
}

/**
 * @param {Context} context
 * @param {string} name
 * @param {string} role
 */
export function panelHead(context, name, role) {
  return el("header", { class: "panelhead" },
    el("h2", { class: "mono" }, name),
    el("button", { type: "button", class: "close", title: "Back to the task (Esc)", "aria-label": "Close", on: { click: () => context.select(null) } }, "×"),
    el("p", {}, role));
}

/**
 * @param {import("./data.js").TaskView} task
 * @param {import("./data.js").NodeView} node
 */
function nodeFacts(task, node) {
  /** @type {[string, string, string?][]} */
  const facts = [["mean", num(node.mean), "The value that the node is ablated to: by default its mean activation over pretraining text"]];
  if (node.strength !== null) facts.push(["loss when ablated", signed(node.strength), task.strength_label]);
  if (node.sides) task.sides.forEach((side, index) => facts.push([side, signed(/** @type {number[]} */ (node.sides)[index]),
    "Mean over this side's prompts of the activation of largest magnitude within the prompt"]));
  return factList(facts);
}

/**
 * Tables of weights in and out, and the residual channel's other readers or writers.
 * @param {Context} context
 * @param {number} item
 * @param {number | null} bias
 */
export function edgeLists(context, item, bias) {
  const { incoming, outgoing, before, after, channel } = relations(context.drawing, context.task, item);
  const most = Math.max(0, ...[...incoming, ...outgoing].map((end) => Math.abs(end.weight)));
  /** @param {string} title @param {import("./relations.js").End[]} ends */
  const table = (title, ends) => ends.length ? [el("h4", {}, title), el("ul", { class: "edges" }, ends.map((end) =>
    el("li", {}, weightBar(end.weight, most), jump(context, end.item))))] : [];
  /** @param {string} title @param {number[]} items */
  const list = (title, items) => items.length ? [el("h4", {}, title), el("ul", { class: "edges" }, items.map((other) =>
    el("li", {}, el("span", { class: "channel" }, `ch ${channel}`), jump(context, other))))] : [];
  const parts = [
    ...list("Channel written by", before), ...table("Edges in", incoming),
    ...(bias ? [el("h4", {}, "Bias"), el("ul", { class: "edges" }, el("li", {}, weightBar(bias, Math.max(most, Math.abs(bias))), el("span", {}, "constant")))] : []),
    ...table("Edges out", outgoing), ...list("Channel read by", after),
  ];
  return el("section", { class: "edgelists" }, el("h3", {}, "Edges"),
    parts.length ? parts : el("p", { class: "note" }, "No edge to another kept node: it adds a constant, or nothing."));
}

/**
 * A weight as a number and a signed bar.
 * @param {number} weight
 * @param {number} most
 */
export function weightBar(weight, most) {
  const length = most ? `${(100 * Math.abs(weight)) / most}%` : "0%";
  return el("span", { class: `weight ${weight < 0 ? "neg" : "pos"}`, title: String(weight) },
    el("i", { css: { width: length } }), el("b", {}, signed(weight)));
}

/**
 * A button that goes to another item.
 * @param {Context} context
 * @param {number} item
 */
function jump(context, item) {
  return el("button", { type: "button", class: "jump mono", on: { click: () => context.select(item) } }, called(context.drawing, context.task, item));
}

/**
 * Texts of both signs, from pretraining text or from the task's own prompts.
 * @param {Context} context
 * @param {import("./data.js").NodeView} node
 */
function texts(context, node) {
  const { vocab } = context.payload;
  const windows = [...node.positive, ...node.negative];
  const scale = Math.max(0, ...[...windows.map((window) => window.activations), ...node.on_prompts].flat().map(Math.abs));
  /** @param {string} title @param {string} key @param {import("./data.js").Window_[]} found */
  const side = (title, key, found) => el("div", { class: `side ${key}` }, el("h4", {}, title),
    found.length ? found.map((window) => el("article", { class: "text" }, heatmap(window, vocab, scale),
      el("footer", {}, el("b", {}, signed(window.activations[window.peak])), ` ${window.source}`))) :
      el("p", { class: "note" }, "None in the sampled text."));
  const body = el("div", { class: "texts" });
  const shows = {
    "Pretraining text": () => [side("Strongest positive", "pos", node.positive), side("Strongest negative", "neg", node.negative)],
    "Task prompts": () => prompts(context, node, scale),
  };
  const tabs = el("div", { class: "segmented", role: "group", "aria-label": "Which texts" });
  for (const [name, show] of Object.entries(shows)) {
    tabs.append(el("button", { type: "button", "aria-pressed": "false", on: { click: () => open(name, show) } }, name));
  }
  /** @param {string} name @param {() => HTMLElement[]} show */
  const open = (name, show) => {
    for (const tab of tabs.children) tab.setAttribute("aria-pressed", String(tab.textContent === name));
    refill(body, show());
  };
  open("Pretraining text", shows["Pretraining text"]);
  return el("section", {}, el("h3", {}, "Where it is strongest"), tabs, scaleBar(scale), body);
}

/**
 * The task's example prompts, both sides, as heatmaps.
 * @param {Context} context
 * @param {import("./data.js").NodeView} node
 * @param {number} scale
 */
function prompts(context, node, scale) {
  const { task, payload } = context;
  if (!node.on_prompts.length) return [el("p", { class: "note" }, "The page holds no prompts of this task.")];
  return task.pairs.map((pair, number) => el("div", { class: "side" }, el("h4", {}, `Pair ${number + 1}`),
    [pair.first, pair.second].map((prompt, side) => {
      const activations = node.on_prompts[2 * number + side];
      const sizes = activations.map(Math.abs);
      const peak = sizes.indexOf(Math.max(...sizes));
      return el("article", { class: "text" }, heatmap({ tokens: prompt.tokens, activations, peak }, payload.vocab, scale, true),
        el("footer", {}, el("b", {}, signed(activations[peak])), ` ${task.sides[side]}`));
    })));
}

/** @param {import("./data.js").TaskView} task @param {import("./data.js").NodeView} node */
export function spoken(task, node) {
  const alone = node.strength === null ? "" : `, the loss rises by ${nats(node.strength)} nats when it is ablated`;
  return `${node.name} selected: ${ROLES[node.kind]}${alone}; ${plural(node.positive.length + node.negative.length, "text")} in the panel.`;
}
