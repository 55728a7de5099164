// What an item of the picture is connected to, and its name in words.

/** @typedef {{item: number, weight: number}} End */
/** @typedef {{incoming: End[], outgoing: End[], before: number[], after: number[], channel: number | null}} Relations */

/** What each kind of node is, in a few words. */
export const ROLES = /** @type {Record<string, string>} */ ({
  "attn.act_in": "read of a residual channel by attention, after RMSNorm",
  "attn.q": "query channel",
  "attn.k": "key channel",
  "attn.v": "value channel",
  "attn.resid_delta": "write of attention into a residual channel",
  "mlp.act_in": "read of a residual channel by the MLP, after RMSNorm",
  "mlp.post_act": "MLP neuron, after its nonlinearity",
  "mlp.resid_delta": "write of the MLP into a residual channel",
});

/**
 * Links into and out of an item, strongest first, and the earlier writers and later readers of its residual channel.
 * @param {import("./data.js").Drawing} drawing
 * @param {import("./data.js").TaskView} task
 * @param {number} item
 * @returns {Relations}
 */
export function relations(drawing, task, item) {
  /** @type {End[]} */
  const incoming = [];
  /** @type {End[]} */
  const outgoing = [];
  for (const link of drawing.links) {
    if (link.target === item) incoming.push({ item: link.source, weight: link.weight });
    if (link.source === item) outgoing.push({ item: link.target, weight: link.weight });
  }
  for (const ends of [incoming, outgoing]) ends.sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
  const bus = drawing.buses.find((candidate) => candidate.items.includes(item));
  const index = bus ? bus.items.indexOf(item) : 0;
  const writes = writing(drawing, task, item);
  const before = !bus || writes ? [] : bus.items.slice(0, index).filter((other) => writing(drawing, task, other));
  const after = !bus || !writes ? [] : bus.items.slice(index + 1).filter((other) => !writing(drawing, task, other));
  return { incoming, outgoing, before, after, channel: bus ? bus.channel : null };
}

/**
 * Whether an item writes into its residual channel (rather than reads it).
 * @param {import("./data.js").Drawing} drawing
 * @param {import("./data.js").TaskView} task
 * @param {number} index
 */
function writing(drawing, task, index) {
  const item = drawing.items[index];
  if (item.kind === "node" && item.node !== null) return task.nodes[item.node].kind.endsWith("resid_delta");
  return item.kind === "embed";
}

/**
 * Every item and link that lights up with an item: itself, its links' ends, and its channel's writers or readers.
 * @param {import("./data.js").Drawing} drawing
 * @param {import("./data.js").TaskView} task
 * @param {number} item
 * @returns {Set<number>}
 */
export function company(drawing, task, item) {
  const { incoming, outgoing, before, after } = relations(drawing, task, item);
  return new Set([item, ...incoming.map((end) => end.item), ...outgoing.map((end) => end.item), ...before, ...after]);
}

/**
 * An item in words, for lists and for screen readers.
 * @param {import("./data.js").Drawing} drawing
 * @param {import("./data.js").TaskView} task
 * @param {number} index
 */
export function called(drawing, task, index) {
  const item = drawing.items[index];
  if (item.kind === "node" && item.node !== null) return task.nodes[item.node].name;
  const words = { token: "token", embed: "embedding", unembed: "unembedding", answer: "answer", node: "" };
  return `${words[item.kind]} ${item.label}`;
}
