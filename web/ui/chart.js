/** Curves, by uPlot. The library is loaded when the first one is shown. */
import { html, useEffect, useRef, useState } from "./html.js";

/** @type {Promise<any> | null} */
let library = null;

function load() {
  library ??= Promise.all([
    import("../vendor/uplot/uPlot.esm.js"),
    new Promise((/** @type {(value?: any) => void} */ done) => {
      const sheet = document.createElement("link");
      sheet.rel = "stylesheet";
      sheet.href = new URL("../vendor/uplot/uPlot.min.css", import.meta.url).href;
      sheet.onload = sheet.onerror = () => done();
      document.head.append(sheet);
    }),
  ]).then(([module]) => module.default);
  library.catch(() => (library = null)); // The next chart tries again.
  return library;
}

/** Distances of the marks on the x axis: steps are whole numbers. */
const WHOLE = [1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 2500, 5000, 10_000, 20_000, 50_000, 100_000];

const color = (/** @type {string} */ name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * @typedef {{label: string, values: (number | null)[], color?: string, width?: number, faint?: boolean, points?: boolean,
 *   dash?: number[], text?: (value: number) => string}} Series
 */

/**
 * A chart of some series over common `x` values.
 *
 * @param {{x: number[], series: Series[], height?: number, log?: boolean, xLabel?: string, yLabel?: string, label: string,
 *   marks?: {x: number, label: string}[], xText?: (value: number) => string}} props `label` says what the chart shows, for those who do not see it
 */
export function Chart({ x, series, height = 260, log = false, xLabel, yLabel, label, marks = [], xText }) {
  const box = useRef(/** @type {any} */ (null));
  const plot = useRef(/** @type {any} */ (null));
  const [theme, setTheme] = useState(0);
  const form = JSON.stringify([series.map((each) => [each.label, each.color, each.faint]), log, xLabel, yLabel, height, theme]);
  const shownMarks = useRef(marks);
  shownMarks.current = marks;

  useEffect(() => {
    const again = () => setTheme((/** @type {number} */ count) => count + 1);
    const query = matchMedia("(prefers-color-scheme: dark)");
    query.addEventListener("change", again);
    const attribute = new MutationObserver(again);
    attribute.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    return () => {
      query.removeEventListener("change", again);
      attribute.disconnect();
    };
  }, []);

  useEffect(() => {
    let there = true;
    /** @type {ResizeObserver | null} */
    let resized = null;
    load().then((/** @type {any} */ uPlot) => {
      if (!there || !box.current) return;
      const axis = { stroke: color("--text-muted"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line"), width: 1 }, font: "12px system-ui" };
      const options = {
        width: box.current.clientWidth,
        height,
        cursor: { y: false, points: { size: 7 } },
        legend: { live: true },
        scales: { x: { time: false }, y: { distr: log ? 3 : 1 } },
        axes: [
          { ...axis, label: xLabel, incrs: WHOLE, labelSize: 22, size: 34, labelFont: "12px system-ui", values: xText && ((/** @type {any} */ _, /** @type {number[]} */ values) => values.map(xText)) },
          { ...axis, label: yLabel, labelSize: 22, size: 58, labelFont: "12px system-ui" },
        ],
        series: [
          { label: xLabel ?? "x", value: (/** @type {any} */ _, /** @type {any} */ value) => (value === null ? "–" : xText ? xText(value) : String(value)) },
          ...series.map((each, index) => ({
            label: each.label,
            stroke: color(each.color ?? `--chart-${(index % 6) + 1}`),
            width: each.width ?? (each.faint ? 1 : 2),
            alpha: each.faint ? 0.4 : 1,
            dash: each.dash,
            points: { show: each.points ?? false },
            spanGaps: true,
            value: (/** @type {any} */ _, /** @type {any} */ value) => (value === null || value === undefined ? "–" : each.text ? each.text(value) : Number(value.toPrecision(4))),
          })),
        ],
        hooks: {
          draw: [
            (/** @type {any} */ drawn) => {
              for (const mark of shownMarks.current) {
                const at = drawn.valToPos(mark.x, "x", true);
                const { top, height: tall } = drawn.bbox;
                drawn.ctx.save();
                drawn.ctx.strokeStyle = color("--text-muted");
                drawn.ctx.setLineDash([3, 4]);
                drawn.ctx.beginPath();
                drawn.ctx.moveTo(at, top);
                drawn.ctx.lineTo(at, top + tall);
                drawn.ctx.stroke();
                drawn.ctx.restore();
              }
            },
          ],
        },
      };
      plot.current = new uPlot(options, [x, ...series.map((each) => each.values)], box.current);
      resized = new ResizeObserver(() => box.current && plot.current?.setSize({ width: box.current.clientWidth, height }));
      resized.observe(box.current);
    }, console.error);
    return () => {
      there = false;
      resized?.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [form]);

  useEffect(() => {
    plot.current?.setData([x, ...series.map((each) => each.values)]);
  }, [x, series]);

  return html`<div class="chart" ref=${box} role="img" aria-label=${label} style=${{ minHeight: `${height}px` }}></div>`;
}

/**
 * A smoothed copy of a curve: the exponential mean of the values before, freed from the bias of its start.
 *
 * @param {number[]} values
 * @param {number} weight of the past, 0 to 1
 */
export function smooth(values, weight = 0.95) {
  let mean = 0;
  let norm = 0;
  return values.map((value) => {
    mean = weight * mean + (1 - weight) * value;
    norm = weight * norm + (1 - weight);
    return mean / norm;
  });
}
