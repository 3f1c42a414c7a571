/** The studio: a prompt and its settings on one side, what is drawn on the other. */
import { api } from "../api.js";
import { duration } from "../format.js";
import { readManifest } from "../png.js";
import { setQuery } from "../router.js";
import { seedAfter } from "../seed.js";
import { useStored } from "../store.js";
import { Button } from "../ui/button.js";
import { CompareDialog } from "../ui/compare.js";
import { Empty } from "../ui/empty.js";
import { FormProblem, errorsAt } from "../ui/field.js";
import { html, useEffect, useRef, useState } from "../ui/html.js";
import { Notice, Warnings } from "../ui/notice.js";
import { Page } from "../ui/page.js";
import { CopyCurl } from "../ui/copy.js";
import { toast, toastProblem } from "../ui/toast.js";
import { deltasOf, everyConcept, useService } from "./studio/concepts.js";
import { Composing } from "./studio/composing.js";
import { Controls } from "./studio/controls.js";
import { useDryRun } from "./studio/foretell.js";
import { History, useHistory } from "./studio/history.js";
import { Prompt } from "./studio/prompt.js";
import { Result } from "./studio/result.js";
import { EMPTY, fromSample, takingPart, toRequest } from "./studio/settings.js";
import { fromManifest, useDroppedFile } from "./studio/taking.js";
import { uploadStart } from "./studio/start-image.js";
import { Uses } from "./studio/uses.js";

/** @typedef {import("./studio/settings.js").Settings} Settings */

/** Previews of a picture while it is drawn. */
const PREVIEWS = 5;

/** The fields beside which an error is shown. */
const FIELDS = [
  "/prompt", "/negative_prompt", "/n", "/seed", "/num_inference_steps", "/guidance_scale", "/scheduler", "/width", "/height",
  "/init_image", "/noise_strength", "/guidance_interval", "/unconditional_strength", "/eta", "/first_index", "/determinism",
  "/concepts",
];
/** Those that are there for two or more concepts. */
const COMPOSING_FIELDS = ["/composition/method", "/composition/regions", "/composition/enlarge", "/merge/method", "/merge/constraint_weight"];

/** @param {{ query: Record<string, string> }} props `sample` is the one that is shown; `prompt` begins a new picture, with `concept` (handles
 *   between commas) and their `delta` if another than the current one is meant; `image` begins one with the settings of an image. */
export default function Studio({ query }) {
  const [settings, setSettings] = useStored("studio", EMPTY);
  const [isWriting, setWriting] = useState(false);
  const { concepts, capabilities, isAll, problem: missing } = useService(isWriting || settings.prompt !== "");
  const [refused, setRefused] = useState(/** @type {any} */ (null));
  const [compared, setCompared] = useState(/** @type {any[]} */ ([]));
  const [drawing, setDrawing] = useState(false);
  const history = useHistory();
  const result = useRef(/** @type {HTMLElement | null} */ (null));
  const shown = query.sample ?? history.samples?.[0]?.id ?? null;

  const change = (/** @type {Partial<Settings>} */ changes) => {
    setRefused(null);
    setSettings((before) => ({ ...before, ...changes }));
  };
  useEffect(() => {
    if (query.prompt === undefined) return;
    const { prompt, concept, delta } = query;
    change({ prompt, ...(concept && { uses: usesAsked(prompt, concept.split(","), delta) }) });
    setQuery({ prompt: null, concept: null, delta: null });
  }, [query.prompt]);
  useEffect(() => {
    if (!query.image) return;
    api.get(`v1/images/${query.image}/manifest`).then(({ body: manifest }) => takeManifest(manifest), toastProblem);
    setQuery({ image: null });
  }, [query.image]);

  const part = takingPart(settings, concepts);
  const { body, errors, order } = toRequest(settings, concepts);
  const foretold = useDryRun("v1/samples", settings.prompt.trim() && !errors.length && isAll ? body : null);
  const warnings = foretold.answer?.warnings ?? [];
  const problem = merged(errors, refused ?? foretold.problem);
  const tokens = foretold.answer?.prompt_tokens ?? tokensOf(foretold.problem);

  /** Draws what the fields say, or other settings. */
  const draw = async (/** @type {Settings} */ wanted = settings) => {
    if (drawing || !wanted.prompt.trim()) return;
    setDrawing(true);
    try {
      const request = toRequest(wanted, await everyConcept());
      if (request.errors.length) return;
      const steps = request.body.num_inference_steps ?? capabilities?.sampling_defaults.num_inference_steps ?? 25;
      const { body: sample } = await api.post("v1/samples", { ...request.body, preview_every: Math.max(1, Math.ceil(steps / PREVIEWS)) });
      setRefused(null);
      history.put(sample);
      show(sample.id);
      if (wanted === settings && !settings.keepSeed && settings.seed) setSettings((before) => ({ ...before, seed: "" }));
    } catch (cause) {
      setRefused(cause);
    } finally {
      setDrawing(false);
    }
  };
  const show = (/** @type {string} */ id) => {
    setQuery({ sample: id });
    // Where the result is below the form, it is brought into sight.
    if (matchMedia("(max-width: 60rem)").matches) result.current?.scrollIntoView({ block: "start" });
  };

  const settingsOf = async (/** @type {any} */ sample, /** @type {number | null} */ index) =>
    fromSample(sample, await deltasOf(sample.deltas.map((/** @type {any} */ used) => used.delta)), await everyConcept(), index);
  const take = (/** @type {any} */ sample, /** @type {number | null} */ index) =>
    settingsOf(sample, index).then((taken) => {
      change(taken);
      toast("Settings copied into the form");
    }, toastProblem);
  const vary = (/** @type {any} */ sample, /** @type {number} */ index) =>
    settingsOf(sample, index).then((taken) => {
      const varied = { ...taken, seed: seedAfter(taken.seed), first_index: "" };
      change(varied);
      return draw(varied);
    }, toastProblem);
  const compare = (/** @type {any} */ image) =>
    setCompared((before) => {
      if (before.some(({ id }) => id === image.id)) return before.filter(({ id }) => id !== image.id);
      if (!before.length) toast("Choose a second picture to compare it with", { kind: "info" });
      return [...before.slice(-1), image];
    });

  const takeManifest = async (/** @type {any} */ manifest) => {
    const { settings: taken, missing: lacking } = await fromManifest(manifest, await everyConcept());
    change(taken);
    if (lacking) toast(lacking, { kind: "fail" });
    else toast("Settings of the picture copied into the form");
  };
  const takeFile = async (/** @type {File} */ file) => {
    try {
      const found = await readManifest(file);
      if (!found) {
        change({ init_image: await uploadStart(file) });
        toast("This picture has no vstar settings, so it was set as the start image.", { kind: "info" });
        return;
      }
      await takeManifest(found.manifest);
    } catch (cause) {
      toastProblem(cause instanceof Error && !("detail" in cause) ? { detail: cause.message } : cause);
    }
  };
  const { over, input } = useDroppedFile(takeFile);

  const estimate = foretold.answer?.estimate;
  return html`<${Page}
    title="Studio"
    wide
    class="studio"
    actions=${html`<${Button} kind="quiet" small icon="upload" onClick=${() => input.current?.click()}>Settings from a picture<//>
      <input ref=${input} type="file" accept="image/png" hidden aria-label="A picture made by vstar" onChange=${(/** @type {any} */ event) => {
        const file = event.currentTarget.files[0];
        event.currentTarget.value = "";
        if (file) return takeFile(file);
      }} />
      <${Button} kind="quiet" small icon="undo" onClick=${() => change(EMPTY)}>Start afresh<//>`}
  >
    ${over && html`<div class="dropping" aria-hidden="true"><p>Drop a picture made by vstar to take its settings, or any other to start from it</p></div>`}
    <div class="studio-columns">
      <form
        class="studio-form"
        aria-label="Settings"
        onSubmit=${(/** @type {Event} */ event) => {
          event.preventDefault();
          return draw();
        }}
      >
        <${Prompt}
          value=${settings.prompt}
          onChange=${(/** @type {string} */ prompt, /** @type {any} */ added) =>
            change({ prompt, ...(added && { uses: { ...settings.uses, [added.handle]: { ...(settings.uses[added.handle] ?? { strength: "" }), added: true } } }) })}
          concepts=${concepts}
          onFocus=${() => setWriting(true)}
          onSubmit=${() => draw()}
          tokens=${tokens}
          mostTokens=${capabilities?.base_model.max_prompt_tokens}
          errors=${errorsAt(problem, "/prompt").map(({ detail }) => detail)}
        />
        ${missing && html`<${Notice} kind="fail"><p>${missing.detail}</p><//>`}
        ${isAll && !concepts.some(({ current_delta }) => current_delta) &&
        html`<${Notice}><p>No concept has been taught yet. <a href="#/concepts/new">Teach one</a>, or draw with the base model alone.</p><//>`}
        <${Uses} part=${part} uses=${settings.uses} onChange=${(/** @type {any} */ uses) => change({ uses })} order=${order} problem=${problem} warnings=${warnings} />
        ${part.length > 1 &&
        html`<${Composing}
          composing=${settings.composing}
          onChange=${(/** @type {any} */ composing) => change({ composing })}
          part=${part}
          uses=${settings.uses}
          aspect=${aspect(settings, capabilities)}
          problem=${problem}
          warnings=${warnings}
        />`}
        <${Controls} settings=${settings} change=${change} capabilities=${capabilities} problem=${problem} warnings=${warnings} negativeTokens=${foretold.answer?.negative_prompt_tokens} />
        <${Warnings} warnings=${warnings.filter((/** @type {{ pointer: string }} */ { pointer }) => !isBesideField(pointer))} />
        <${FormProblem} problem=${refused && problem} shown=${part.length > 1 ? [...FIELDS, ...COMPOSING_FIELDS] : FIELDS} />
        <div class="studio-draw">
          <${Button} kind="primary" icon="studio" type="submit" disabled=${!settings.prompt.trim() || errors.length > 0} busy=${drawing}>Draw<//>
          <span class="muted" aria-live="polite">
            ${errors.length > 0 && "Correct the marked field above."}
            ${estimate && `About ${duration(Math.max(1, estimate.run_seconds))}${estimate.queue_seconds >= 1 ? `, after ${duration(estimate.queue_seconds)} in the queue` : ""}`}
          </span>
          <${CopyCurl} path="v1/samples" body=${body} />
        </div>
      </form>
      <div class="studio-result" ref=${result}>
        ${shown
          ? html`<${Result}
              key=${shown}
              id=${shown}
              onTake=${take}
              onVary=${vary}
              onStartFrom=${(/** @type {any} */ image) => (change({ init_image: image.id }), toast("Set as the start image"))}
              compared=${compared.map(({ id }) => id)}
              onCompare=${compare}
              onChange=${history.put}
              onGone=${() => {
                history.drop(shown);
                setQuery({ sample: null });
              }}
            />`
          : history.samples && html`<${Empty} icon="studio" title="Nothing drawn yet">Write a prompt and press Draw. What you draw stays here.<//>`}
        <${History} history=${history} chosen=${shown} onChoose=${show} />
      </div>
    </div>
    ${compared.length === 2 && html`<${CompareDialog} first=${compared[0]} second=${compared[1]} onClose=${() => setCompared([])} />`}
  <//>`;
}

/** The concepts that an address asks for: those whose word is in the prompt take part by it. @returns {Settings["uses"]} */
function usesAsked(/** @type {string} */ prompt, /** @type {string[]} */ handles, /** @type {string | undefined} */ delta) {
  return Object.fromEntries(handles.map((handle) => [handle, { strength: "", ...(delta && { delta }), ...(!prompt.includes("<") && { added: true }) }]));
}

/** A problem that has the page's own errors before those of the service. */
function merged(/** @type {any[]} */ errors, /** @type {any} */ problem) {
  if (!errors.length) return problem;
  return { detail: errors[0].detail, requestId: null, retryAfter: null, ...problem, errors: [...errors, ...(problem?.errors ?? [])] };
}

/** The tokens of a prompt that is too long: they are said in the refusal alone. */
function tokensOf(/** @type {any} */ problem) {
  const error = problem?.errors.find((/** @type {any} */ one) => one.code === "prompt_too_long" && one.pointer === "/prompt");
  const count = error && /^\d+/.exec(error.detail);
  return count ? Number(count[0]) : undefined;
}

/** Whether a warning stands beside a field of its own. `/prompt` has none: its place is taken by the completion. */
const isBesideField = (/** @type {string} */ pointer) => pointer !== "/prompt" && [...FIELDS, "/composition", "/merge"].some((field) => pointer === field || pointer.startsWith(`${field}/`));

/** @param {Settings} settings @param {any} capabilities */
function aspect(settings, capabilities) {
  const native = capabilities?.base_model.native_size ?? 1;
  const side = (/** @type {string} */ text) => (Number(text) > 0 ? Number(text) : native);
  return side(settings.width) / side(settings.height);
}
