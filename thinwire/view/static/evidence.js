// The strip above the picture: everything that the checks measured, so that nobody takes a picture for a proof.

import { el, refill } from "./dom.js";
import { nats, num, percent, plural } from "./format.js";
import { sparkline } from "./sparkline.js";

/** @typedef {import("./data.js").Measurement} Measurement */

/** The worst status comes first. */
const STATUSES = /** @type {import("./data.js").Status[]} */ (["fail", "warn", "pass", "info"]);
const SIGNS = { fail: "✗", warn: "!", pass: "✓", info: "" };
const ABLATIONS = /** @type {Record<string, string>} */ ({
  none: "nothing ablated", mean: "nodes ablated to their mean over pretraining text", zero: "nodes ablated to zero",
  task_mean: "nodes ablated to their mean over the task's prompts", resample: "nodes ablated to another pair's values",
});
/** Colours of checks in the strip and on the axis, as `--check-0` and so on; further checks use them again. */
const COLOURS = 8;

/**
 * The worst status among measurements.
 * @param {Measurement[]} measurements
 */
export function worst(measurements) {
  return STATUSES.find((status) => measurements.some((measurement) => measurement.status === status)) ?? "info";
}

/**
 * One cell per check with all its measurements, one for the circuit's size, and one axis with all losses.
 * @param {import("./data.js").TaskView} task
 */
export function evidence(task) {
  const groups = [...new Set(task.measurements.map(({ check }) => check))].map((check) => task.measurements.filter((one) => one.check === check));
  const tip = el("div", { class: "tip", hidden: true, "aria-hidden": "true" });
  const { nodes, edges, embedding_edges: read, unembedding_edges: written } = task.counts;
  const size = "Edges are nonzero weights between two kept nodes. Edges of the embedding and unembedding are counted separately.";
  return [
    el("div", { class: "cells" }, groups.map((group, index) => cell(group, index, tip)),
      el("div", { class: "cell size", title: size }, el("h3", {}, "size"),
        el("p", { class: "value" }, String(nodes), el("small", {}, nodes === 1 ? " node" : " nodes")),
        el("p", { class: "under" }, plural(edges, "edge")),
        el("p", { class: "under" }, `${read} embedding, ${written} unembedding`))),
    axis(task, groups),
    tip,
  ];
}

/** @param {number} index */
function colour(index) {
  return { "--check": `var(--check-${index % COLOURS})` };
}

/**
 * A value for reading: percent for fractions, three decimals for losses.
 * @param {number} value
 * @param {string} unit
 */
function amount(value, unit) {
  return unit === "fraction" ? percent(value) : unit === "nats" ? nats(value) : num(value);
}

/** @param {Measurement} one */
function unitOf({ unit, quantity }) {
  return unit === "fraction" ? ` ${quantity}` : quantity.includes(" ") ? ` ${unit}, ${quantity}` : ` ${unit}`;
}

/**
 * A measurement in lines of text: what it is, how to read it, and how it was measured.
 * @param {Measurement} one
 */
function details(one) {
  const { unit, low, high, curve } = one;
  const interval = low === null || high === null ? "" : `, 95 % interval ${amount(low, unit)} to ${amount(high, unit)}`;
  return [
    `${one.title}, ${one.quantity}: ${amount(one.value, unit)}${unit === "fraction" ? "" : ` ${unit}`}${interval}.`,
    one.meaning,
    one.status === "info" ? "" : `${one.status}: ${one.reason}.`,
    `Measured on ${plural(one.n, "pair")}, ${one.split}; ${ABLATIONS[one.ablation] ?? `ablation: ${one.ablation}`}${one.budget ? `; ${one.budget}` : ""}.`,
    curve ? `Curve: ${curve.x_label}; ${range(curve, unit)}${unit === "fraction" ? "" : ` ${unit}`}.` : "",
  ].filter(Boolean);
}

/** @param {import("./data.js").Curve} curve @param {string} unit */
function range(curve, unit) {
  const [low, high] = [curve.y.reduce((a, b) => Math.min(a, b)), curve.y.reduce((a, b) => Math.max(a, b))];
  /** @param {number} value */
  const where = (value) => (curve.labels.length ? ` (${curve.labels[curve.y.indexOf(value)]})` : "");
  return `${amount(low, unit)}${where(low)} to ${amount(high, unit)}${where(high)}`;
}

/**
 * All measurements of one check.
 * @param {Measurement[]} group
 * @param {number} index
 * @param {HTMLElement} tip
 */
function cell(group, index, tip) {
  return el("div", { class: "cell", css: colour(index) },
    el("h3", {}, el("i", { class: "mark" }), group[0].title),
    el("ul", { class: "measurements" }, group.map((one, row) => measured(one, row === 0, tip))),
    group.filter(({ reason }) => reason).map(({ status, reason }) => el("p", { class: `under verdict ${status}` }, `${SIGNS[status]} ${reason}`)),
    spent(group).map((words) => el("p", { class: "under" }, words)));
}

/**
 * What the check spent, each budget once, with the range of the values behind it.
 * @param {Measurement[]} group
 */
function spent(group) {
  const budgets = group.map(({ budget }) => budget);
  const shown = group.filter(({ budget, curve }, row) => curve || (budget && budgets.indexOf(budget) === row));
  return shown.map(({ budget, curve, unit }) => [budget ?? curve?.x_label, curve ? range(curve, unit) : ""].filter(Boolean).join(": "));
}

/**
 * @param {Measurement} one
 * @param {boolean} first
 * @param {HTMLElement} tip
 */
function measured(one, first, tip) {
  const { unit, low, high, curve } = one;
  const lines = details(one);
  const show = (/** @type {Event} */ event) => showBelow(tip, /** @type {HTMLElement} */ (event.currentTarget), lines);
  const hide = () => { tip.hidden = true; };
  return el("li", {
    class: first ? "measurement first" : "measurement", tabindex: 0, "data-name": `${one.check}.${one.quantity}`,
    on: { pointerenter: show, focus: show, pointerleave: hide, blur: hide },
  }, el("i", { class: `dot ${one.status}` }),
  el("span", { class: "visually-hidden" }, lines.join(" ")),
  el("span", { class: "value", "aria-hidden": "true" }, amount(one.value, unit), el("small", {}, unitOf(one))),
  curve ? el("span", { "aria-hidden": "true" }, sparkline(curve)) : null,
  el("span", { class: "n", "aria-hidden": "true" },
    low === null || high === null ? null : `${amount(low, unit)} … ${amount(high, unit)} · `, `n = ${one.n.toLocaleString("en-US")}`));
}

/**
 * Show the tip below an element, inside the strip.
 * @param {HTMLElement} tip
 * @param {HTMLElement} below
 * @param {string[]} lines
 */
function showBelow(tip, below, lines) {
  refill(tip, lines.map((line) => el("p", {}, line)));
  tip.hidden = false;
  const [strip, box] = [/** @type {HTMLElement} */ (tip.parentElement).getBoundingClientRect(), below.getBoundingClientRect()];
  tip.style.top = `${box.bottom - strip.top + 6}px`;
  tip.style.left = `${Math.max(8, Math.min(box.left - strip.left, strip.width - tip.offsetWidth - 8))}px`;
}

/**
 * Every measurement in nats on one axis, with its interval and the range of its curve.
 * @param {import("./data.js").TaskView} task
 * @param {Measurement[][]} groups
 */
function axis({ target_loss: target, guessing_loss: guessing }, groups) {
  const losses = groups.flatMap((group, index) => group.filter(({ unit }) => unit === "nats").map((one) => ({ one, index })));
  const top = Math.max(guessing, target ?? 0, ...losses.flatMap(({ one }) => [one.value, one.high ?? 0, ...(one.curve?.y ?? [])])) * 1.06 || 1;
  /** @param {number} value */
  const at = (value) => `${(100 * Math.max(0, value)) / top}%`;
  /** @param {string} kind @param {number} index @param {number} from @param {number} to */
  const span = (kind, index, from, to) => el("i", { class: kind, css: { ...colour(index), left: at(from), width: at(to - from) } });
  /** @param {number} value @param {string} name */
  const line = (value, name) => el("span", { class: `line ${name}`, css: { left: at(value) } }, el("b", {}, `${name} ${nats(value)}`));
  const words = losses.map(({ one }) => `${one.title} ${nats(one.value)}`).join(", ");
  return el("div", { class: "lossaxis", role: "img", "aria-label": `All losses on one axis: ${words}` },
    el("span", { class: "name" }, "task loss, nats"),
    el("div", { class: "track" }, line(guessing, "guessing"), target === null ? null : line(target, "target"),
      losses.map(({ one, index }) => one.curve ? span("range", index, Math.min(...one.curve.y), Math.max(...one.curve.y)) : null),
      losses.map(({ one, index }) => one.low === null || one.high === null ? null : span("interval", index, one.low, one.high)),
      losses.map(({ one, index }) => el("i", { class: "mark", css: { ...colour(index), left: at(one.value) }, title: `${one.title}: ${nats(one.value)} nats` }))));
}

/**
 * One line on the model, with hashes, so that the page can be traced.
 * @param {Record<string, any>} model
 */
export function modelLine(model) {
  const facts = [
    [`${model.n_layers} layers × ${model.d_model}`, `${model.n_heads} heads of ${model.d_head}, d_mlp ${model.d_mlp}, context ${model.context}, vocabulary ${model.vocab_size}`],
    [model.weights, "Nonzero entries of all matrices, embeddings and biases that training makes sparse; the bigram table stays dense"],
    model.val_loss === null ? null : [`val loss ${nats(model.val_loss)}`, "Cross-entropy on held-out pretraining text, nats per token"],
    model.seed === null ? null : [`seed ${model.seed}`, "Training seed"],
    [`model ${model.model_id.slice(0, 8)}`, `Content hashes: model ${model.model_id}, tokenizer ${model.tokenizer_id}, tokens ${model.tokens_id}`],
  ];
  return facts.filter((fact) => fact !== null).map((fact) => el("span", { title: fact[1] }, fact[0]));
}
