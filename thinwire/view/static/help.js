// The help dialog: keys, and the same reading guide as the panel.

import { el } from "./dom.js";
import { reading } from "./panel_task.js";

const KEYS = [
  ["Tab", "from item to item"],
  ["← →", "along a row"],
  ["↑ ↓", "along the strongest edge, up or down the model"],
  ["Enter", "open the item in the panel"],
  ["Esc", "back to the task"],
  ["[ ]", "previous, next task"],
  ["+ − 0", "zoom in, zoom out, fit; Ctrl + wheel zooms, dragging pans"],
  ["?", "this help"],
];

/** @returns {HTMLDialogElement} */
export function helpDialog() {
  const dialog = /** @type {HTMLDialogElement} */ (el("dialog", { class: "help", "aria-label": "Help" }));
  dialog.append(
    el("header", { class: "panelhead" }, el("h2", {}, "Help"),
      el("button", { type: "button", class: "close", "aria-label": "Close", on: { click: () => dialog.close() } }, "×")),
    el("dl", { class: "keys" }, KEYS.map(([key, words]) => el("div", {}, el("dt", {}, el("kbd", {}, key)), el("dd", {}, words)))),
    reading());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  return dialog;
}
