// The panel while nothing is selected: the task, example pairs, and how to read the picture.

import { common, headList } from "./attention.js";
import { el, factList } from "./dom.js";
import { glyphs, num, percent, plural } from "./format.js";
import { tokenSpan } from "./heatmap.js";

/** Pairs shown at once; the rest is folded. */
const OPEN_PAIRS = 2;

/**
 * How many pairs the checks use of each split, such as `16 to 256 pairs, heldout`.
 * @param {import("./data.js").Measurement[]} measurements
 */
function measuredOn(measurements) {
  return [...new Set(measurements.map(({ split }) => split))].map((split) => {
    const counts = measurements.filter((one) => one.split === split).map(({ n }) => n);
    const [least, most] = [Math.min(...counts), Math.max(...counts)];
    return `${least < most ? `${least} to ` : ""}${plural(most, "pair")}, ${split}`;
  }).join("; ");
}

/**
 * @param {import("./panel_node.js").Context} context
 */
export function taskPanel(context) {
  const { payload, task } = context;
  return [
    el("header", { class: "panelhead" }, el("h2", { class: "mono" }, task.name), el("p", {}, task.summary)),
    factList([
      ["measured on", measuredOn(task.measurements) || "–", "Pairs of prompts that the checks above use; pruning never saw those of the split heldout"],
      ["log-odds", `× ${num(task.scale)} ${task.shift < 0 ? "−" : "+"} ${num(Math.abs(task.shift))}`, "Calibration fitted after pruning: scale and shift of the circuit's log-odds of the first answer over the second"],
      ["circuit", task.circuit_id.slice(0, 8) || "–", `Content hash of the circuit artefact: ${task.circuit_id}`],
    ]),
    task.pairs.length ? el("section", {}, el("h3", {}, "Example pairs"),
      el("p", { class: "note" }, "Two prompts that differ only in what decides the answer; differing tokens are underlined."),
      task.pairs.slice(0, OPEN_PAIRS).map((pair) => pairView(payload, task, pair)),
      task.pairs.length > OPEN_PAIRS ? el("details", {}, el("summary", {}, plural(task.pairs.length - OPEN_PAIRS, "more pair")),
        task.pairs.slice(OPEN_PAIRS).map((pair) => pairView(payload, task, pair))) : null) : null,
    headList(context),
    reading(),
  ];
}

/**
 * @param {import("./data.js").Payload} payload
 * @param {import("./data.js").TaskView} task
 * @param {{first: import("./data.js").Prompt, second: import("./data.js").Prompt}} pair
 */
function pairView({ vocab }, task, { first, second }) {
  const { start, end } = common(first.tokens, second.tokens);
  /** @param {import("./data.js").Prompt} prompt @param {number} side */
  const prompt = ({ tokens, answer, foil, p_circuit, p_model }, side) => el("article", { class: "text" },
    el("code", { class: "heatmap" }, tokens.map((token, index) => {
      const span = tokenSpan(vocab[token], null, 1);
      if (index >= start && index < tokens.length - end) span.classList.add("differs");
      return span;
    })),
    el("footer", {}, el("span", { class: "answer mono", title: "Right answer" }, answer === null ? "any other token" : glyphs(vocab[answer])),
      foil === null ? " not any other token" : [" not ", el("span", { class: "mono" }, glyphs(vocab[foil]))],
      p_circuit === null ? null : el("span", { class: "p", title: "Probability of the right answer against the wrong one; the circuit's is calibrated" }, `circuit ${percent(p_circuit)}${p_model === null ? "" : ` · model ${percent(p_model)}`}`),
      el("span", { class: "sidename" }, task.sides[side])));
  return el("div", { class: "pair" }, prompt(first, 0), prompt(second, 1));
}

/** The legend and a short guide. */
export function reading() {
  /** @param {string} key @param {string} words */
  const row = (key, words) => el("li", {}, el("i", { class: `key ${key}` }), el("span", {}, words));
  return el("section", { class: "reading" }, el("h3", {}, "How to read this"),
    el("ul", { class: "legend" },
      row("edge pos", "positive weight (blue, solid); thicker is larger"),
      row("edge neg", "negative weight (orange, dashed)"),
      row("edge bus", "one residual channel: writers add to it, later readers read the sum"),
      row("headbox", "attention head: q and k decide where it looks, v what it copies"),
      row("sides", "activation on the task's first and second side, by colour"),
      row("bar", "how much the circuit's loss rises when this node is ablated too")),
    el("details", {}, el("summary", {}, "What the picture claims, and what it does not"),
      el("p", {}, "The model runs from bottom to top. A node is one channel of one site in one layer. An edge is a nonzero weight between two nodes. Every node that is not drawn is ablated to a constant (its mean over pretraining text, unless the checks above name another), for all prompts and positions. The measurements of the check “circuit alone” are of that model."),
      el("p", {}, "A small circuit is evidence only together with the other numbers: the whole model can do the task, it fails without the circuit, random circuits of the same size fail, and the circuit is still right when the nodes outside have the values of other texts. Weights are those of the model. The normalization before each read is not drawn. Activations are those of the whole model, so a node may act differently once the rest is ablated."),
      el("p", {}, "Mean ablation is a weak test: a node that is ablated to its mean still adds a constant, and so does the calibration. The texts show where a node is strongest, which is not all it does. Look at both signs and at the histogram.")));
}
