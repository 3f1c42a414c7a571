// Boxes on a picture, one for each concept: drawn with the pointer, moved and resized with the pointer or the keyboard.

import { classes, html, useRef, useState } from "./html.js";

/** @typedef {[number, number, number, number]} Box Left, top, right and bottom, as fractions of the picture. */

/** The smallest side of a box, as a fraction of the picture. */
const SMALLEST = 0.08;
/** How far an arrow key moves a box. */
const STEP = 0.02;

/**
 * @param {object} props
 * @param {{ handle: string, label: string }[]} props.concepts
 * @param {Record<string, number[]>} props.boxes By handle.
 * @param {(boxes: Record<string, number[]>) => void} props.onChange
 * @param {number} [props.aspect] Width through height of the picture.
 * @param {any} [props.children] What lies below the boxes, such as a picture.
 */
export function Regions({ concepts, boxes, onChange, aspect = 1, children }) {
  const area = useRef(/** @type {HTMLElement | null} */ (null));
  const [chosen, setChosen] = useState(/** @type {string | null} */ (null));
  const next = concepts.find(({ handle }) => !boxes[handle])?.handle;
  const active = concepts.some(({ handle }) => handle === chosen) ? chosen : (next ?? concepts[0]?.handle ?? null);

  const at = (/** @type {PointerEvent} */ event) => {
    const { left, top, width, height } = /** @type {HTMLElement} */ (area.current).getBoundingClientRect();
    return [within((event.clientX - left) / width), within((event.clientY - top) / height)];
  };

  /** Follows the pointer from here until it is released. */
  const follow = (/** @type {PointerEvent} */ event, /** @type {(x: number, y: number) => Box} */ boxAt, /** @type {string} */ handle, then = () => {}) => {
    event.preventDefault();
    event.stopPropagation();
    const target = /** @type {HTMLElement} */ (event.currentTarget);
    target.setPointerCapture(event.pointerId);
    const move = (/** @type {PointerEvent} */ moved) => {
      const [x, y] = at(moved);
      onChange({ ...boxes, [handle]: rounded(boxAt(x, y)) });
    };
    const end = () => {
      target.removeEventListener("pointermove", move);
      target.removeEventListener("pointerup", end);
      target.removeEventListener("pointercancel", end);
      then();
    };
    target.addEventListener("pointermove", move);
    target.addEventListener("pointerup", end);
    target.addEventListener("pointercancel", end);
  };

  const draw = (/** @type {PointerEvent} */ event) => {
    if (!active) return;
    const [fromX, fromY] = at(event);
    // The next box is for the next concept that has none.
    follow(event, (x, y) => spanned(fromX, fromY, x, y), active, () => setChosen(null));
  };

  const move = (/** @type {PointerEvent} */ event, /** @type {string} */ handle) => {
    const [fromX, fromY] = at(event);
    const from = /** @type {Box} */ (boxes[handle]);
    setChosen(handle);
    /** @type {HTMLElement} */ (event.currentTarget).focus();
    follow(event, (x, y) => moved(from, x - fromX, y - fromY), handle);
  };

  const resize = (/** @type {PointerEvent} */ event, /** @type {string} */ handle) => {
    const [left, top] = boxes[handle];
    follow(event, (x, y) => [left, top, Math.max(x, left + SMALLEST), Math.max(y, top + SMALLEST)], handle);
  };

  const onKeyDown = (/** @type {KeyboardEvent} */ event, /** @type {string} */ handle) => {
    const ways = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
    const way = ways[/** @type {keyof ways} */ (event.key)];
    const box = /** @type {Box} */ (boxes[handle]);
    if (way) {
      event.preventDefault();
      const changed = event.shiftKey ? stretched(box, way[0], way[1]) : moved(box, way[0], way[1]);
      onChange({ ...boxes, [handle]: rounded(changed) });
    } else if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      remove(handle);
    }
  };

  const remove = (/** @type {string} */ handle) => {
    const { [handle]: _, ...rest } = boxes;
    onChange(rest);
  };

  const place = (/** @type {string} */ handle, /** @type {number} */ index) => {
    const width = 1 / concepts.length;
    onChange({ ...boxes, [handle]: rounded([index * width + 0.02, 0.2, (index + 1) * width - 0.02, 0.9]) });
    setChosen(handle);
  };

  return html`<div class="regions">
    <div class="regions-tabs" role="group" aria-label="Whose box is drawn">
      ${concepts.map(
        ({ handle, label }, index) => html`<span key=${handle} class=${classes("regions-tab", `hue-${index % 4}`)}>
          <button type="button" aria-pressed=${handle === active ? "true" : "false"} onClick=${() => setChosen(handle)}>${label}</button>
          ${boxes[handle]
            ? html`<button type="button" class="regions-remove" aria-label=${`Remove the box of ${label}`} onClick=${() => remove(handle)}>×</button>`
            : html`<button type="button" class="regions-place" aria-label=${`Place a box for ${label}`} onClick=${() => place(handle, index)}>+</button>`}
        </span>`,
      )}
    </div>
    <div ref=${area} class="regions-area" style=${{ aspectRatio: String(aspect) }} onPointerDown=${draw}>
      ${children}
      ${concepts.map(({ handle, label }, index) => {
        const box = boxes[handle];
        if (!box) return null;
        const [left, top, right, bottom] = box;
        return html`<div
          key=${handle}
          class=${classes("regions-box", `hue-${index % 4}`, handle === active && "is-active")}
          style=${{ left: part(left), top: part(top), width: part(right - left), height: part(bottom - top) }}
          role="group"
          tabindex="0"
          aria-label=${`Box of ${label}: ${part(left)} to ${part(right)} across, ${part(top)} to ${part(bottom)} down. Arrow keys move it, with Shift they resize it, Delete removes it.`}
          onPointerDown=${(/** @type {PointerEvent} */ event) => move(event, handle)}
          onKeyDown=${(/** @type {KeyboardEvent} */ event) => onKeyDown(event, handle)}
        >
          <span>${label}</span>
          <i class="regions-corner" onPointerDown=${(/** @type {PointerEvent} */ event) => resize(event, handle)}></i>
        </div>`;
      })}
      ${!Object.keys(boxes).length && html`<p class="regions-hint">Draw a box for ${active ? concepts.find(({ handle }) => handle === active)?.label : "a concept"}, or leave the places to the service.</p>`}
    </div>
  </div>`;
}

const within = (/** @type {number} */ value) => Math.min(1, Math.max(0, value));
const part = (/** @type {number} */ fraction) => `${Math.round(fraction * 1000) / 10}%`;
const rounded = (/** @type {Box} */ box) => box.map((side) => Math.round(side * 1000) / 1000);

/** The box between two points, at least as large as the smallest. @returns {Box} */
function spanned(/** @type {number} */ x, /** @type {number} */ y, /** @type {number} */ otherX, /** @type {number} */ otherY) {
  const left = Math.min(x, otherX, 1 - SMALLEST);
  const top = Math.min(y, otherY, 1 - SMALLEST);
  return [left, top, Math.max(x, otherX, left + SMALLEST), Math.max(y, otherY, top + SMALLEST)];
}

/** The box further along, as far as the picture goes. @returns {Box} */
function moved(/** @type {Box} */ [left, top, right, bottom], /** @type {number} */ byX, /** @type {number} */ byY) {
  const x = Math.min(1 - right, Math.max(-left, byX));
  const y = Math.min(1 - bottom, Math.max(-top, byY));
  return [left + x, top + y, right + x, bottom + y];
}

/** The box with its right and lower side moved. @returns {Box} */
function stretched(/** @type {Box} */ [left, top, right, bottom], /** @type {number} */ byX, /** @type {number} */ byY) {
  return [left, top, within(Math.max(left + SMALLEST, right + byX)), within(Math.max(top + SMALLEST, bottom + byY))];
}
