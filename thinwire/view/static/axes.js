// Round ticks, and the scales from values to positions.

/**
 * Round numbers within [low, high], about `wanted` of them, with a step of 1, 2 or 5 times a power of ten.
 * @param {number} low
 * @param {number} high
 * @param {number} wanted
 * @param {boolean} [whole] only whole numbers
 */
export function roundTicks(low, high, wanted, whole = false) {
  const rough = (high - low) / Math.max(1, wanted);
  if (!(rough > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const least = whole ? 1 : 0;
  const step = Math.max(least, power * ([1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999) ?? 10));
  const ticks = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index += 1) ticks.push(Number((index * step).toPrecision(12)));
  return ticks;
}

/**
 * Powers of ten within [low, high], with 2 and 5 times them where there is room, or every other power where there is not.
 * @param {number} low
 * @param {number} high
 * @param {number} wanted
 */
export function logTicks(low, high, wanted) {
  const [from, to] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  /** @param {number[]} factors @param {number} every */
  const ticksAt = (factors, every) => {
    const ticks = [];
    for (let power = from; power <= to; power += 1) {
      if (power % every === 0) for (const factor of factors) ticks.push(Number((factor * 10 ** power).toPrecision(12)));
    }
    return ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
  };
  for (const factors of [[1, 2, 5], [1, 3]]) if (ticksAt(factors, 1).length <= wanted + 1) return ticksAt(factors, 1);
  for (let every = 1; every < 40; every += 1) if (ticksAt([1], every).length <= wanted + 1) return ticksAt([1], every);
  return [low];
}

/**
 * Bounds of an axis that holds all values with a little room.
 * @param {number[]} values
 * @param {boolean} logarithmic
 * @param {boolean} fromZero
 * @returns {[number, number]}
 */
export function bounds(values, logarithmic, fromZero) {
  const low = values.reduce((a, b) => Math.min(a, b));
  const high = values.reduce((a, b) => Math.max(a, b));
  if (logarithmic) return [low * 0.85, high * 1.15];
  if (low === high) return low === 0 ? [0, 1] : [Math.min(0, 2 * low), Math.max(0, 2 * high)];
  const room = (high - low) * 0.06;
  const floor = fromZero || (low >= 0 && low < room * 3) ? 0 : low - room;
  return [floor, high + room];
}

/**
 * A function from values in [low, high] to positions in [start, end].
 * @param {number} low
 * @param {number} high
 * @param {number} start
 * @param {number} end
 * @param {boolean} [logarithmic]
 */
export function scale(low, high, start, end, logarithmic = false) {
  /** @param {number} value */
  const bend = (value) => (logarithmic ? Math.log(value) : value);
  const span = bend(high) - bend(low) || 1;
  /** @param {number} value */
  return (value) => start + ((bend(value) - bend(low)) / span) * (end - start);
}
