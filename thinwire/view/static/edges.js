// Edges and residual channels on the canvas. One stroke per edge: faster than a few large paths, and each has its own width.

import { signed } from "./format.js";

/** With at most so many edges, every weight is written beside its edge. */
const ALWAYS_LABELLED = 40;
/** Where along an edge its weight may stand, the best first. */
const SPOTS = [0.5, 0.43, 0.57, 0.36, 0.64, 0.27, 0.73, 0.2, 0.8, 0.14, 0.86];
/** How far apart in height two weights are at least, if they are not side by side. */
const LABEL_PITCH = 12;

/** @typedef {{pos: string, neg: string, bus: string, ground: string}} Colours */

/** The page's colours, which follow light and dark. @returns {Colours} */
function colours() {
  const style = getComputedStyle(document.documentElement);
  /** @param {string} name */
  const read = (name) => style.getPropertyValue(name).trim();
  return { pos: read("--pos"), neg: read("--neg"), bus: read("--bus"), ground: read("--graph") };
}

/**
 * Draw all edges in picture units; the context is already moved and scaled.
 * @param {CanvasRenderingContext2D} pen
 * @param {import("./data.js").Drawing} drawing
 * @param {{focus: number | null, lit: Set<number> | null, zoom: number}} look item in focus, items lit with it (null: all)
 */
export function drawEdges(pen, drawing, { focus, lit, zoom }) {
  const ink = colours();
  const most = Math.max(1e-12, ...drawing.links.map((link) => Math.abs(link.weight)));
  const crowd = Math.min(1, Math.max(0.35, 400 / (drawing.links.length + 1)));
  pen.lineCap = "butt";
  for (const bus of drawing.buses) drawBus(pen, bus, ink.bus, lit === null ? 1 : focus !== null && bus.items.includes(focus) ? 2 : 0);
  /** @type {import("./data.js").Link[]} */
  const named = [];
  for (const near of [false, true]) {
    for (const link of drawing.links) {
      const touches = focus !== null && (link.source === focus || link.target === focus);
      if (touches !== near) continue;
      pen.globalAlpha = lit === null ? crowd * 0.9 : touches ? 1 : 0.06 + 0.06 * crowd;
      drawLink(pen, drawing, link, ink, Math.abs(link.weight) / most);
      if (zoom > 0.4 && (touches || (lit === null && drawing.links.length <= ALWAYS_LABELLED))) named.push(link);
    }
  }
  pen.globalAlpha = 1;
  drawLabels(pen, drawing, named.length > 120 ? [] : named, ink);
}

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {import("./data.js").Bus} bus
 * @param {string} ink
 * @param {number} level 0 dimmed, 1 plain, 2 lit
 */
function drawBus(pen, bus, ink, level) {
  pen.globalAlpha = [0.18, 0.8, 1][level];
  pen.lineWidth = level === 2 ? 2 : 1.1;
  pen.strokeStyle = ink;
  pen.setLineDash([]);
  pen.beginPath();
  bus.points.forEach(([x, y], index) => {
    if (!index) return pen.moveTo(x, y);
    const [x0, y0] = bus.points[index - 1];
    const middle = (y0 + y) / 2;
    return pen.bezierCurveTo(x0, middle, x, middle, x, y);
  });
  pen.stroke();
}

/** @param {import("./data.js").Drawing} drawing @param {import("./data.js").Link} link @returns {[number, number, number, number]} */
function ends(drawing, link) {
  const half = drawing.item_height / 2;
  return [link.x1, drawing.items[link.source].y - half, link.x2, drawing.items[link.target].y + half];
}

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {import("./data.js").Drawing} drawing
 * @param {import("./data.js").Link} link
 * @param {Colours} ink
 * @param {number} size 0 … 1
 */
function drawLink(pen, drawing, link, ink, size) {
  const [x1, y1, x2, y2] = ends(drawing, link);
  const bend = (y1 - y2) * 0.45;
  pen.strokeStyle = link.weight < 0 ? ink.neg : ink.pos;
  pen.lineWidth = 0.9 + 3.1 * size;
  pen.setLineDash(link.weight < 0 ? [5, 3.5] : []);
  pen.beginPath();
  pen.moveTo(x1, y1);
  pen.bezierCurveTo(x1, y1 - bend, x2, y2 + bend, x2, y2);
  pen.stroke();
}

/**
 * Weights beside their edges, moved along the edge until they cover no other label; the strongest first, and those
 * that find no room are left out.
 * @param {CanvasRenderingContext2D} pen
 * @param {import("./data.js").Drawing} drawing
 * @param {import("./data.js").Link[]} links
 * @param {Colours} ink
 */
function drawLabels(pen, drawing, links, ink) {
  pen.setLineDash([]);
  pen.font = "600 10.5px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace";
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  /** @type {[number, number, number][]} */
  const taken = [];
  for (const link of [...links].sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight))) {
    const text = signed(link.weight);
    const half = pen.measureText(text).width / 2 + 4;
    const free = SPOTS.map((t) => along(ends(drawing, link), t))
      .find(([sx, sy]) => taken.every(([tx, ty, th]) => Math.abs(sx - tx) > half + th || Math.abs(sy - ty) > LABEL_PITCH));
    if (!free) continue;
    const [x, y] = free;
    taken.push([x, y, half]);
    pen.fillStyle = ink.ground;
    pen.globalAlpha = 0.88;
    pen.fillRect(x - half, y - 7, 2 * half, 14);
    pen.globalAlpha = 1;
    pen.fillStyle = link.weight < 0 ? ink.neg : ink.pos;
    pen.fillText(text, x, y);
  }
}

/** @param {[number, number, number, number]} ends_ @param {number} t @returns {[number, number]} */
function along([x1, y1, x2, y2], t) {
  const bend = (y1 - y2) * 0.45;
  const s = 1 - t;
  const x = s * s * (s + 3 * t) * x1 + t * t * (t + 3 * s) * x2;
  const y = s * s * s * y1 + 3 * s * s * t * (y1 - bend) + 3 * s * t * t * (y2 + bend) + t * t * t * y2;
  return [x, y];
}
