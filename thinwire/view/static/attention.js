// What a head attends to at the last token of a prompt: in the circuit and in the whole model, side by side.

import { el, refill } from "./dom.js";
import { glyphs, plural } from "./format.js";
import { tokenSpan } from "./heatmap.js";
import { SIGNS } from "./measurements.js";

/** @typedef {import("./data.js").HeadView} HeadView */
/** @typedef {import("./data.js").Pair} Pair */
/** A strongest weight of at most so many times the mean one is no more than the others. */
const EVEN = 1.25;

/** @typedef {{token: number | null, other: number | null, from: number | null, to: number | null}} Step */

/**
 * Every kept head of a task, folded; one is drawn when it is opened.
 * @param {import("./panel_node.js").Context} context
 */
export function headList(context) {
  const { heads } = context.task;
  if (!heads.length) return null;
  return el("section", { class: "heads" }, el("h3", {}, "What the heads attend to"),
    el("p", { class: "note" }, "At the last token of a prompt, where the answer is decided. A head whose attention in the circuit is not the whole model's does something else there than in the model."),
    heads.map((head) => {
      const body = el("div", {});
      const fold = el("details", { "data-head": `${head.layer}.${head.head}`, on: { toggle: () => { if (!body.childElementCount) refill(body, patterns(context, head)); } } },
        el("summary", {}, el("span", { class: "mono" }, `head ${head.layer}.${head.head}`), " ", judgement(head)), body);
      return fold;
    }));
}

/**
 * The head of a q, k or v node, open; null for other nodes.
 * @param {import("./panel_node.js").Context} context
 * @param {import("./data.js").NodeView} node
 */
export function headOf(context, node) {
  const head = context.task.heads.find((each) => each.layer === node.layer && each.head === node.head);
  if (!head) return null;
  return el("section", { class: "heads" }, el("h3", {}, `What head ${head.layer}.${head.head} attends to`),
    el("p", {}, judgement(head)), patterns(context, head));
}

/** @param {HeadView} head */
function judgement(head) {
  return el("span", { class: `judged ${head.status}` }, el("i", { class: `sign ${head.status}`, "aria-hidden": "true" }, SIGNS[head.status]), ` ${head.reason}`);
}

/**
 * The patterns of one pair at a time, and buttons for the others.
 * @param {import("./panel_node.js").Context} context
 * @param {HeadView} head
 */
function patterns(context, head) {
  const { pairs, sides } = context.task;
  /** @param {[number, number]} values */
  const both = (values) => values.map((value) => value.toFixed(2)).join(" and ");
  const measured = el("p", { class: "note" }, `Total variation between the two patterns: ${both(head.distance)} (${sides.join("; ")}). From equal weights on all tokens: ${both(head.circuit_uneven)} in the circuit, ${both(head.model_uneven)} in the whole model. Means over ${plural(head.prompts, "prompt")} a side.`);
  if (!head.circuit.length || !pairs.length) return [measured, el("p", { class: "note" }, "The page keeps no pattern of this head.")];
  const body = el("div", { class: "patterns" });
  const tabs = el("div", { class: "segmented", role: "group", "aria-label": "Which pair" });
  /** @param {number} number */
  const open = (number) => {
    [...tabs.children].forEach((tab, index) => tab.setAttribute("aria-pressed", String(index === number)));
    refill(body, pairRows(context, head, number));
  };
  pairs.forEach((_, number) => tabs.append(el("button", { type: "button", "aria-pressed": "false", on: { click: () => open(number) } }, `Pair ${number + 1}`)));
  open(0);
  return [measured, tabs, body];
}

/**
 * Both prompts of a pair and their difference, each in the circuit and in the whole model.
 * @param {import("./panel_node.js").Context} context
 * @param {HeadView} head
 * @param {number} number
 */
function pairRows({ payload, task }, head, number) {
  const pair = task.pairs[number];
  const sides = [pair.first, pair.second];
  const views = [{ name: "in the circuit", rows: head.circuit }, { name: "in the whole model", rows: head.model }];
  /** @param {string} title @param {(rows: number[][]) => HTMLElement} cell */
  const row = (title, cell) => [el("h4", { class: "across" }, title), ...views.map(({ name, rows }) =>
    el("div", { class: "text", role: "group", "aria-label": `${title}, ${name}` }, cell(rows)))];
  return [
    ...views.map(({ name }) => el("b", { class: "column" }, name)),
    ...sides.flatMap(({ tokens }, side) => row(task.sides[side], (rows) => pattern(tokens, rows[2 * number + side], head.sink, payload.vocab))),
    ...row("difference, second less first", (rows) => difference(pair, rows[2 * number], rows[2 * number + 1], head.sink, payload.vocab)),
  ];
}

/**
 * A prompt with the weight of each token; the sink follows it.
 * @param {number[]} tokens
 * @param {number[]} weights
 * @param {boolean} sink
 * @param {string[]} vocab
 */
function pattern(tokens, weights, sink, vocab) {
  const most = tokens.reduce((best, _, index) => (weights[index] > weights[best] ? index : best), 0);
  const mean = tokens.reduce((sum, _, index) => sum + weights[index], 0) / tokens.length;
  const even = weights[most] <= EVEN * mean;
  return el("div", {}, el("code", { class: "heatmap" }, tokens.map((token, index) => weighed(vocab[token], weights[index], index === most && !even))),
    el("footer", {}, even ? el("span", {}, `${share(mean)} for every token`) : el("span", {}, el("b", { class: "mono" }, glyphs(vocab[tokens[most]])), ` ${share(weights[most])}`), sink ? sinkShare(weights[tokens.length]) : null));
}

/**
 * What the second prompt gets more, or less, than the first.
 * @param {Pair} pair
 * @param {number[]} first
 * @param {number[]} second
 * @param {boolean} sink
 * @param {string[]} vocab
 */
function difference(pair, first, second, sink, vocab) {
  const steps = aligned(pair.first.tokens, pair.second.tokens).map((step) => ({
    ...step, change: (step.to === null ? 0 : second[step.to]) - (step.from === null ? 0 : first[step.from]),
  }));
  const most = steps.reduce((best, step) => (Math.abs(step.change) > Math.abs(best.change) ? step : best), steps[0]);
  /** @param {Step} step */
  const name = ({ token, other }) => [token, other].filter((each, index, all) => each !== null && all.indexOf(each) === index).map((each) => vocab[/** @type {number} */ (each)]);
  const spans = steps.flatMap((step) => name(step).map((text) => {
    const span = weighed(text, step.change, step === most && step.change !== 0);
    if (step.token !== step.other) span.classList.add("differs");
    return span;
  }));
  return el("div", {}, el("code", { class: "heatmap" }, spans),
    el("footer", {}, el("span", {}, el("b", { class: "mono" }, name(most).map(glyphs).join(" → ")), ` ${share(most.change, true)}`),
      sink ? sinkShare(/** @type {number} */ (second.at(-1)) - /** @type {number} */ (first.at(-1)), true) : null));
}

/** @param {string} text @param {number} weight @param {boolean} boxed */
function weighed(text, weight, boxed) {
  const span = tokenSpan(text, weight, 1, boxed);
  span.title = share(weight, weight < 0);
  return span;
}

/** @param {number} weight @param {boolean} [sign] */
function sinkShare(weight, sign = false) {
  return el("span", { class: "sinkshare", title: "The sink takes this part of the attention and gives nothing" },
    el("i", { class: `token ${weight < 0 ? "neg" : "pos"}`, css: { "--heat": `${Math.round(8 + 72 * Math.min(1, Math.abs(weight)))}%` } }, "sink"), ` ${share(weight, sign)}`);
}

/** @param {number} weight @param {boolean} [sign] */
function share(weight, sign = false) {
  return `${weight < 0 ? "−" : sign && weight > 0 ? "+" : ""}${Math.abs(weight).toFixed(2)}`;
}

/**
 * Two prompts token by token: equal beginnings and equal ends belong together, and so does what is between, in order.
 * @param {number[]} first
 * @param {number[]} second
 * @returns {Step[]}
 */
export function aligned(first, second) {
  const { start, end } = common(first, second);
  const steps = Math.max(first.length, second.length) - start - end;
  /** @param {number} from @param {number} to */
  const same = (from, to) => ({ token: first[from], other: second[to], from, to });
  return [
    ...first.slice(0, start).map((_, index) => same(index, index)),
    ...Array.from({ length: steps }, (_, step) => {
      const from = start + step < first.length - end ? start + step : null;
      const to = start + step < second.length - end ? start + step : null;
      return { token: from === null ? null : first[from], other: to === null ? null : second[to], from, to };
    }),
    ...Array.from({ length: end }, (_, step) => same(first.length - end + step, second.length - end + step)),
  ];
}

/**
 * How many tokens two prompts begin with alike, and how many of the rest they end with alike.
 * @param {number[]} first
 * @param {number[]} second
 */
export function common(first, second) {
  let start = 0;
  while (start < first.length && first[start] === second[start]) start += 1;
  let end = 0;
  const shorter = Math.min(first.length, second.length) - start;
  while (end < shorter && first.at(-1 - end) === second.at(-1 - end)) end += 1;
  return { start, end };
}
