// How often a node is how active, on a logarithmic count axis.

import { el, svg } from "./dom.js";
import { num, percent, plural } from "./format.js";

const WIDE = 400;
const TALL = 72;

/**
 * @param {import("./data.js").Activity} activity
 * @param {number} mean
 */
export function histogram(activity, mean) {
  const { bounds, counts } = activity;
  const words = `Zero at ${percent(1 - activity.nonzero)} of ${plural(activity.tokens, "token")}; between ${num(activity.low)} and ${num(activity.high)}.`;
  if (!counts.length || !activity.nonzero) return el("p", { class: "note" }, words);
  const low = bounds[0];
  const span = bounds[bounds.length - 1] - low || 1;
  /** @param {number} value */
  const x = (value) => (WIDE * (value - low)) / span;
  const most = Math.log1p(Math.max(...counts));
  const picture = svg("svg", { viewBox: `0 0 ${WIDE} ${TALL}`, class: "histogram", role: "img", "aria-label": words, preserveAspectRatio: "none" });
  counts.forEach((tokens, bin) => {
    if (!tokens) return;
    const height = Math.max(1.5, (TALL * Math.log1p(tokens)) / most);
    const middle = (bounds[bin] + bounds[bin + 1]) / 2;
    picture.append(svg("rect", {
      x: x(bounds[bin]) + 0.4, width: Math.max(0.8, x(bounds[bin + 1]) - x(bounds[bin]) - 0.8), y: TALL - height, height,
      class: middle >= 0 ? "pos" : "neg",
    }, svg("title", {}, `${num(bounds[bin])} … ${num(bounds[bin + 1])}: ${plural(tokens, "token")}`)));
  });
  /** @param {number} value @param {string} name */
  const line = (value, name) => value < low || value > low + span ? null : svg("line", { x1: x(value), x2: x(value), y1: 0, y2: TALL, class: name });
  for (const mark of [line(0, "zero"), line(mean, "mean")]) if (mark) picture.append(mark);
  return el("figure", { class: "distribution" }, picture,
    el("div", { class: "axis" }, el("span", {}, num(low)), el("span", {}, num(low + span))),
    el("figcaption", { class: "note" }, `${words} Bars: nonzero activations, logarithmic count. Dashed line: the mean.`));
}
