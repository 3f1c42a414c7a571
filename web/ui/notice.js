/** Messages in the flow of a page: warnings of the API, problems, hints. */
import { html, classes } from "./html.js";
import { Icon } from "./icon.js";
import { sentence } from "./field.js";

/** @param {{kind?: "info" | "ok" | "warn" | "fail", title?: any, action?: any, children?: any, class?: string}} props */
export function Notice({ kind = "info", title, action, children, class: name }) {
  const icon = kind === "ok" ? "check" : kind;
  return html`<div class=${classes("notice", `notice-${kind}`, name)} role=${kind === "fail" ? "alert" : undefined}>
    <${Icon} name=${icon} />
    <div class="notice-text">${title && html`<p class="notice-title">${title}</p>`}${children}</div>
    ${action}
  </div>`;
}

/** The `warnings` of a job or dry run. @param {{warnings?: {code: string, detail: string, pointer: string}[] | null}} props */
export function Warnings({ warnings }) {
  if (!warnings?.length) return null;
  return html`<${Notice} kind="warn" title=${warnings.length === 1 ? "One thing to know" : `${warnings.length} things to know`}>
    <ul class="plain-list">
      ${warnings.map((warning) => html`<li key=${warning.code + warning.pointer + warning.detail}>${sentence(warning.detail)}</li>`)}
    </ul>
  <//>`;
}

/** A problem of a page or an action. @param {{problem: any, retry?: () => void}} props */
export function ProblemNotice({ problem, retry }) {
  if (!problem) return null;
  return html`<${Notice}
    kind="fail"
    action=${retry && html`<button type="button" class="button button-plain button-small" onClick=${retry}><span>Try again</span></button>`}
  >
    <p>${sentence(problem.detail ?? String(problem))}</p>
    ${problem.requestId && html`<p class="notice-small">Request <code>${problem.requestId}</code></p>`}
  <//>`;
}
