// Numbers and token texts as people read them.

/**
 * A number with a real minus sign and about three significant digits.
 * @param {number | null | undefined} value
 * @param {number} [digits]
 */
export function num(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e9 || !Number.isFinite(size) ? size.toExponential(1) : size >= 1000 ? Math.round(size).toLocaleString("en-US") : size < 0.001 ? size.toExponential(1) : size.toPrecision(digits);
  return (value < 0 ? "−" : "") + text;
}

/**
 * A number with its sign always shown.
 * @param {number} value
 */
export function signed(value) {
  return (value > 0 ? "+" : "") + num(value);
}

/**
 * A loss in nats, always three decimals so that columns compare.
 * @param {number | null | undefined} value
 */
export function nats(value) {
  return value === null || value === undefined ? "–" : value.toFixed(3).replace("-", "−");
}

/** @param {number} value */
export function percent(value) {
  return `${(100 * value).toFixed(value > 0.0995 && value < 0.9995 ? 1 : value === 0 || value === 1 ? 0 : 2)} %`;
}

/**
 * @param {number} amount
 * @param {string} noun
 */
export function plural(amount, noun) {
  return `${amount.toLocaleString("en-US")} ${noun}${amount === 1 ? "" : "s"}`;
}

/** Blanks, control characters and direction overrides, each with the mark that stands for it. */
const MARKS = new Map([["\n", "⏎"], ["\t", "⇥"], ["\r", "␍"], [" ", "·"]]);
const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/;

/**
 * Token text cut into runs: plain text, and marks for invisible characters.
 * @param {string} text
 * @returns {{text: string, mark: boolean, breaks: boolean}[]}
 */
export function runs(text) {
  /** @type {{text: string, mark: boolean, breaks: boolean}[]} */
  const found = [];
  for (const char of text) {
    const hidden = INVISIBLE.test(char);
    const mark = MARKS.get(char) ?? (hidden ? `‹${char.charCodeAt(0).toString(16)}›` : null);
    const last = found.at(-1);
    if (last && !last.breaks && last.mark === (mark !== null)) last.text += mark ?? char;
    else found.push({ text: mark ?? char, mark: mark !== null, breaks: false });
    if (char === "\n") /** @type {any} */ (found.at(-1)).breaks = true;
  }
  return found.length ? found : [{ text: "∅", mark: true, breaks: false }];
}

/**
 * Token text on one line with blanks visible, for labels and names.
 * @param {string} text
 */
export function glyphs(text) {
  return runs(text).map((run) => run.text).join("");
}
