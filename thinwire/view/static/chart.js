// One chart: lines over steps, drawn to the width it has, with values under the pointer or the arrow keys.

import { bounds, logTicks, roundTicks, scale } from "./axes.js";
import { el, refill, svg } from "./dom.js";
import { onResize } from "./guard.js";

/** @typedef {{name: string, steps: number[], values: number[], low: number[], high: number[]}} Line */
/** @typedef {{title: string, curves: string, about: string, unit: string, form: "number" | "percent" | "count", from_zero: boolean, ordered: boolean, axis: "step" | "point"}} Plan */
/** @typedef {{plan: Plan, lines: Line[], logarithmic: boolean, described: string}} ChartData */

const TALL = 196;
const [TOP, RIGHT, BOTTOM] = [8, 14, 24];
const GLYPH = 6.3;
const DOTS = 40;

/**
 * A value as text with its unit; ticks go without trailing zeros.
 * @param {number} value
 * @param {Plan} plan
 * @param {number} digits
 * @param {boolean} [tick]
 */
function written(value, plan, digits, tick = false) {
  const shown = plan.form === "percent" ? value * 100 : value;
  const size = Math.abs(shown);
  let text = "0";
  if (plan.form === "count" || (size >= 1000 && size < 1e7)) text = Math.round(size).toLocaleString("en-US");
  else if (size >= 1e7 || (size > 0 && size < 5e-3)) text = size.toExponential(digits - 1).replace("e-", "e−").replace("e+", "e");
  else if (size > 0) text = size.toPrecision(digits);
  if (tick && text.includes(".")) text = text.replace(/\.?0+(?=e|$)/, "");
  return (shown < 0 ? "−" : "") + text + (plan.form === "percent" ? " %" : "");
}

/**
 * The colour of a line: its own, or its position on a scale.
 * @param {ChartData} chart
 * @param {number} index
 */
function colour({ plan, lines }, index) {
  if (!plan.ordered || lines.length < 2) return `var(--line-${index % 8})`;
  return `color-mix(in oklab, var(--last) ${Math.round((100 * index) / (lines.length - 1))}%, var(--first))`;
}

/**
 * The figure of a chart; it draws itself once it knows how wide it is.
 * @param {ChartData} chart
 * @param {number} lastStep
 */
export function figure(chart, lastStep) {
  const { plan, lines } = chart;
  const stage = el("div", { class: "stage" });
  const many = plan.curves.includes("*");
  const latest = (/** @type {Line} */ line) => written(line.values[line.values.length - 1], plan, 3);
  const box = el("figure", { class: "chart" },
    el("figcaption", {},
      el("h2", {}, plan.title, plan.unit && el("small", {}, plan.unit), !many && el("b", {}, latest(lines[0]))),
      el("p", { class: "note" }, plan.about)),
    many && el("ul", { class: "key" }, lines.map((line, index) =>
      el("li", {}, el("i", { css: { "--c": colour(chart, index) } }), line.name, plan.axis === "step" && el("b", {}, latest(line))))),
    stage);
  let drawn = 0;
  onResize(stage, () => {
    const wide = Math.floor(stage.clientWidth);
    if (wide && wide !== drawn) draw(stage, chart, lastStep, wide);
    drawn = wide;
  });
  return box;
}

/**
 * @param {HTMLElement} stage
 * @param {ChartData} chart
 * @param {number} lastStep
 * @param {number} wide
 */
function draw(stage, chart, lastStep, wide) {
  const { plan, lines, logarithmic } = chart;
  const [low, high] = bounds(lines.flatMap((line) => [...line.values, ...line.low, ...line.high]), logarithmic, plan.from_zero);
  const ticks = logarithmic ? logTicks(low, high, 5) : roundTicks(low, high, 5, plan.form === "count");
  const labels = ticks.map((tick) => written(tick, plan, 3, true));
  const left = Math.max(...labels.map((label) => label.length)) * GLYPH + 10;
  const x = scale(0, lastStep, left, wide - RIGHT);
  const y = scale(low, high, TALL - BOTTOM, TOP, logarithmic);
  const picture = svg("svg", { viewBox: `0 0 ${wide} ${TALL}`, width: wide, height: TALL, role: "img", tabindex: 0, "aria-label": chart.described },
    svg("title", {}, plan.title), svg("desc", {}, chart.described));
  picture.append(...ticks.map((tick, index) => svg("g", { class: "tick" },
    svg("line", { x1: left, x2: wide - RIGHT, y1: y(tick), y2: y(tick) }),
    svg("text", { x: left - 7, y: y(tick) + 3.5, "text-anchor": "end" }, labels[index]))));
  const steps = roundTicks(0, lastStep, Math.max(2, Math.floor(wide / 90)), true);
  picture.append(...steps.map((step) => svg("text", { class: "step", x: x(step), y: TALL - 7, "text-anchor": step === 0 ? "start" : x(step) > wide - RIGHT - 16 ? "end" : "middle" },
    plan.axis === "point" ? `h_${step}` : step === 0 ? "step 0" : step.toLocaleString("en-US"))));
  lines.forEach((line, index) => picture.append(path(line, x, y, colour(chart, index))));
  const cross = svg("g", { class: "cross" });
  picture.append(cross);
  const tip = el("div", { class: "tip", hidden: true });
  refill(stage, picture, tip);
  listen(picture, cross, tip, chart, x, y, wide);
}

/**
 * @param {Line} line
 * @param {(value: number) => number} x
 * @param {(value: number) => number} y
 * @param {string} ink
 */
function path(line, x, y, ink) {
  const place = (/** @type {number} */ index, /** @type {number[]} */ values) => `${x(line.steps[index]).toFixed(1)} ${y(values[index]).toFixed(1)}`;
  const all = line.steps.map((_, index) => index);
  const group = svg("g", { class: "line", css: { "--c": ink } });
  if (line.low.length) {
    const there = all.map((index) => place(index, line.high)).join("L");
    const back = [...all].reverse().map((index) => place(index, line.low)).join("L");
    group.append(svg("path", { class: "band", d: `M${there}L${back}Z` }));
  }
  group.append(svg("path", { d: `M${all.map((index) => place(index, line.values)).join("L")}` }));
  if (all.length <= DOTS) for (const index of all) group.append(svg("circle", { cx: x(line.steps[index]), cy: y(line.values[index]), r: 2.2 }));
  return group;
}

/**
 * Show the values nearest to the pointer; arrow keys go from measurement to measurement.
 * @param {SVGElement} picture
 * @param {SVGElement} cross
 * @param {HTMLElement} tip
 * @param {ChartData} chart
 * @param {(value: number) => number} x
 * @param {(value: number) => number} y
 * @param {number} wide
 */
function listen(picture, cross, tip, chart, x, y, wide) {
  const steps = [...new Set(chart.lines.flatMap((line) => line.steps))].sort((a, b) => a - b);
  const { plan } = chart;
  let at = steps.length - 1;
  const hide = () => {
    tip.hidden = true;
    refill(cross);
  };
  const show = (/** @type {number} */ index) => {
    at = Math.min(steps.length - 1, Math.max(0, index));
    const step = steps[at];
    const found = chart.lines.map((line, which) => ({ line, which, point: line.steps.indexOf(step) })).filter(({ point }) => point >= 0);
    refill(cross, svg("line", { x1: x(step), x2: x(step), y1: TOP, y2: TALL - BOTTOM }),
      found.map(({ line, which, point }) => svg("circle", { cx: x(step), cy: y(line.values[point]), r: 3.5, css: { "--c": colour(chart, which) } })));
    refill(tip, el("b", {}, plan.axis === "point" ? `h_${step}` : `step ${step.toLocaleString("en-US")}`), found.map(({ line, which, point }) =>
      el("span", {}, el("i", { css: { "--c": colour(chart, which) } }), plan.curves.includes("*") && `${line.name} `, el("b", {}, written(line.values[point], plan, 4)),
        line.low.length > 0 && ` (${written(line.low[point], plan, 3)} … ${written(line.high[point], plan, 3)})`)));
    tip.hidden = false;
    const room = wide - tip.offsetWidth - 4;
    tip.style.left = `${Math.max(0, Math.min(room, x(step) > wide / 2 ? x(step) - tip.offsetWidth - 10 : x(step) + 10))}px`;
  };
  picture.addEventListener("pointermove", (event) => {
    const place = event.clientX - picture.getBoundingClientRect().left;
    show(steps.reduce((best, step, index) => (Math.abs(x(step) - place) < Math.abs(x(steps[best]) - place) ? index : best), 0));
  });
  picture.addEventListener("pointerleave", hide);
  picture.addEventListener("blur", hide);
  picture.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    show(tip.hidden ? at : at + by);
  });
}
