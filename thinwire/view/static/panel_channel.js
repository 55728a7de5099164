// The panel of the other items: tokens, answers, and the two ends of a residual channel.

import { el } from "./dom.js";
import { glyphs, plural } from "./format.js";
import { edgeLists, panelHead, weightBar } from "./panel_node.js";

/** Rows of a token table shown before a click shows the rest. */
const FIRST = 40;

/**
 * @param {import("./panel_node.js").Context} context
 * @param {number} index
 * @param {import("./data.js").Item} item
 */
export function channelPanel(context, index, item) {
  const { payload, task } = context;
  if (item.token !== null) {
    const role = item.kind === "token" ? "Token whose embedding writes into channels of this circuit" : "Answer whose logit the circuit's channels raise or lower";
    return [panelHead(context, glyphs(payload.vocab[item.token]), role), edgeLists(context, index, null)];
  }
  const input = item.kind === "embed";
  const role = input ? "where the token embedding writes into it" : "where the unembedding reads it";
  const all = (input ? task.embedding : task.unembedding).filter((edge) => edge.channel === item.channel);
  return [
    panelHead(context, `channel ${item.channel}`, `Residual channel ${item.channel}, ${role}`),
    tokenTable(payload, input ? "Written by tokens" : "Reads into token logits", all),
    edgeLists(context, index, null),
  ];
}

/**
 * Tokens of a channel by weight.
 * @param {import("./data.js").Payload} payload
 * @param {string} title
 * @param {import("./data.js").TokenEdgeView[]} edges
 */
function tokenTable(payload, title, edges) {
  const sorted = [...edges].sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
  const most = Math.abs(sorted[0]?.weight ?? 0);
  /** @param {import("./data.js").TokenEdgeView} edge */
  const row = (edge) => el("li", {}, weightBar(edge.weight, most), el("span", { class: "mono" }, glyphs(payload.vocab[edge.token])));
  const list = el("ul", { class: "edges" }, sorted.slice(0, FIRST).map(row));
  const rest = sorted.slice(FIRST);
  const more = rest.length ? el("button", {
    class: "more", type: "button", on: { click: () => (more?.remove(), list.append(...rest.map(row))) },
  }, `… ${plural(rest.length, "more token")}`) : null;
  return el("section", {}, el("h3", {}, `${title} (${sorted.length})`), list, more);
}
