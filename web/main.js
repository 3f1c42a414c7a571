/** The start of the page: finds the module of the present address, and shows it in the frame. */
import { html, render, useEffect, useErrorBoundary, useRef, useState } from "./ui/html.js";
import { link, match, navigate, useRoute } from "./router.js";
import { showPlace, stayInPlace } from "./scroll.js";
import { Shell } from "./ui/shell.js";
import { SignIn } from "./ui/sign-in.js";
import { Toasts } from "./ui/toast.js";
import { Empty, Skeleton } from "./ui/empty.js";
import { Button } from "./ui/button.js";

/**
 * Each page by the form of its address: its module in `pages/`, and its style sheet in `styles/pages/`. `stays` is for a page that
 * remains what it is with other parameters.
 */
const ROUTES = [
  { path: "/concepts", page: "concepts" },
  { path: "/concepts/new", page: "concept-new", style: "concept" },
  { path: "/concepts/:id", page: "concept" },
  { path: "/trainings/:id", page: "training" },
  { path: "/studio", page: "studio" },
  { path: "/compose", page: "compose" },
  { path: "/images", page: "images", stays: true },
  { path: "/images/:id", page: "images", stays: true },
  { path: "/evaluations", page: "evaluations" },
  { path: "/evaluations/:id", page: "evaluation" },
  { path: "/preference", page: "preference" },
  { path: "/preference/:id", page: "preference" },
  { path: "/queue", page: "queue" },
  { path: "/settings", page: "settings" },
  { path: "/merges/:id", page: "merge" },
];

/** @param {string} path */
function find(path) {
  for (const route of ROUTES) {
    const params = match(route.path, path);
    if (params) return { ...route, params };
  }
  return null;
}

/** Style sheets that were asked for. @type {Map<string, Promise<void>>} */
const styles = new Map();

/** Loads a page's style sheet. A page without one is shown without. */
function loadStyle(/** @type {string} */ name) {
  if (!styles.has(name)) {
    const sheet = document.createElement("link");
    sheet.rel = "stylesheet";
    sheet.href = new URL(`./styles/pages/${name}.css`, import.meta.url).href;
    styles.set(name, new Promise((done) => (sheet.onload = sheet.onerror = () => done())));
    document.head.append(sheet);
  }
  return styles.get(name);
}

/** @type {Map<string, any>} */
const modules = new Map();

function App() {
  const { path, query } = useRoute();
  const route = find(path);
  const [, loaded] = useState(0);
  const [failed, setFailed] = useState(/** @type {string | null} */ (null));
  const former = useRef(/** @type {string | null} */ (null));
  const name = route?.page ?? null;
  const key = String(route?.stays ? name : name + JSON.stringify(route?.params));

  useEffect(() => {
    if (path === "/") navigate("/concepts", { replace: true });
  }, [path]);

  useEffect(() => {
    if (!name || modules.has(name)) return;
    Promise.all([import(`./pages/${name}.js`), loadStyle(/** @type {any} */ (route).style ?? name)]).then(
      ([module]) => (modules.set(name, module.default), setFailed(null), loaded((/** @type {number} */ count) => count + 1)),
      (cause) => (console.error(cause), setFailed(name)),
    );
  }, [name]);

  // A new page begins at its top, and its heading is what a screen reader says next.
  const ready = name !== null && modules.has(name);
  useEffect(() => {
    if (!ready) return;
    if (former.current === key) return stayInPlace();
    const isFirst = former.current === null;
    former.current = key;
    if (!isFirst) /** @type {HTMLElement | null} */ (document.querySelector("main h1"))?.focus({ preventScroll: true });
    showPlace();
  }, [path, JSON.stringify(query), ready]);

  const Shown = name ? modules.get(name) : null;
  return html`<${Shell} path=${path}>
      ${Shown
        ? html`<${Guard} key=${key}><${Shown} params=${route?.params} query=${query} /><//>`
        : failed && failed === name
          ? html`<${Empty} whole icon="warn" title="This page cannot be loaded" action=${html`<${Button} onClick=${() => location.reload()}>Load it again<//>`}>
              <p>The server may have been updated meanwhile.</p>
            <//>`
          : route || path === "/"
            ? html`<div class="page"><${Skeleton} rows=${4} height="3rem" /></div>`
            : html`<${Empty} whole icon="search" title="There is no such page" action=${html`<${Button} href=${link("/concepts")}>To the concepts<//>`}>
                <p><code>${path}</code> is not an address of this studio.</p>
              <//>`}
    <//>
    <${SignIn} />
    <${Toasts} />`;
}

/** Keeps the frame when a page fails. @param {{children?: any}} props */
function Guard({ children }) {
  const [error, reset] = useErrorBoundary((cause) => console.error(cause));
  if (!error) return children;
  return html`<${Empty} whole icon="warn" title="Something went wrong on this page" action=${html`<${Button} kind="primary" onClick=${reset}>Show it again<//>`}>
    <p>Nothing on the server was changed by this.</p>
    <p><code>${String(error.message ?? error)}</code></p>
  <//>`;
}

render(html`<${App} />`, /** @type {HTMLElement} */ (document.getElementById("app")));
