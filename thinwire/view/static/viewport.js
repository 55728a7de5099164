// Panning and zooming: picture units to screen pixels, screen = picture · zoom + shift.

import { attempt, matches } from "./guard.js";

const NEAREST = 3;
const FARTHEST = 0.08;
const READABLE = 0.62;

export class Viewport {
  /**
   * @param {HTMLElement} element what gestures happen on
   * @param {() => void} moved called after every change
   */
  constructor(element, moved) {
    this.zoom = 1;
    this.x = 0;
    this.y = 0;
    /** Whether the picture has been moved since it was opened. */
    this.touched = false;
    this.element = element;
    this.moved = moved;
    this.#listen();
  }

  /**
   * Show a picture as it is first seen: whole, or its top at a readable size when it is tall but not wide.
   * @param {number} width
   * @param {number} height
   * @param {number} gutter
   */
  open(width, height, gutter) {
    this.fit(width, height, gutter);
    const room = this.element.clientWidth - gutter - 48;
    if (this.zoom >= READABLE || width * READABLE > room) return;
    this.zoom = READABLE;
    this.x = gutter + (room - width * READABLE) / 2;
    this.y = 6;
    this.moved();
  }

  /**
   * Show a whole picture, never larger than a little over life size.
   * @param {number} width
   * @param {number} height
   * @param {number} gutter pixels at the left that stay free
   */
  fit(width, height, gutter) {
    const room = { x: this.element.clientWidth - gutter - 48, y: this.element.clientHeight - 12 };
    this.zoom = Math.max(FARTHEST, Math.min(1.2, room.x / width, room.y / height));
    this.x = gutter + (room.x - width * this.zoom) / 2;
    this.y = 6 + (room.y - height * this.zoom) / 2;
    this.moved();
  }

  /**
   * Zoom so that what is at a screen point stays there.
   * @param {number} factor
   * @param {number} [atX]
   * @param {number} [atY]
   */
  zoomBy(factor, atX = this.element.clientWidth / 2, atY = this.element.clientHeight / 2) {
    const zoom = Math.max(FARTHEST, Math.min(NEAREST, this.zoom * factor));
    this.x = atX - ((atX - this.x) * zoom) / this.zoom;
    this.y = atY - ((atY - this.y) * zoom) / this.zoom;
    this.zoom = zoom;
    this.touched = true;
    this.moved();
  }

  /** @param {number} dx @param {number} dy */
  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.touched = true;
    this.moved();
  }

  /**
   * Pan as little as needed to bring a picture point into sight.
   * @param {number} px
   * @param {number} py
   * @param {number} gutter
   */
  reveal(px, py, gutter) {
    const [sx, sy] = [px * this.zoom + this.x, py * this.zoom + this.y];
    const dx = Math.max(0, gutter + 50 - sx) - Math.max(0, sx - this.element.clientWidth + 60);
    const dy = Math.max(0, 40 - sy) - Math.max(0, sy - this.element.clientHeight + 40);
    if (dx || dy) this.pan(dx, dy);
  }

  #listen() {
    const { element } = this;
    element.addEventListener("wheel", (event) => {
      const app = matches("(min-width: 1001px)");
      if (!app && !event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      const box = element.getBoundingClientRect();
      if (event.ctrlKey || event.metaKey) this.zoomBy(Math.exp(-event.deltaY * 0.006), event.clientX - box.left, event.clientY - box.top);
      else this.pan(-event.deltaX, -event.deltaY);
    }, { passive: false });
    element.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || /** @type {Element} */ (event.target).closest("button")) return;
      attempt(() => element.setPointerCapture(event.pointerId));
      element.classList.add("grabbing");
    });
    element.addEventListener("pointermove", (event) => {
      if (element.hasPointerCapture(event.pointerId)) this.pan(event.movementX, event.movementY);
    });
    for (const end of ["pointerup", "pointercancel"]) element.addEventListener(end, () => element.classList.remove("grabbing"));
  }
}
