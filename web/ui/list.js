/** Long lists: pages by cursor, and a grid that holds only the rows that are seen. */
import { html, classes, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./html.js";
import { api, withParameter } from "../api.js";
import { onConnection } from "../connection.js";
import { Button } from "./button.js";
import { ProblemNotice } from "./notice.js";

/**
 * A list of the API, read page by page.
 *
 * @param {string | null} path such as `v1/concepts?order=asc`
 * @param {{limit?: number, first?: number}} [options] `first` is the size of the first page, where a small one is wanted soon.
 * @returns {{items: any[], hasMore: boolean, loading: boolean, problem: any, first: boolean, more: () => Promise<void>,
 *   reload: () => Promise<void>, refresh: () => Promise<void>, retry: () => Promise<void>, change: (edit: (items: any[]) => any[]) => void}}
 *   `first` is true until the first page is there. `reload` begins anew; `refresh` reads the first page again and keeps what was
 *   read behind it; `retry` reads what failed once more.
 */
export function usePages(path, { limit = 50, first = limit } = {}) {
  const empty = { path, items: /** @type {any[]} */ ([]), cursor: /** @type {string | null} */ (null), hasMore: true, loading: false, problem: /** @type {any} */ (null), first: true };
  const [state, setState] = useState(empty);
  const latest = useRef(state);
  latest.current = state;
  const generation = useRef(0);

  const read = useCallback(
    async (/** @type {"again" | "first" | "next"} */ what) => {
      if (!path) return;
      const mine = what === "next" ? generation.current : ++generation.current;
      const cursor = what === "next" ? latest.current.cursor : null;
      latest.current = { ...latest.current, loading: true };
      setState((/** @type {any} */ former) => ({ ...former, loading: true, problem: null }));
      try {
        const paged = withParameter(path, "limit", String(cursor ? limit : first));
        const { body } = await api.get(cursor ? withParameter(paged, "after", cursor) : paged);
        if (mine !== generation.current) return;
        setState((/** @type {any} */ former) => ({ path, ...joined(what === "again" ? [] : former.items, former, body, Boolean(cursor)), loading: false, problem: null, first: false }));
      } catch (problem) {
        if (mine === generation.current) setState((/** @type {any} */ former) => ({ ...former, loading: false, problem, first: false }));
      }
    },
    [path, limit, first],
  );
  useEffect(() => {
    setState(empty);
    latest.current = empty;
    read("again");
    return onConnection((lost) => !lost && read("first"));
  }, [read]);
  const more = useCallback(async () => {
    if (!latest.current.loading && latest.current.hasMore && !latest.current.problem) await read("next");
  }, [read]);
  const reload = useCallback(() => read("again"), [read]);
  const refresh = useCallback(() => read("first"), [read]);
  const retry = useCallback(() => read("next"), [read]);
  const change = useCallback((/** @type {any} */ edit) => setState((/** @type {any} */ former) => ({ ...former, items: edit(former.items) })), []);
  // Until the effect has run, the state is that of the former path.
  return { ...(state.path === path ? state : empty), more, reload, refresh, retry, change };
}

/**
 * The entries that are known, with a page that was read.
 *
 * @param {any[]} items @param {{cursor: string | null, hasMore: boolean}} former @param {any} body @param {boolean} isBehind Whether the
 *   page stands behind the known entries; otherwise it is the first one, read again.
 */
function joined(items, former, body, isBehind) {
  const page = { cursor: body.next_cursor, hasMore: body.has_more };
  if (isBehind) {
    const known = new Set(items.map((item) => item.id));
    return { ...page, items: [...items, ...body.data.filter((/** @type {any} */ item) => !item.id || !known.has(item.id))] };
  }
  const last = body.has_more ? items.findIndex((item) => item.id && item.id === body.data.at(-1)?.id) : -1;
  if (last < 0) return { ...page, items: body.data };
  return { cursor: former.cursor, hasMore: former.hasMore, items: [...body.data, ...items.slice(last + 1)] };
}

/** Reads the next page when it comes into sight; also a button for those who do not scroll. @param {{list: any}} props */
export function More({ list }) {
  const ref = useRef(/** @type {any} */ (null));
  useEffect(() => {
    if (!ref.current) return;
    const near = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && list.more(), { rootMargin: "600px" });
    near.observe(ref.current);
    return () => near.disconnect();
  }, [list.items.length, list.hasMore, list.loading]);
  if (list.problem) return html`<${ProblemNotice} problem=${list.problem} retry=${list.retry} />`;
  if (!list.hasMore || list.first) return null;
  return html`<div ref=${ref} class="more"><${Button} busy=${list.loading} onClick=${() => list.more()}>Show more<//></div>`;
}

/**
 * A grid of equal tiles that holds only the rows near the visible part, for ten thousand entries.
 *
 * @param {{items: any[], render: (item: any, index: number) => any, minWidth?: number, gap?: number, rowHeight: (tileWidth: number) => number,
 *   keyOf?: (item: any, index: number) => any, class?: string, label?: string, onEnd?: () => void}} props
 *   `rowHeight` gives the height of a tile for its width; `onEnd` is called when the end comes into sight.
 */
export function VirtualGrid({ items, render, minWidth = 180, gap = 16, rowHeight, keyOf = (item) => item.id, class: name, label, onEnd }) {
  const box = useRef(/** @type {any} */ (null));
  const [width, setWidth] = useState(0);
  const [view, setView] = useState({ top: 0, bottom: 1200 });
  useLayoutEffect(() => {
    const measured = () => box.current && setWidth(box.current.clientWidth);
    measured();
    const resized = new ResizeObserver(measured);
    resized.observe(box.current);
    return () => resized.disconnect();
  }, []);
  useEffect(() => {
    let frame = 0;
    const moved = () => {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        if (!box.current) return;
        const top = -box.current.getBoundingClientRect().top;
        setView({ top: top - 300, bottom: top + innerHeight + 300 });
      });
    };
    moved();
    addEventListener("scroll", moved, { passive: true, capture: true });
    addEventListener("resize", moved);
    return () => {
      cancelAnimationFrame(frame);
      removeEventListener("scroll", moved, { capture: true });
      removeEventListener("resize", moved);
    };
  }, [items.length, width]);
  const columns = Math.max(1, Math.floor((width + gap) / (minWidth + gap)));
  const tile = (width - gap * (columns - 1)) / columns;
  const row = useMemo(() => (width ? rowHeight(tile) + gap : 1), [width, tile]);
  const rows = Math.ceil(items.length / columns);
  const first = Math.max(0, Math.min(rows, Math.floor(view.top / row)));
  const last = Math.min(rows, Math.ceil(view.bottom / row));
  useEffect(() => {
    if (width && last >= rows && items.length) onEnd?.();
  }, [last, rows, width, items.length]);
  const shown = width ? items.slice(first * columns, last * columns) : [];
  return html`<div ref=${box} class=${classes("virtual-grid", name)} style=${{ height: `${Math.max(0, rows * row - gap)}px` }} role="list" aria-label=${label}>
    ${shown.map((item, offset) => {
      const index = first * columns + offset;
      const style = {
        width: `${tile}px`,
        height: `${row - gap}px`,
        transform: `translate(${(index % columns) * (tile + gap)}px, ${Math.floor(index / columns) * row}px)`,
      };
      return html`<div key=${keyOf(item, index)} class="virtual-tile" role="listitem" aria-setsize=${items.length} aria-posinset=${index + 1} style=${style}>${render(item, index)}</div>`;
    })}
  </div>`;
}
