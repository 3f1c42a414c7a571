/** Pictures of the service. */
import { html, classes, useEffect, useRef, useState } from "./html.js";
import { api, relative, withParameter } from "../api.js";
import { onConnection } from "../connection.js";
import { hasKey } from "../session.js";
import { Icon } from "./icon.js";

/** Object URLs by path, the latest last. Only pages with a key need them. @type {Map<string, Promise<string>>} */
const urls = new Map();
const KEPT = 300;

/** The widths that the service makes. */
const WIDTHS = [64, 128, 256, 512, 1024];

/** The width in the screen's own pixels, rounded up to one that the service makes. @param {number} width */
const thumbnailWidth = (width) => WIDTHS.find((each) => each >= width * Math.min(devicePixelRatio, 2)) ?? 1024;

/** @param {string} path */
function objectUrl(path) {
  const known = urls.get(path);
  if (known) {
    urls.delete(path);
    urls.set(path, known);
    return known;
  }
  const made = api.blob(path).then((blob) => URL.createObjectURL(blob));
  made.catch(() => urls.delete(path));
  urls.set(path, made);
  if (urls.size > KEPT) {
    const [oldest, url] = /** @type {[string, Promise<string>]} */ (urls.entries().next().value);
    urls.delete(oldest);
    url.then((text) => setTimeout(() => URL.revokeObjectURL(text), 60_000), () => {});
  }
  return made;
}

/**
 * A picture, read when it comes near the visible part of the page.
 *
 * Without a key its address is given to the browser, which caches it. With one it is fetched, since an address cannot carry a
 * key.
 *
 * @param {{src: string | null | undefined, alt: string, width?: number, ratio?: number | string, class?: string, fit?: "cover" | "contain",
 *   pixelated?: boolean, onLoad?: (event: any) => void, children?: any}} props
 *   `width` asks for a thumbnail that is so wide on the page: 64, 128, 256 or 512. `ratio` is the box's width over its height, 1 by
 *   default. `children` lie over the picture.
 */
export function Picture({ src, alt, width, ratio = 1, class: name, fit = "cover", pixelated, onLoad, children }) {
  const path = src ? (width ? withParameter(relative(src), "w", String(thumbnailWidth(width))) : relative(src)) : null;
  const box = useRef(/** @type {any} */ (null));
  const [url, setUrl] = useState(/** @type {string | null} */ (null));
  const [state, setState] = useState("waiting");
  const [tries, setTries] = useState(0);
  // What could not be read while the connection was lost is read when it is back.
  useEffect(() => (state === "missing" ? onConnection((lost) => !lost && setTries((/** @type {number} */ count) => count + 1)) : undefined), [state]);
  useEffect(() => {
    setState("waiting");
    setUrl(null);
    if (!path) return;
    if (!hasKey()) {
      setUrl(path);
      return;
    }
    let there = true;
    const show = () => objectUrl(path).then((made) => there && setUrl(made), () => there && setState("missing"));
    const near = new IntersectionObserver(
      (entries) => {
        if (!entries.some((entry) => entry.isIntersecting)) return;
        near.disconnect();
        show();
      },
      { rootMargin: "400px" },
    );
    near.observe(box.current);
    return () => {
      there = false;
      near.disconnect();
    };
  }, [path, tries]);
  return html`<span ref=${box} class=${classes("picture", `picture-${fit}`, `picture-${state}`, pixelated && "picture-pixelated", name)} style=${{ aspectRatio: String(ratio) }}>
    ${url &&
    state !== "missing" &&
    html`<img
      key=${tries}
      src=${url}
      alt=${alt}
      loading="lazy"
      decoding="async"
      draggable=${false}
      onLoad=${(/** @type {any} */ event) => (setState("there"), onLoad?.(event))}
      onError=${() => setState("missing")}
    />`}
    ${state === "missing" && html`<span class="picture-missing" role="img" aria-label=${`${alt} (cannot be shown)`}><${Icon} name="images" /></span>`}
    ${children}
  </span>`;
}
