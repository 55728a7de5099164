// Measurements of checks: their words, their gauges, and the folded list of all of them.

import { el, refill } from "./dom.js";
import { nats, num, percent, plural } from "./format.js";
import { sparkline } from "./sparkline.js";

/** @typedef {import("./data.js").Measurement} Measurement */

/** The worst status comes first. */
const STATUSES = /** @type {import("./data.js").Status[]} */ (["fail", "warn", "pass", "info"]);
export const SIGNS = { fail: "✗", warn: "!", pass: "✓", info: "·" };
const ABLATIONS = /** @type {Record<string, string>} */ ({
  none: "nothing ablated", mean: "nodes ablated to their mean over pretraining text", zero: "nodes ablated to zero",
  task_mean: "nodes ablated to their mean over the task's prompts", resample: "nodes at their values in another pair's prompt",
  other_side: "nodes at their values in the pair's other prompt", pretraining: "nodes at their values in a pretraining sequence",
  scattered: "nodes at their values at scattered pretraining positions",
});
/** What a reason repeats of the threshold beside it. */
const JUDGED = /^(at most|above|at least|below) -?[\d.e+-]+( (?!after|before)[a-z]+)?(, |$)/;

/**
 * The worst status among measurements.
 * @param {Measurement[]} measurements
 */
export function worst(measurements) {
  return STATUSES.find((status) => measurements.some((measurement) => measurement.status === status)) ?? "info";
}

/**
 * The measurements of each check, in order.
 * @param {Measurement[]} measurements
 */
export function checksOf(measurements) {
  return [...new Set(measurements.map(({ check }) => check))].map((check) => measurements.filter((one) => one.check === check));
}

/**
 * A value for reading: percent for fractions, three decimals for losses.
 * @param {number} value
 * @param {string} unit
 */
export function amount(value, unit) {
  return unit === "fraction" ? percent(value) : unit === "nats" ? nats(value) : num(value);
}

/**
 * What follows a value: its unit, and what was measured.
 * @param {Measurement} one
 */
export function sized({ unit, quantity }) {
  return unit === "fraction" ? ` ${quantity}` : ` ${unit}${quantity.includes(unit) ? "" : ` ${quantity}`}`;
}

/** @param {Measurement} one */
export function intervalOf({ low, high, unit }) {
  return low === null || high === null ? "" : `${amount(low, unit)} … ${amount(high, unit)}`;
}

/** @param {Measurement} one */
export function limitOf({ limit, at_most: most, unit }) {
  if (limit === null) return "";
  const text = Number((unit === "fraction" ? 100 * limit : limit).toPrecision(4));
  return `${most ? "≤" : "≥"} ${text}${unit === "fraction" ? " %" : ""}`;
}

/**
 * A measurement in lines of text: what it is, how to read it, and how it was measured.
 * @param {Measurement} one
 */
export function details(one) {
  const { unit, low, high, curve } = one;
  const after = unit === "fraction" ? "" : ` ${unit}`;
  const interval = low === null || high === null ? "" : `, 95 % interval ${amount(low, unit)} to ${amount(high, unit)}`;
  return [
    `${one.title}, ${one.quantity}: ${amount(one.value, unit)}${after}${interval}.`,
    one.status === "info" ? "" : `${one.status}: ${one.reason}${one.limit === null ? "" : `; passes ${limitOf(one)}${after}`}.`,
    one.meaning,
    `Measured on ${plural(one.n, "pair")}, ${one.split}; ${ABLATIONS[one.ablation] ?? `ablation: ${one.ablation.replaceAll("_", " ")}`}${one.budget ? `; ${one.budget}` : ""}.`,
    curve ? `Curve: ${curve.x_label}; ${range(curve, unit)}${after}.` : "",
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
 * Value, interval and threshold on one scale; the values that pass are shaded. Null without a threshold.
 * @param {Measurement} one
 */
export function gauge({ value, low, high, limit, at_most: most, unit }) {
  if (limit === null) return null;
  const from = Math.min(0, value, low ?? 0);
  const to = Math.max(unit === "fraction" ? 1 : 2 * limit, value, high ?? 0) || 1;
  /** @param {number} x */
  const at = (x) => (100 * (x - from)) / (to - from);
  /** @param {string} kind @param {number} start @param {number} end */
  const span = (kind, start, end) => el("i", { class: kind, css: { left: `${at(start)}%`, width: `${at(end) - at(start)}%` } });
  return el("div", { class: "gauge", "aria-hidden": "true" },
    most ? span("passing", from, limit) : span("passing", limit, to), el("i", { class: "limit", css: { left: `${at(limit)}%` } }),
    low === null || high === null ? null : span("between", low, high), el("i", { class: "at", css: { left: `${at(value)}%` } }));
}

/**
 * All measurements by check, folded.
 * @param {Measurement[]} measurements
 * @param {HTMLElement} tip
 */
export function measurementList(measurements, tip) {
  const groups = checksOf(measurements);
  return el("details", { class: "every" },
    el("summary", {}, `All measurements: ${measurements.length} of ${plural(groups.length, "check")}, with 95 % intervals and what passes`),
    el("div", { class: "scroller" }, el("div", { class: "groups" }, groups.map((group) => checkGroup(group, tip)))));
}

/**
 * All measurements of one check.
 * @param {Measurement[]} group
 * @param {HTMLElement} tip
 */
function checkGroup(group, tip) {
  const status = worst(group);
  const pairs = [...new Set(group.map(({ n, split }) => `${plural(n, "pair")}, ${split}`))].join("; ");
  const reasons = group.map((one) => ({ ...one, reason: one.reason.replace(JUDGED, "") })).filter(({ reason }) => reason);
  const budgets = [...new Set(group.map(({ budget }) => budget).filter(Boolean))];
  return el("section", { class: "group", tabindex: -1, "data-check": group[0].check, "aria-label": group[0].title },
    el("h3", {}, el("i", { class: `sign ${status}`, "aria-hidden": "true" }, SIGNS[status]), el("span", {}, group[0].title)),
    el("ul", { class: "measurements" }, group.map((one) => measured(one, tip))),
    reasons.map((one) => el("p", { class: `under judged ${one.status}` }, `${SIGNS[one.status]} ${one.quantity}: ${one.reason}`)),
    el("p", { class: "under" }, [pairs, ...budgets].join("; ")));
}

/**
 * @param {Measurement} one
 * @param {HTMLElement} tip
 */
function measured(one, tip) {
  const lines = details(one);
  return el("li", { class: "measurement", tabindex: 0, "data-name": `${one.check}.${one.quantity}`, on: tipOn(tip, lines) },
    el("span", { class: "visually-hidden" }, lines.join(" ")),
    el("span", { class: "value", "aria-hidden": "true" }, el("i", { class: `dot ${one.status}` }), amount(one.value, one.unit), el("small", {}, sized(one))),
    el("span", { class: "n", "aria-hidden": "true" }, intervalOf(one)), el("span", { class: "n", "aria-hidden": "true" }, limitOf(one)),
    one.curve ? el("span", { "aria-hidden": "true" }, sparkline(one.curve)) : null);
}

/**
 * Listeners that show lines of text in the tip while an element is hovered or in focus.
 * @param {HTMLElement} tip
 * @param {string[]} lines
 */
export function tipOn(tip, lines) {
  const show = (/** @type {Event} */ event) => showBelow(tip, /** @type {HTMLElement} */ (event.currentTarget), lines);
  const hide = () => { tip.hidden = true; };
  return { pointerenter: show, focus: show, pointerleave: hide, blur: hide };
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
