/** A part of a page that is folded away until it is wanted. */
import { html, useEffect, useRef } from "./html.js";

/**
 * It opens by itself when `open` becomes true. It never closes by itself, since somebody may be writing in it.
 *
 * @param {{title: any, open?: boolean, class?: string, children?: any}} props
 */
export function Folded({ title, open = false, class: name, children }) {
  const ref = useRef(/** @type {HTMLDetailsElement | null} */ (null));
  useEffect(() => {
    if (open && ref.current) ref.current.open = true;
  }, [open]);
  return html`<details ref=${ref} class=${name}>
    <summary>${title}</summary>
    ${children}
  </details>`;
}
