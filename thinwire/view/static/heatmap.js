// Text with one node's activation at every token: blue above zero, orange below, the strongest boxed.

import { el } from "./dom.js";
import { num, runs, signed } from "./format.js";

/** Tokens shown on either side of the peak before a click shows the rest. */
const BEFORE = 26;
const AFTER = 12;

/**
 * One token; `activation` null leaves it uncoloured.
 * @param {string} text
 * @param {number | null} activation
 * @param {number} scale activation at which the colour is full
 * @param {boolean} [boxed]
 */
export function tokenSpan(text, activation, scale, boxed = false) {
  const strength = activation === null || scale === 0 ? 0 : Math.min(1, Math.abs(activation) / scale);
  const sign = strength === 0 || activation === null ? "" : activation > 0 ? " pos" : " neg";
  const span = el("span", {
    class: `token${sign}${boxed ? " peak" : ""}`,
    css: strength ? { "--heat": `${Math.round(8 + 72 * strength)}%` } : {},
    title: activation === null ? null : activation === 0 ? "0" : signed(activation),
  });
  for (const run of runs(text)) {
    span.append(run.mark ? el("span", { class: "blank" }, run.text) : run.text);
    if (run.breaks) span.append("\n");
  }
  return span;
}

/**
 * An excerpt of text as a heatmap, cut around its peak when it is long, unless it is to be shown whole.
 * @param {{tokens: number[], activations: number[], peak: number}} window
 * @param {string[]} vocab
 * @param {number} scale
 * @param {boolean} [whole]
 */
export function heatmap(window, vocab, scale, whole = false) {
  const { tokens, activations, peak } = window;
  const from = whole ? 0 : Math.max(0, peak - BEFORE);
  const to = whole ? tokens.length : Math.min(tokens.length, peak + AFTER + 1);
  const code = el("code", { class: "heatmap" });
  /** @param {number} start @param {number} end */
  const spans = (start, end) => tokens.slice(start, end).map((token, offset) =>
    tokenSpan(vocab[token], activations[start + offset], scale, start + offset === peak));
  /** @param {number} start @param {number} end @param {string} word */
  const more = (start, end, word) => start >= end ? [] : [el("button", {
    class: "more", type: "button", title: `Show ${end - start} ${word} tokens`,
    on: { click: (event) => event.currentTarget.replaceWith(...spans(start, end)) },
  }, `… ${end - start} ${word}`)];
  code.append(...more(0, from, "earlier"), ...spans(from, to), ...more(to, tokens.length, "later"));
  return code;
}

/**
 * The colour scale in words and colour.
 * @param {number} scale
 */
export function scaleBar(scale) {
  return el("div", { class: "scale", title: "Colour of a token's background; zero is uncoloured" },
    el("span", {}, `−${num(scale)}`), el("i", { class: "ramp" }), el("span", {}, `+${num(scale)}`),
    el("span", { class: "note" }, "same scale for all texts of this node · the boxed token is the strongest"));
}
