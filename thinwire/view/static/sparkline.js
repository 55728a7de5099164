// A small curve without axes: the values behind one measurement.

import { svg } from "./dom.js";

const SPARK = { wide: 84, tall: 24, pad: 3 };
/** With at most so many points, each has a dot. */
const SPARK_DOTS = 40;
/** Values that differ by less than this part of them look flat. */
const FLAT = 0.02;

/**
 * @param {import("./data.js").Curve} curve
 */
export function sparkline(curve) {
  const { wide, tall, pad } = SPARK;
  /** @param {number[]} values @param {number} start @param {number} end @returns {(value: number) => number} */
  const scaled = (values, start, end) => {
    const [low, high] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
    const span = Math.max(high - low, FLAT * Math.max(Math.abs(low), Math.abs(high))) || 1;
    return (value) => (start + end) / 2 + ((value - (low + high) / 2) / span) * (end - start);
  };
  const [x, y] = [scaled(curve.x, pad, wide - pad), scaled(curve.y, tall - pad, pad)];
  const points = curve.x.map((value, index) => [x(value).toFixed(1), y(curve.y[index]).toFixed(1)]);
  return svg("svg", { class: "sparkline", viewBox: `0 0 ${wide} ${tall}`, width: wide, height: tall },
    svg("polyline", { points: points.map((point) => point.join(",")).join(" ") }),
    points.length <= SPARK_DOTS ? points.map(([cx, cy]) => svg("circle", { cx, cy, r: 1.5 })) : null);
}
