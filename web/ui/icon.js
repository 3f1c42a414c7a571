/** Icons, drawn with one stroke width on a grid of 24. */
import { html } from "./html.js";

/** @type {Record<string, string>} */
const PATHS = {
  concepts: "M4 5h7v7H4zM13 5h7v7h-7zM4 14h7v5H4zM13 14h7v5h-7z",
  studio: "M12 3c.7 5 3.900 8.200 9 9-5.100.800-8.300 4-9 9-.700-5-3.900-8.200-9-9 5.100-.800 8.300-4 9-9z",
  compose: "M9 4a6 6 0 1 0 0 12A6 6 0 0 0 9 4zM15 8a6 6 0 1 1 0 12 6 6 0 0 1 0-12z",
  images: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.500 9.500h.01",
  evaluations: "M5 20V10M12 20V4M19 20v-7M3 20h18",
  queue: "M4 6h16M4 12h11M4 18h7M19 15v6M16 18l3 3 3-3",
  settings: "M4 7h9M17 7h3M4 17h3M11 17h9M15 4.500v5M9 14.500v5",
  more: "M5 11.500h1v1h-1zM11.500 11.500h1v1h-1zM18 11.500h1v1h-1z",
  plus: "M12 5v14M5 12h14",
  close: "M6 6l12 12M18 6L6 18",
  check: "M5 12.500l4.500 4.500L19 7.500",
  warn: "M12 4l9 16H3zM12 10v4M12 17h.01",
  fail: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM9 9l6 6M15 9l-6 6",
  info: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM12 11v5M12 8h.01",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM16 16l4.500 4.500",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  download: "M12 4v11M7 11l5 5 5-5M4 20h16",
  upload: "M12 20V9M7 13l5-5 5 5M4 4h16",
  brush: "M20 4L10 14M8.500 13.500c-3 0-3.500 2.500-3.500 4.500-.500 1-1.500 1.500-2 2 4 .500 8-.500 8-4z",
  edit: "M4 20l1-5L16 4l4 4L9 19zM13.500 6.500l4 4",
  back: "M15 5l-7 7 7 7",
  forward: "M9 5l7 7-7 7",
  down: "M5 9l7 7 7-7",
  undo: "M8 5L4 9l4 4M4 9h10a6 6 0 0 1 0 12h-3",
  stop: "M7 7h10v10H7z",
  play: "M8 5l11 7-11 7z",
  refresh: "M20 11a8 8 0 1 0-2.300 6M20 5v6h-6",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.400 1.400M17.600 17.600L19 19M19 5l-1.400 1.400M6.400 17.600L5 19",
  moon: "M20 14.500A8 8 0 0 1 9.500 4a8 8 0 1 0 10.500 10.500z",
  auto: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM12 3v18M15 4v16M18 6v12",
  key: "M8 11a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM11 12l9-9M16 7l3 3",
  dice: "M4 4h16v16H4zM8.500 8.500h.01M15.500 15.500h.01M12 12h.01M15.500 8.500h.01M8.500 15.500h.01",
  lock: "M6 11h12v9H6zM8.500 11V8a3.500 3.500 0 0 1 7 0v3",
  compare: "M12 3v18M5 7h4v10H5zM15 7h4v10h-4z",
  external: "M14 4h6v6M20 4l-9 9M18 14v6H4V6h6",
};

/**
 * An icon. It is decoration: what it means is also said by the text or the label beside it.
 *
 * @param {{name: string, size?: number}} props
 */
export function Icon({ name, size = 20 }) {
  return html`<svg class="icon" width=${size} height=${size} viewBox="0 0 24 24" aria-hidden="true" focusable="false">
    <path d=${PATHS[name] ?? PATHS.info} />
  </svg>`;
}
