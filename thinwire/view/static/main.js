// The page: unpack, build the frame once, then show whatever the address names.

import { unpack } from "./data.js";
import { el, refill } from "./dom.js";
import { evidence, judged, modelLine } from "./evidence.js";
import { Graph } from "./graph.js";
import { attempt } from "./guard.js";
import { helpDialog } from "./help.js";
import { channelPanel } from "./panel_channel.js";
import { nodePanel, spoken } from "./panel_node.js";
import { taskPanel } from "./panel_task.js";
import { readPlace, writePlace } from "./state.js";

/**
 * @param {HTMLElement} app
 * @param {import("./data.js").PageData} page
 */
function build(app, { payload, drawings }) {
  let open = -1;
  const help = helpDialog();
  const tabs = el("nav", { class: "tasks", "aria-label": "Tasks" });
  const strip = el("section", { class: "evidence", "aria-label": "Evidence" });
  const picture = el("section", { class: "graph", "aria-label": "Circuit" });
  const panel = el("aside", { class: "panel", "aria-label": "Details" });
  const live = el("div", { class: "visually-hidden", "aria-live": "polite" });
  refill(app,
    el("header", { class: "top" }, el("h1", {}, payload.title), el("p", { class: "modelline" }, modelLine(payload.model)),
      el("button", { type: "button", class: "helpbutton", title: "Help (?)", "aria-label": "Help", on: { click: () => attempt(() => help.showModal()) } }, "?")),
    tabs, strip, el("main", {}, picture, panel), live, help);
  if (!payload.tasks.length) {
    refill(strip, el("p", { class: "nothing" }, "This page holds no circuit: no task was pruned."));
    return;
  }
  const graph = new Graph(picture, select);
  const buttons = payload.tasks.map((task, index) => el("button", {
    type: "button", title: task.summary, on: { click: () => show(index, "") },
  }, el("i", { class: `dot ${judged(task)}` }), task.name));
  refill(tabs, buttons);
  const notice = el("p", { class: "nothing" }, "This circuit keeps no node, so there is nothing to draw. The measurements above are those with every node ablated.");

  /** @param {number} index @param {string} id */
  function show(index, id) {
    const task = payload.tasks[index];
    if (index !== open) {
      open = index;
      buttons.forEach((button, other) => button.setAttribute("aria-current", other === index ? "page" : "false"));
      attempt(() => buttons[index].scrollIntoView({ block: "nearest", inline: "nearest" }));
      refill(strip, evidence(task));
      graph.show(drawings[index], task);
      notice.remove();
      if (!task.nodes.length) picture.append(notice);
    }
    const item = drawings[index].items.findIndex((candidate) => candidate.id === id);
    select(item < 0 ? null : item);
  }

  /** @param {number | null} item */
  function select(item) {
    const [task, drawing] = [payload.tasks[open], drawings[open]];
    const context = { payload, task, drawing, select };
    const node = item === null ? null : drawing.items[item].node;
    graph.select(item);
    if (item === null) refill(panel, taskPanel(context));
    else if (node !== null) refill(panel, nodePanel(context, item, task.nodes[node]));
    else refill(panel, channelPanel(context, item, drawing.items[item]));
    panel.scrollTop = 0;
    live.textContent = node === null ? "" : spoken(task, task.nodes[node]);
    writePlace({ task: task.name, node: item === null ? "" : drawing.items[item].id });
  }

  function follow() {
    const place = readPlace();
    show(Math.max(0, payload.tasks.findIndex((task) => task.name === place.task)), place.node);
  }

  document.addEventListener("keydown", (event) => {
    if (help.open || event.altKey || event.ctrlKey || event.metaKey) return;
    const step = (/** @type {number} */ by) => show((open + by + payload.tasks.length) % payload.tasks.length, "");
    const act = {
      Escape: () => select(null), "?": () => attempt(() => help.showModal()), "[": () => step(-1), "]": () => step(1),
      "0": () => graph.fit(), "+": () => graph.view.zoomBy(1.3), "=": () => graph.view.zoomBy(1.3), "-": () => graph.view.zoomBy(1 / 1.3),
    }[event.key];
    if (act) act();
  });
  addEventListener("hashchange", follow);
  follow();
}

const packedData = document.getElementById("data")?.textContent ?? "";
const appElement = /** @type {HTMLElement} */ (document.getElementById("app"));
try {
  build(appElement, await unpack(packedData));
} catch (error) {
  refill(appElement, el("p", { class: "nothing" }, `This page cannot be shown (${error}).`));
  throw error;
}
