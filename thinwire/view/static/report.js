// The report of a training run: what it was, its curves, its nonzeros, its config.

import { figure } from "./chart.js";
import { unpack } from "./data.js";
import { el, factList, refill } from "./dom.js";
import { percent } from "./format.js";

/** @typedef {{name: string, nonzeros: number, entries: number}} Filling */
/** @typedef {{name: string, value: string, meaning: string, default: boolean}} Setting */
/** @typedef {{title: string, status: string, finished: boolean, facts: {name: string, value: string, meaning: string}[],
 *   charts: import("./chart.js").ChartData[], fillings: Record<string, Filling[]>, settings: Setting[]}} RunReport */

/**
 * Nonzeros of the parameters of one layer, each with a bar for the share that is filled.
 * @param {string} place
 * @param {Filling[]} rows
 */
function fillingTable(place, rows) {
  return el("table", { class: "filling" }, el("caption", {}, place),
    el("thead", {}, el("tr", {}, ["parameter", "nonzeros", "of", "share"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, rows.map(({ name, nonzeros, entries }) => el("tr", {}, el("th", { scope: "row" }, name),
      el("td", {}, nonzeros.toLocaleString("en-US")), el("td", {}, entries.toLocaleString("en-US")),
      el("td", { class: "share" }, el("i", { css: { "--share": `${(100 * nonzeros) / entries}%` } }), el("span", {}, percent(nonzeros / entries)))))));
}

/** @param {Setting[]} settings */
function settingTable(settings) {
  return el("div", { class: "settings" }, settings.map(({ name, value, meaning, default: same }) =>
    el("div", { title: meaning, class: same ? "" : "set" }, el("span", {}, name), el("b", {}, value))));
}

/**
 * @param {HTMLElement} app
 * @param {RunReport} report
 */
function show(app, report) {
  const last = Math.max(1, ...report.charts.flatMap(({ lines }) => lines.flatMap(({ steps }) => steps)));
  const places = Object.entries(report.fillings);
  refill(app,
    el("header", {}, el("h1", {}, report.title), el("p", { class: report.finished ? "status" : "status going" }, report.status),
      factList(report.facts.map(({ name, value, meaning }) => [name, value, meaning]))),
    el("main", {},
      report.charts.length ? el("section", { class: "charts", "aria-label": "Curves" }, report.charts.map((chart) => figure(chart, last)))
        : el("p", { class: "note" }, "Nothing is measured yet."),
      places.length > 0 && el("section", {}, el("h2", {}, "Nonzeros"), el("p", { class: "note" }, "Entries that are not zero, as last measured."),
        el("div", { class: "fillings" }, places.map(([place, rows]) => fillingTable(place, rows)))),
      el("section", {}, el("h2", {}, "Config"), el("p", { class: "note" }, "Bold where it differs from the default; hover for what it means."),
        settingTable(report.settings))));
}

const app = /** @type {HTMLElement} */ (document.getElementById("app"));
unpack(/** @type {HTMLElement} */ (document.getElementById("data")).textContent ?? "")
  .then((report) => show(app, /** @type {any} */ (report)))
  .catch((error) => refill(app, el("p", { class: "loading" }, `This page cannot be shown: ${error.message}`)));
