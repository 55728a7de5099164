// The strip above the picture: what the verdict comes to and why, so that nobody takes a picture for a proof.

import { el } from "./dom.js";
import { nats, plural } from "./format.js";
import { attempt } from "./guard.js";
import { amount, checksOf, details, gauge, intervalOf, limitOf, measurementList, SIGNS, sized, tipOn, worst } from "./measurements.js";

/** @typedef {import("./data.js").Measurement} Measurement */
/** @typedef {import("./data.js").TaskView} TaskView */

/**
 * How a circuit is judged: the verdict's status, or the worst of its measurements where there is no verdict.
 * @param {TaskView} task
 */
export function judged(task) {
  return task.verdict?.status ?? worst(task.measurements);
}

/**
 * The verdict's word, a dot per check, the weakest measurements, and all of them folded.
 * @param {TaskView} task
 */
export function evidence(task) {
  const tip = el("div", { class: "tip", hidden: true, "aria-hidden": "true" });
  const every = measurementList(task.measurements, tip);
  const weakest = (task.verdict?.weakest ?? []).map((index) => task.measurements[index]);
  return [
    el("div", { class: "strip" },
      el("div", { class: "said" }, word(task), el("p", { class: "under" }, counted(task)), dots(task, every, tip)),
      weakest.length ? el("ol", { class: "weakest", "aria-label": "Weakest measurements" }, weakest.map((one) => weak(one, tip))) : null),
    every,
    tip,
  ];
}

/** @param {TaskView} task */
function word(task) {
  const status = judged(task);
  return el("h2", { class: `word ${status}` }, el("i", { class: `sign ${status}`, "aria-hidden": "true" }, SIGNS[status]),
    el("span", {}, task.verdict?.word ?? "no verdict"));
}

/**
 * How many checks pass, and the circuit's size.
 * @param {TaskView} task
 */
function counted({ measurements, counts }) {
  const statuses = checksOf(measurements).map(worst).filter((status) => status !== "info");
  const passed = statuses.filter((status) => status === "pass").length;
  const { nodes, edges, embedding_edges: read, unembedding_edges: written } = counts;
  const size = "Edges are nonzero weights between two kept nodes. Edges of the embedding and unembedding are counted separately.";
  return [
    statuses.length ? el("span", {}, `${passed} of ${plural(statuses.length, "check")} ${passed === 1 ? "passes" : "pass"}`) : null,
    el("span", { class: "size", title: size }, `${plural(nodes, "node")}, ${plural(edges, "edge")}`),
    el("span", { class: "size", title: size }, `${read} embedding, ${written} unembedding edges`),
  ];
}

/**
 * A dot per check; it tells what decides the check, and opens all of its measurements.
 * @param {TaskView} task
 * @param {HTMLElement} every
 * @param {HTMLElement} tip
 */
function dots({ measurements, verdict }, every, tip) {
  const decides = new Set((verdict?.deciding ?? []).map((index) => measurements[index]));
  return el("ul", { class: "dots", "aria-label": "Checks" }, checksOf(measurements).map((group) => {
    const status = worst(group);
    const one = group.find((each) => decides.has(each)) ?? group[0];
    const lines = [...details(one), "Select it to see all measurements of this check."];
    const open = () => {
      every.setAttribute("open", "");
      const found = /** @type {HTMLElement | null} */ (every.querySelector(`[data-check="${CSS.escape(one.check)}"]`));
      attempt(() => found?.scrollIntoView({ block: "nearest" }));
      found?.focus({ preventScroll: true });
    };
    return el("li", {}, el("button", { type: "button", class: `sign ${status}`, "data-dot": one.check,
      "aria-label": `${one.title}: ${status === "info" ? "no threshold" : status}`, on: { ...tipOn(tip, lines), click: open } }, SIGNS[status]));
  }));
}

/**
 * One of the weakest measurements: value, threshold and interval.
 * @param {Measurement} one
 * @param {HTMLElement} tip
 */
function weak(one, tip) {
  const lines = details(one);
  return el("li", { class: "weak", tabindex: 0, "data-weak": `${one.check}.${one.quantity}`, on: tipOn(tip, lines) },
    el("span", { class: "visually-hidden" }, lines.join(" ")),
    el("h3", { "aria-hidden": "true" }, el("i", { class: `sign ${one.status}` }, SIGNS[one.status]), one.title),
    el("p", { class: "value", "aria-hidden": "true" }, amount(one.value, one.unit), el("small", {}, sized(one))),
    gauge(one),
    el("p", { class: "under", "aria-hidden": "true" }, [intervalOf(one), one.limit === null ? "" : `passes ${limitOf(one)}`].filter(Boolean).map((words) => el("span", {}, words))));
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
