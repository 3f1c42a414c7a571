/** What a page shows before there is something to show. */
import { html, useEffect } from "./html.js";
import { Icon } from "./icon.js";

/** @param {{icon?: string, title: any, whole?: boolean, children?: any, action?: any}} props `whole` is for a page that has nothing else */
export function Empty({ icon = "info", title, whole, children, action }) {
  useEffect(() => {
    if (whole) document.title = `${title} · vstar`;
  }, [whole, title]);
  return html`<div class="empty">
    <span class="empty-icon"><${Icon} name=${icon} size=${28} /></span>
    ${whole ? html`<h1 tabindex="-1">${title}</h1>` : html`<h2>${title}</h2>`}
    ${children && html`<div class="empty-text">${children}</div>`}
    ${action && html`<div class="empty-action">${action}</div>`}
  </div>`;
}

/** Grey shapes where something is about to be. @param {{rows?: number, height?: string}} props */
export function Skeleton({ rows = 3, height = "1rem" }) {
  return html`<div class="skeletons" role="status" aria-label="Loading">
    ${Array.from({ length: rows }, (_, row) => html`<span key=${row} class="skeleton" style=${{ height }}></span>`)}
  </div>`;
}
