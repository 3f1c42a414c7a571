/**
 * Where a page was scrolled to, so that it is there again after back and forward, and after a reload.
 *
 * The browser tries this by itself, but before a page has read what it shows.
 */
import { drafts } from "./store.js";

history.scrollRestoration = "manual";

/** Places by entry of the history. The entries carry their names. @type {Record<string, number>} */
const places = drafts.get("places", /** @type {any} */ ({}));
let count = 0;
/** True from a step in the history until its page has been shown. */
let isArriving = true;
/** Where the page is to be that is arriving. */
let wanted = 0;

/** Ends the scrolling of the page that is arriving. @type {(() => void) | null} */
let end = null;

function arrive() {
  end?.();
  isArriving = true;
  const known = history.state?.entry;
  wanted = known ? (places[known] ?? 0) : 0;
  if (!known) history.replaceState({ ...history.state, entry: `${Date.now().toString(36)}-${++count}` }, "");
}
arrive();
addEventListener("popstate", arrive);
const note = () => {
  if (!isArriving && history.state?.entry) places[history.state.entry] = scrollY;
};
addEventListener("scroll", note, { passive: true });
addEventListener("pagehide", () => drafts.set("places", Object.fromEntries(Object.entries(places).slice(-50))));

/** How long a page may take to become as long as it was, in milliseconds. */
const PATIENCE = 5000;

/** Scrolls a page that has just been shown: to where it was if it is come back to, else to its top. */
export function showPlace() {
  end?.();
  const goal = wanted;
  const until = performance.now() + PATIENCE;
  let frame = 0;
  const arrived = () => {
    end?.();
    stayInPlace();
  };
  end = () => {
    cancelAnimationFrame(frame);
    for (const event of ["wheel", "pointerdown", "keydown"]) removeEventListener(event, arrived);
    end = null;
  };
  const step = () => {
    scrollTo(0, goal);
    // A list reads on as its end comes into sight, so the page may grow for a while.
    if (scrollY >= goal - 1 || performance.now() > until) arrived();
    else frame = requestAnimationFrame(step);
  };
  for (const event of ["wheel", "pointerdown", "keydown"]) addEventListener(event, arrived);
  step();
}

/** Says that the page is where it is to be: it was scrolled there, or a step in the history has not changed it. */
export function stayInPlace() {
  if (end) return; // still on its way
  isArriving = false;
  note();
}
