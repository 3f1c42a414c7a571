/** What every page has: its heading, and its title in the browser. */
import { html, classes, useEffect } from "./html.js";
import { Icon } from "./icon.js";

/** Sets the title of the browser's tab. */
export function useTitle(/** @type {string} */ title) {
  useEffect(() => {
    document.title = `${title} · vstar`;
  }, [title]);
}

/**
 * @param {{title: any, plainTitle?: string, back?: {href: string, label: string}, lead?: any, actions?: any, wide?: boolean,
 *   class?: string, children?: any}} props `plainTitle` is the title of the tab where `title` is not a text.
 */
export function Page({ title, plainTitle, back, lead, actions, wide, class: name, children }) {
  useTitle(plainTitle ?? String(title));
  return html`<div class=${classes("page", wide && "page-wide", name)}>
    ${back && html`<a class="page-back" href=${back.href}><${Icon} name="back" size=${16} />${back.label}</a>`}
    <header class="page-head">
      <div class="page-title">
        <h1 tabindex="-1">${title}</h1>
        ${lead && html`<p class="lead">${lead}</p>`}
      </div>
      ${actions && html`<div class="page-actions">${actions}</div>`}
    </header>
    ${children}
  </div>`;
}

/** A part of a page with a heading. @param {{title?: any, aside?: any, lead?: any, class?: string, id?: string, children?: any}} props */
export function Section({ title, aside, lead, class: name, id, children }) {
  return html`<section class=${classes("section", name)} id=${id}>
    ${(title || aside) && html`<header class="section-head"><h2>${title}</h2>${aside && html`<div class="section-aside">${aside}</div>`}</header>`}
    ${lead && html`<p class="section-lead">${lead}</p>`}
    ${children}
  </section>`;
}

/** A short word for a state. @param {{kind?: "neutral" | "ok" | "warn" | "fail" | "active", children?: any, title?: string}} props */
export function Badge({ kind = "neutral", title, children }) {
  return html`<span class=${classes("badge", `badge-${kind}`)} title=${title}>${children}</span>`;
}

/**
 * Tabs that are links, so that each has an address.
 *
 * @param {{tabs: {id: string, label: any, href: string}[], selected: string, label: string}} props
 */
export function Tabs({ tabs, selected, label }) {
  return html`<nav class="tabs" aria-label=${label}>
    ${tabs.map((tab) => html`<a key=${tab.id} href=${tab.href} aria-current=${tab.id === selected ? "page" : undefined}>${tab.label}</a>`)}
  </nav>`;
}

/** Names and values. @param {{rows: [any, any][]}} props */
export function Facts({ rows }) {
  return html`<dl class="facts">
    ${rows.filter(([, value]) => value !== null && value !== undefined && value !== false).map(([name, value], row) => html`<div key=${row}><dt>${name}</dt><dd>${value}</dd></div>`)}
  </dl>`;
}
