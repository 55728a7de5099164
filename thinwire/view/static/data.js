// The page's data: its types, and how it is unpacked.

/** @typedef {{tokens: number[], activations: number[], peak: number, source: string}} Window_ */
/** @typedef {{low: number, high: number, nonzero: number, tokens: number, bounds: number[], counts: number[]}} Activity */
/** @typedef {{name: string, layer: number, kind: string, head: number | null, channel: number, position: boolean, mean: number, bias: number | null,
 *   strength: number | null, sides: [number, number] | null, activity: Activity | null, positive: Window_[], negative: Window_[],
 *   on_prompts: number[][]}} NodeView */
/** @typedef {{tokens: number[], answer: number | null, foil: number | null, p_circuit: number | null, p_model: number | null}} Prompt */
/** @typedef {{x_label: string, x: number[], y: number[], labels: string[]}} Curve */
/** @typedef {"pass" | "warn" | "fail" | "info"} Status */
/** @typedef {{check: string, title: string, quantity: string, value: number, unit: string, n: number, low: number | null, high: number | null,
 *   split: string, ablation: string, budget: string | null, limit: number | null, at_most: boolean, status: Status, reason: string, meaning: string, curve: Curve | null}} Measurement */
/** @typedef {{word: string, status: Status, weakest: number[], deciding: number[]}} VerdictView */
/** @typedef {{layer: number, head: number, status: Status, reason: string, distance: [number, number],
 *   circuit_uneven: [number, number], model_uneven: [number, number], prompts: number, sink: boolean, circuit: number[][], model: number[][]}} HeadView */
/** @typedef {{first: Prompt, second: Prompt}} Pair */
/** @typedef {{token: number, channel: number, weight: number}} TokenEdgeView */
/** @typedef {{name: string, summary: string, circuit_id: string, sides: [string, string], target_loss: number | null, guessing_loss: number,
 *   measurements: Measurement[], verdict: VerdictView | null, heads: HeadView[],
 *   counts: {nodes: number, edges: number, embedding_edges: number, unembedding_edges: number}, scale: number,
 *   shift: number, strength_label: string, nodes: NodeView[], edges: {source: number, target: number, weight: number}[],
 *   embedding: TokenEdgeView[], unembedding: TokenEdgeView[], pairs: Pair[]}} TaskView */
/** @typedef {{id: string, kind: "token" | "embed" | "node" | "unembed" | "answer", label: string, node: number | null,
 *   channel: number | null, token: number | null, row: number, x: number, y: number, width: number}} Item */
/** @typedef {{source: number, target: number, weight: number, x1: number, x2: number}} Link */
/** @typedef {{channel: number, items: number[], points: [number, number][]}} Bus */
/** @typedef {{width: number, height: number, item_height: number, items: Item[], links: Link[], buses: Bus[],
 *   rows: {label: string, layer: number | null, y: number}[], bands: {label: string, top: number, bottom: number}[],
 *   boxes: {label: string, layer: number, head: number, x: number, y: number, width: number, height: number}[]}} Drawing */
/** @typedef {{format: string, version: number, title: string, model: Record<string, any>, vocab: string[], tasks: TaskView[]}} Payload */
/** @typedef {{payload: Payload, drawings: Drawing[]}} PageData */

/**
 * Unpack the gzip + base64 data of the page.
 * @param {string} packed
 * @returns {Promise<PageData>}
 */
export async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed.trim()), (char) => char.charCodeAt(0));
  if (!("DecompressionStream" in globalThis)) throw new Error("this browser is too old to unpack it; use one of 2023 or later");
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}
