/** Short messages that go by themselves. They are read out, and stay while the pointer is on them. */
import { html, classes, useEffect, useRef, useState } from "./html.js";
import { Icon } from "./icon.js";
import { sentence } from "./field.js";

/** @typedef {{id: number, text: any, kind: string, action?: {label: string, run: () => void}}} Toast */

/** @type {Toast[]} */
let toasts = [];
let next = 1;
/** @type {Set<(toasts: Toast[]) => void>} */
const listeners = new Set();
const tell = () => listeners.forEach((listener) => listener(toasts));

/** @param {number} id */
function remove(id) {
  toasts = toasts.filter((each) => each.id !== id);
  tell();
}

/**
 * @param {any} text
 * @param {{kind?: "ok" | "fail" | "info", action?: {label: string, run: () => void}, seconds?: number}} [options]
 */
export function toast(text, { kind = "ok", action, seconds = kind === "fail" ? 10 : 5 } = {}) {
  const id = next++;
  toasts = [...toasts.slice(-3), { id, text, kind, action }];
  tell();
  const go = () => (document.querySelector(".toast:hover, .toast:focus-within") ? setTimeout(go, 1000) : remove(id));
  setTimeout(go, seconds * 1000);
}

/** Shows a problem that belongs to no field. */
export const toastProblem = (/** @type {any} */ problem) => toast(sentence(problem.detail ?? String(problem)), { kind: "fail" });

export function Toasts() {
  const [shown, setShown] = useState(toasts);
  useEffect(() => {
    listeners.add(setShown);
    return () => void listeners.delete(setShown);
  }, []);
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  // Dialogs lie above the page. What is shown last lies above those.
  useEffect(() => {
    const { current } = box;
    if (!current?.showPopover) return;
    if (current.matches(":popover-open")) current.hidePopover();
    current.showPopover();
  }, [shown]);
  return html`<div ref=${box} class="toasts" popover="manual" role="status" aria-live="polite">
    ${shown.map(
      (each) => html`<div key=${each.id} class=${classes("toast", `toast-${each.kind}`)}>
        <${Icon} name=${each.kind === "ok" ? "check" : each.kind} size=${18} />
        <span>${each.text}</span>
        ${each.action &&
        html`<button type="button" class="link-button" onClick=${() => (remove(each.id), each.action?.run())}>${each.action.label}</button>`}
        <button type="button" class="toast-close" aria-label="Dismiss" onClick=${() => remove(each.id)}><${Icon} name="close" size=${16} /></button>
      </div>`,
    )}
  </div>`;
}
