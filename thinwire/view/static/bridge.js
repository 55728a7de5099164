// The report of a bridge: what it joins, its profile over residual points and over training, and how far both agree.

import { figure } from "./chart.js";
import { unpack } from "./data.js";
import { el, factList, refill } from "./dom.js";

/** @typedef {{caption: string, note: string, columns: string[], rows: string[][]}} BridgeTable */
/** @typedef {{title: string, status: string, facts: {name: string, value: string, meaning: string}[],
 *   profile: import("./chart.js").ChartData[], training: import("./chart.js").ChartData[], tables: BridgeTable[]}} BridgeReport */

/** @param {BridgeTable} table */
function figures({ caption, note, columns, rows }) {
  return el("section", {}, el("h2", {}, caption), el("p", { class: "note" }, note),
    el("div", { class: "wide" }, el("table", {},
      el("thead", {}, el("tr", {}, columns.map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, rows.map(([name, ...values]) => el("tr", {}, el("th", { scope: "row" }, name), values.map((value) => el("td", {}, value))))))));
}

/**
 * @param {string} title
 * @param {import("./chart.js").ChartData[]} charts
 */
function curves(title, charts) {
  const last = Math.max(1, ...charts.flatMap(({ lines }) => lines.flatMap(({ steps }) => steps)));
  return el("section", {}, el("h2", {}, title), el("div", { class: "charts" }, charts.map((chart) => figure(chart, last))));
}

const page = /** @type {HTMLElement} */ (document.getElementById("app"));
unpack(/** @type {HTMLElement} */ (document.getElementById("data")).textContent ?? "")
  .then((/** @type {any} */ data) => {
    const report = /** @type {BridgeReport} */ (data);
    refill(page,
      el("header", {}, el("h1", {}, report.title), el("p", { class: "status" }, report.status),
        factList(report.facts.map(({ name, value, meaning }) => [name, value, meaning]))),
      el("main", {}, curves("Over residual points", report.profile), report.tables.map(figures),
        report.training.length > 0 && curves("While it was fitted", report.training)));
  })
  .catch((error) => refill(page, el("p", { class: "loading" }, `This page cannot be shown: ${error.message}`)));
