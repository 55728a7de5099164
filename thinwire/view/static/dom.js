// Elements without markup: text only ever enters the page through text nodes and properties.

/** @typedef {Node | string | number | null | undefined | false} Child */
/** @typedef {{class?: string, on?: Record<string, (event: any) => void>, css?: Record<string, string>, [name: string]: any}} Props */

/**
 * An element. `class`, `on` (listeners) and `css` (custom or plain style properties) are special; every other property becomes an
 * attribute (true: empty, false or null: absent). String children become text nodes.
 * @param {string} tag
 * @param {Props} [props]
 * @param {...(Child | Child[])} children
 * @returns {HTMLElement}
 */
export function el(tag, props = {}, ...children) {
  return /** @type {HTMLElement} */ (dress(document.createElement(tag), props, children));
}

/**
 * An SVG element; see `el`.
 * @param {string} tag
 * @param {Props} [props]
 * @param {...(Child | Child[])} children
 * @returns {SVGElement}
 */
export function svg(tag, props = {}, ...children) {
  return /** @type {SVGElement} */ (dress(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children));
}

/**
 * @param {HTMLElement | SVGElement} element
 * @param {Props} props
 * @param {(Child | Child[])[]} children
 */
function dress(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "css") for (const [property, text] of Object.entries(value)) element.style.setProperty(property, text);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  fill(element, ...children);
  return element;
}

/**
 * Replace nothing, append children; strings become text nodes.
 * @param {Element} element
 * @param {...(Child | Child[])} children
 */
function fill(element, ...children) {
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

/**
 * Empty an element, then append children.
 * @param {Element} element
 * @param {...(Child | Child[])} children
 */
export function refill(element, ...children) {
  element.replaceChildren();
  return fill(element, ...children);
}

/**
 * A definition list of short facts, each with its meaning as a tooltip.
 * @param {[string, string, string?][]} facts name, value, meaning
 */
export function factList(facts) {
  return el("dl", { class: "facts" }, facts.map(([name, value, meaning]) =>
    el("div", { title: meaning }, el("dt", {}, name), el("dd", {}, value))));
}
