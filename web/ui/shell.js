/** The frame around every page: navigation, the state of the queue, the connection, the theme. */
import { html, classes, useEffect, useState } from "./html.js";
import { link } from "../router.js";
import { preferences } from "../store.js";
import { signOut, useSession } from "../session.js";
import { useLost } from "../connection.js";
import { Icon } from "./icon.js";
import { useCapabilities, useGet } from "./load.js";
import { Dialog } from "./dialog.js";

const PAGES = [
  { path: "/concepts", name: "Concepts", icon: "concepts" },
  { path: "/studio", name: "Studio", icon: "studio" },
  { path: "/compose", name: "Compose", icon: "compose" },
  { path: "/images", name: "Images", icon: "images" },
  { path: "/evaluations", name: "Evaluations", icon: "evaluations" },
  { path: "/queue", name: "Queue", icon: "queue" },
  { path: "/settings", name: "Settings", icon: "settings" },
];
const ON_PHONES = ["/concepts", "/studio", "/images", "/queue"];
/** Pages without an entry of their own belong to one that has. @type {Record<string, string>} */
const BELONGS = { trainings: "/concepts", preference: "/evaluations", merges: "/compose" };

/** @param {{path: string, children?: any}} props */
export function Shell({ path, children }) {
  const first = path.split("/")[1];
  const here = BELONGS[first] ?? `/${first}`;
  const [more, setMore] = useState(false);
  useEffect(() => setMore(false), [path]);
  const entry = (/** @type {any} */ page) => html`<a key=${page.path} href=${link(page.path)} aria-current=${page.path === here ? "page" : undefined}>
    <${Icon} name=${page.icon} /><span>${page.name}</span>
  </a>`;
  const inMore = !ON_PHONES.includes(here);
  return html`<a class="skip" href="#main" onClick=${(/** @type {Event} */ event) => (event.preventDefault(), document.getElementById("main")?.focus())}>Skip to the page</a>
    <div class="shell">
      <header class="rail">
        <a class="brand" href=${link("/concepts")} aria-label="vstar, to the concepts"><${Mark} /><span>vstar</span></a>
        <nav class="rail-nav" aria-label="Pages">${PAGES.map(entry)}</nav>
        <div class="rail-foot">
          <${QueueLight} />
          <${Account} />
        </div>
      </header>
      <main id="main" class="main" tabindex="-1"><${Connection} />${children}</main>
      <nav class="tabbar" aria-label="Pages">
        ${PAGES.filter((page) => ON_PHONES.includes(page.path)).map(entry)}
        <button type="button" class=${classes(inMore && "is-here")} aria-expanded=${more ? "true" : "false"} onClick=${() => setMore(true)}><${Icon} name="more" /><span>More</span></button>
      </nav>
      ${more &&
      html`<${Dialog} title="More" class="dialog-sheet" onClose=${() => setMore(false)}>
        <nav class="sheet-nav" aria-label="More pages">${PAGES.filter((page) => !ON_PHONES.includes(page.path)).map(entry)}</nav>
        <div class="sheet-foot"><${QueueLight} /><${Account} /></div>
      <//>`}
    </div>`;
}

function Mark() {
  return html`<svg class="mark" viewBox="0 0 32 32" width="28" height="28" aria-hidden="true">
    <rect width="32" height="32" rx="9" />
    <path d="M16 5.500c1 6 4.500 9.500 10.500 10.500-6 1-9.500 4.500-10.500 10.500-1-6-4.500-9.500-10.500-10.500 6-1 9.500-4.500 10.500-10.500z" />
  </svg>`;
}

/** What runs and waits. */
function QueueLight() {
  const { body } = useGet("v1/usage", { every: 5 });
  if (!body) return null;
  const { running_jobs: running, queued_jobs: queued } = body;
  const text = running || queued ? [running && `${running} running`, queued && `${queued} waiting`].filter(Boolean).join(" · ") : "Queue is empty";
  return html`<a class=${classes("light", running && "light-on")} href=${link("/queue")} aria-label=${running || queued ? `Queue: ${text}` : text}><span class="light-dot"></span><span>${text}</span></a>`;
}

function Account() {
  const { signedIn } = useSession();
  const capabilities = useCapabilities();
  const [theme, setTheme] = useState(() => preferences.get("theme") ?? "auto");
  const next = theme === "auto" ? "light" : theme === "light" ? "dark" : "auto";
  const name = { auto: "as the system", light: "light", dark: "dark" }[/** @type {"auto"} */ (theme)];
  const change = () => {
    setTheme(next);
    preferences.set("theme", next === "auto" ? null : next);
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
  };
  return html`<div class="account">
    ${capabilities && html`<span class="account-model" title="The base model">${capabilities.base_model.name}</span>`}
    ${signedIn && html`<button type="button" class="icon-button" aria-label="Sign out" title="Sign out" onClick=${() => (signOut(), location.reload())}><${Icon} name="key" size=${18} /></button>`}
    <button type="button" class="icon-button" aria-label=${`Colours: ${name}. Change`} title=${`Colours: ${name}`} onClick=${change}><${Icon} name=${{ auto: "auto", light: "sun", dark: "moon" }[/** @type {"auto"} */ (theme)]} size=${18} /></button>
  </div>`;
}

function Connection() {
  const lost = useLost();
  return html`<div role="status" aria-live="polite">
    ${lost && html`<div class="lost"><span class="pulse"></span>Connection lost, trying again. What is on this page may be out of date.</div>`}
  </div>`;
}
