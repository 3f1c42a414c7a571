/**
 * The brush for the subject mask.
 *
 * The mask is saved in the photo's size: white where the subject is. What is not marked is dimmed. Works with a pointer, by touch, and
 * with the keyboard: arrows move the brush, Space paints, `[` and `]` change its size.
 */
import { html, useCallback, useEffect, useLayoutEffect, useRef, useState } from "../../ui/html.js";
import { api } from "../../api.js";
import { Button } from "../../ui/button.js";
import { SliderField } from "../../ui/field.js";
import { ProblemNotice } from "../../ui/notice.js";

const UNDO_STEPS = 20;
/** The longest side that is painted on. A training sees photos smaller than this, and a step back costs its pixels in memory. */
const LONGEST = 1024;

/**
 * @param {{photo: any, onSave: (mask: Blob) => Promise<boolean>, onRemove: () => Promise<void>, onUnsaved: (unsaved: boolean) => void}} props
 *   `onUnsaved` is told whether there is something painted that is not saved.
 */
export function MaskBrush({ photo, onSave, onRemove, onUnsaved }) {
  const canvas = useRef(/** @type {any} */ (null));
  const picture = useRef(/** @type {ImageBitmap | null} */ (null));
  const mask = useRef(/** @type {HTMLCanvasElement | null} */ (null));
  const undo = useRef(/** @type {ImageData[]} */ ([]));
  const last = useRef(/** @type {any} */ (null));
  const scale = Math.min(1, LONGEST / Math.max(photo.width, photo.height));
  const [width, height] = [photo.width, photo.height].map((side) => Math.max(1, Math.round(side * scale)));
  const shade = useRef(/** @type {OffscreenCanvas | null} */ (null));
  const cursor = useRef({ x: width / 2, y: height / 2, shown: false });
  const [painting, setPainting] = useState(false);
  const [erasing, setErasing] = useState(false);
  const [share, setShare] = useState(12);
  const [changed, setChanged] = useState(false);
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const [rounds, setRounds] = useState(0);
  const radius = (Math.max(width, height) * share) / 200;

  const draw = useCallback(() => {
    const context = canvas.current?.getContext("2d");
    if (!context || !picture.current) return;
    context.globalCompositeOperation = "source-over";
    context.clearRect(0, 0, width, height);
    context.drawImage(picture.current, 0, 0, width, height);
    if (!painting && !photo.photo?.mask) return;
    // Everything outside of the mask is dimmed: a dark layer from which the mask is cut out.
    shade.current ??= new OffscreenCanvas(width, height);
    const layer = /** @type {OffscreenCanvasRenderingContext2D} */ (shade.current.getContext("2d"));
    layer.globalCompositeOperation = "copy";
    layer.fillStyle = "rgb(12 10 8 / 68%)";
    layer.fillRect(0, 0, width, height);
    layer.globalCompositeOperation = "destination-out";
    layer.drawImage(/** @type {any} */ (mask.current), 0, 0);
    context.drawImage(shade.current, 0, 0);
    if (cursor.current.shown && painting) {
      context.lineWidth = Math.max(1, width / 300);
      for (const [color, dash] of /** @type {[string, number[]][]} */ ([["#000", []], ["#fff", [width / 60, width / 60]]])) {
        context.strokeStyle = color;
        context.setLineDash(dash);
        context.beginPath();
        context.arc(cursor.current.x, cursor.current.y, radius, 0, Math.PI * 2);
        context.stroke();
      }
      context.setLineDash([]);
    }
  }, [painting, radius, photo]);
  const latestDraw = useRef(draw);
  latestDraw.current = draw;

  useEffect(() => {
    const stop = new AbortController();
    (async () => {
      const made = document.createElement("canvas");
      made.width = width;
      made.height = height;
      const { signal } = stop;
      picture.current ??= await createImageBitmap(await api.blob(photo.url, { signal }), { resizeWidth: width, resizeHeight: height, resizeQuality: "high" });
      if (photo.photo?.mask) {
        const bitmap = await createImageBitmap(await api.blob(photo.photo.mask.url, { signal }));
        /** @type {CanvasRenderingContext2D} */ (made.getContext("2d")).drawImage(bitmap, 0, 0, width, height);
        bitmap.close();
        brightnessToAlpha(made);
      }
      if (stop.signal.aborted) return;
      mask.current = made;
      latestDraw.current();
    })().catch((cause) => stop.signal.aborted || setProblem(cause));
    undo.current = [];
    setChanged(false);
    return () => stop.abort();
  }, [photo.id, photo.photo?.mask?.sha256, rounds]);
  useEffect(() => () => picture.current?.close(), []);
  useEffect(draw, [draw]);
  useLayoutEffect(() => onUnsaved(changed), [changed]);

  const keep = () => {
    const context = /** @type {HTMLCanvasElement} */ (mask.current).getContext("2d", { willReadFrequently: true });
    undo.current = [...undo.current.slice(1 - UNDO_STEPS), /** @type {CanvasRenderingContext2D} */ (context).getImageData(0, 0, width, height)];
  };
  const stroke = (/** @type {{x: number, y: number}} */ from, /** @type {{x: number, y: number}} */ to) => {
    const context = /** @type {CanvasRenderingContext2D} */ (/** @type {HTMLCanvasElement} */ (mask.current).getContext("2d"));
    context.globalCompositeOperation = erasing ? "destination-out" : "source-over";
    context.strokeStyle = "#fff";
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = radius * 2;
    context.beginPath();
    context.moveTo(from.x, from.y);
    context.lineTo(to.x + 0.01, to.y);
    context.stroke();
    setChanged(true);
    draw();
  };
  const pointOf = (/** @type {any} */ event) => {
    const box = canvas.current.getBoundingClientRect();
    return { x: ((event.clientX - box.left) / box.width) * width, y: ((event.clientY - box.top) / box.height) * height };
  };
  const down = (/** @type {any} */ event) => {
    if (!painting || event.button !== 0) return;
    event.preventDefault();
    canvas.current.setPointerCapture(event.pointerId);
    keep();
    const point = pointOf(event);
    last.current = point;
    stroke(point, point);
  };
  const move = (/** @type {any} */ event) => {
    if (!painting) return;
    const point = pointOf(event);
    cursor.current = { ...point, shown: true };
    if (last.current) stroke(last.current, point);
    else draw();
    if (last.current) last.current = point;
  };
  const up = () => void (last.current = null);
  const leave = () => ((cursor.current.shown = false), draw());
  const pressed = (/** @type {KeyboardEvent} */ event) => {
    if (!painting) return;
    const by = Math.max(width, height) / (event.shiftKey ? 12 : 40);
    const moves = /** @type {Record<string, [number, number]>} */ ({ ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] });
    const at = cursor.current;
    if (moves[event.key]) {
      const next = { x: Math.max(0, Math.min(width, at.x + moves[event.key][0])), y: Math.max(0, Math.min(height, at.y + moves[event.key][1])), shown: true };
      cursor.current = next;
      draw();
    } else if (event.key === " " || event.key === "Enter") {
      keep();
      cursor.current.shown = true;
      stroke(at, at);
    } else if (event.key === "[" || event.key === "]") {
      setShare((/** @type {number} */ former) => Math.max(2, Math.min(50, former + (event.key === "]" ? 2 : -2))));
    } else if (event.key === "z" && (event.ctrlKey || event.metaKey)) {
      back();
    } else {
      return;
    }
    event.preventDefault();
  };
  const put = (/** @type {ImageData} */ data) => {
    /** @type {CanvasRenderingContext2D} */ (/** @type {HTMLCanvasElement} */ (mask.current).getContext("2d")).putImageData(data, 0, 0);
    setChanged(true);
    draw();
  };
  const back = () => {
    const former = undo.current.pop();
    if (former) put(former);
  };
  const invert = () => {
    keep();
    const data = new ImageData(new Uint8ClampedArray(undo.current[undo.current.length - 1].data), width, height);
    for (let at = 0; at < data.data.length; at += 4) {
      data.data[at] = data.data[at + 1] = data.data[at + 2] = 255;
      data.data[at + 3] = 255 - data.data[at + 3];
    }
    put(data);
  };
  const save = async () => {
    const black = document.createElement("canvas");
    black.width = photo.width;
    black.height = photo.height;
    const context = /** @type {CanvasRenderingContext2D} */ (black.getContext("2d"));
    context.fillRect(0, 0, photo.width, photo.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(/** @type {HTMLCanvasElement} */ (mask.current), 0, 0, photo.width, photo.height);
    const blob = await new Promise((/** @type {(blob: any) => void} */ done) => black.toBlob(done, "image/png"));
    if (await onSave(blob)) setPainting(false);
  };

  /** Puts the saved mask back. */
  const cancel = () => {
    setPainting(false);
    if (changed) setRounds(rounds + 1);
  };

  return html`<div class="mask">
    <canvas
      ref=${canvas}
      width=${width}
      height=${height}
      class=${painting ? "mask-painting" : undefined}
      style=${{ width: `min(100%, calc(var(--mask-height) * ${width / height}))` }}
      tabindex=${painting ? "0" : undefined}
      role="img"
      aria-label=${painting ? "The photo. Paint over its subject: arrows move the brush, Space paints, brackets change its size." : photo.file_name ?? "Photo"}
      onPointerDown=${down}
      onPointerMove=${move}
      onPointerUp=${up}
      onPointerCancel=${up}
      onPointerLeave=${leave}
      onKeyDown=${pressed}
    ></canvas>
    <${ProblemNotice} problem=${problem} />
    ${painting
      ? html`<div class="mask-tools">
          <div class="row">
            <div class="segments" role="group" aria-label="Tool">
              <button type="button" aria-pressed=${erasing ? "false" : "true"} onClick=${() => setErasing(false)}>Paint</button>
              <button type="button" aria-pressed=${erasing ? "true" : "false"} onClick=${() => setErasing(true)}>Erase</button>
            </div>
            <${Button} small icon="undo" label="Undo" disabled=${!undo.current.length} onClick=${back} />
            <${Button} small onClick=${invert}>Invert<//>
          </div>
          <${SliderField} label="Brush" value=${share} min=${2} max=${50} step=${1} onValue=${setShare} />
          <div class="row">
            <${Button} small kind="primary" disabled=${!changed} onClick=${save}>Save the mask<//>
            <${Button} small kind="quiet" onClick=${cancel}>Cancel<//>
          </div>
        </div>`
      : html`<div class="row">
          <${Button} small icon="brush" onClick=${() => setPainting(true)}>${photo.photo?.mask ? "Change the mask" : "Mark the subject"}<//>
          ${photo.photo?.mask && html`<${Button} small kind="quiet" onClick=${onRemove}>Remove the mask<//>`}
          ${!photo.photo?.mask && html`<span class="muted small">Without a mask, the whole photo counts.</span>`}
        </div>`}
  </div>`;
}

/** Makes black transparent and white opaque. @param {HTMLCanvasElement} of */
function brightnessToAlpha(of) {
  const context = /** @type {CanvasRenderingContext2D} */ (of.getContext("2d"));
  const data = context.getImageData(0, 0, of.width, of.height);
  for (let at = 0; at < data.data.length; at += 4) {
    data.data[at + 3] = data.data[at];
    data.data[at] = data.data[at + 1] = data.data[at + 2] = 255;
  }
  context.putImageData(data, 0, 0);
}
