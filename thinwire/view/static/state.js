// What is open, kept in the address (#task=…&node=…) so that a link brings others to the same place. Frames without an
// address of their own refuse that; the page then forgets the place when it is closed.

import { attempt } from "./guard.js";

/** @typedef {{task: string, node: string}} Place */

/** @returns {Place} */
export function readPlace() {
  const params = new URLSearchParams(attempt(() => location.hash.slice(1)) ?? "");
  return { task: params.get("task") ?? "", node: params.get("node") ?? "" };
}

/**
 * Write the place into the address without adding to the history.
 * @param {Place} place
 */
export function writePlace(place) {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(place)) if (value) params.set(name, value);
  const hash = params.toString();
  attempt(() => history.replaceState(null, "", hash ? `#${hash}` : "#"));
}
