// What a browser may refuse: frames of notebooks have no address of their own, sandboxes deny storage, old browsers lack observers.

/**
 * What an act gives, or `otherwise` where the browser refuses it: no convenience takes the page down.
 * @template T
 * @param {() => T} act
 * @param {T} [otherwise]
 * @returns {T | undefined}
 */
export function attempt(act, otherwise) {
  try {
    return act();
  } catch {
    return otherwise;
  }
}

/**
 * Call `act` when the size of an element changes; once, at the next frame, where sizes are not watched.
 * @param {Element} element
 * @param {() => void} act
 */
export function onResize(element, act) {
  if (attempt(() => { new ResizeObserver(act).observe(element); return true; })) return;
  requestAnimationFrame(act);
  addEventListener("resize", act);
}

/**
 * Whether a media query holds; no where the browser cannot say.
 * @param {string} query
 */
export function matches(query) {
  return attempt(() => matchMedia(query).matches) ?? false;
}
