// The strip above the picture: what was measured, so that a pretty graph is not taken as proof.

import { el } from "./dom.js";
import { count, median, nats, percent, plural } from "./format.js";

/**
 * The five measurements of a task and one loss axis with all of them.
 * @param {import("./data.js").TaskView} task
 */
export function evidence(task) {
  const { losses, counts } = task;
  const { target } = losses;
  const middle = losses.random.length ? median(losses.random) : null;
  return [
    el("div", { class: "cells" },
      cell("Only the circuit", nats(losses.circuit), `${percent(losses.circuit_accuracy)} right`,
        target === null ? "" : el("span", { class: `verdict ${meets(losses) ? "met" : "missed"}` }, `${meets(losses) ? "✓ meets" : "✗ misses"} target ${nats(target)}`),
        "circuit", "Task loss with every node outside the circuit frozen at its mean over pretraining text. Low: the circuit suffices."),
      cell("Whole model", nats(losses.model), `${percent(losses.model_accuracy)} right`, "nothing removed",
        "model", "Task loss of the model as trained. A circuit can only be judged against it."),
      cell("Circuit removed", nats(losses.removed), losses.removed === null ? "not measured" : against(losses.removed, losses.chance), "the rest left intact",
        "removed", "Necessity: task loss with only the circuit's nodes frozen at their means. Near or above chance: the model needs the circuit."),
      cell("Random circuits", nats(middle), middle === null ? "not measured" : against(middle, losses.chance),
        middle === null ? "" : `median of ${losses.random.length}: ${nats(Math.min(...losses.random))} … ${nats(Math.max(...losses.random))}`,
        "random", "Task loss with only a random circuit of as many nodes at every site. Near chance: size alone explains nothing."),
      cell("Size", String(counts.nodes), counts.nodes === 1 ? "node" : "nodes", `${plural(counts.edges, "edge")} · ${counts.embedding_edges} emb · ${counts.unembedding_edges} unemb`,
        "size", "Nodes, and edges: nonzero weights between two kept nodes. Edges of the embedding and unembedding are counted apart.")),
    axis(losses),
  ];
}

/**
 * Whether a circuit reached the loss that was asked for.
 * @param {import("./data.js").Losses} losses
 */
export function meets(losses) {
  return losses.target !== null && losses.circuit <= losses.target;
}

/** How far below chance a loss must lie to count as better than guessing. */
const CLEARLY = 0.97;

/**
 * A loss against that of guessing.
 * @param {number} loss
 * @param {number | null} chance
 */
function against(loss, chance) {
  if (chance === null) return "";
  return loss >= CLEARLY * chance ? "no better than chance" : "better than chance";
}

/**
 * @param {string} name
 * @param {string} value
 * @param {string} first
 * @param {Node | string} second
 * @param {string} key
 * @param {string} meaning
 */
function cell(name, value, first, second, key, meaning) {
  return el("div", { class: `cell ${key}`, title: meaning },
    el("h3", {}, key === "size" ? null : el("i", { class: `dot ${key}` }), name),
    el("p", { class: "value" }, value, el("small", {}, ` ${first}`)),
    el("p", { class: "under" }, second));
}

/** @param {import("./data.js").Losses} losses */
function axis(losses) {
  const all = [losses.circuit, losses.model, losses.removed ?? 0, losses.chance ?? 0, losses.target ?? 0, ...losses.random];
  const top = Math.max(...all) * 1.06 || 1;
  /** @param {number} value */
  const at = (value) => ({ left: `${(100 * Math.max(0, value)) / top}%` });
  /** @param {number | null} value @param {string} key @param {string} name */
  const dot = (value, key, name) => value === null ? null : el("i", { class: `mark ${key}`, css: at(value), title: `${name}: ${nats(value)}` });
  return el("div", { class: "lossaxis", role: "img", "aria-label": "All losses on one axis" },
    el("span", { class: "name" }, "task loss, nats"),
    el("div", { class: "track" },
      losses.chance === null ? null : el("span", { class: "line chance", css: at(losses.chance) }, el("b", {}, `chance ${nats(losses.chance)}`)),
      losses.target === null ? null : el("span", { class: "line target", css: at(losses.target) }, el("b", {}, `target ${nats(losses.target)}`)),
      losses.random.map((value) => dot(value, "random", "Random circuit")),
      dot(losses.removed, "removed", "Circuit removed"), dot(losses.model, "model", "Whole model"), dot(losses.circuit, "circuit", "Only the circuit")));
}

/**
 * One line on the model, with hashes, so that the page can be traced.
 * @param {Record<string, any>} model
 */
export function modelLine(model) {
  const facts = [
    [`${model.n_layers} layers × ${model.d_model}`, `${model.n_heads} heads of ${model.d_head}, d_mlp ${model.d_mlp}, context ${model.context}, vocabulary ${model.vocab_size}`],
    [`${count(model.nonzeros)} of ${count(model.parameters)} weights nonzero`, `${model.nonzeros.toLocaleString("en-US")} of ${model.parameters.toLocaleString("en-US")} parameters`],
    model.val_loss === null ? null : [`val loss ${nats(model.val_loss)}`, "Cross-entropy on held-out pretraining text, nats per token"],
    model.seed === null ? null : [`seed ${model.seed}`, "Training seed"],
    [`model ${model.model_id.slice(0, 8)}`, `Content hashes: model ${model.model_id}, tokenizer ${model.tokenizer_id}, tokens ${model.tokens_id}`],
  ];
  return facts.filter((fact) => fact !== null).map((fact) => el("span", { title: fact[1] }, fact[0]));
}
