/** Starts a training: the few things to decide, and what the service says to them before it begins. */
import { html, useEffect, useMemo, useState } from "../../ui/html.js";
import { api } from "../../api.js";
import { link, navigate } from "../../router.js";
import { preferences, useStored } from "../../store.js";
import { ago, count, duration, plural, shortId } from "../../format.js";
import { Section } from "../../ui/page.js";
import { Button } from "../../ui/button.js";
import { CheckField, Field, FormProblem, NumberField, SelectField, TextField, errorsAt } from "../../ui/field.js";
import { Notice, Warnings } from "../../ui/notice.js";
import { CopyCurl } from "../../ui/copy.js";
import { Folded } from "../../ui/folded.js";
import { Bar, StatusBadge, phaseText, share } from "../../ui/job.js";
import { useCapabilities, useSettled } from "../../ui/load.js";
import { PROMPTS } from "./drawings.js";

/**
 * @typedef {{preset: "default" | "paper", promote: string, seed: number | null, source: string, maxImages: number | null,
 *   starts: string[], previews: boolean, recipe: Record<string, any>}} Draft
 */

/** @type {Draft} */
const EMPTY = { preset: "default", promote: "auto", seed: null, source: "set", maxImages: null, starts: [], previews: true, recipe: {} };

/** Numbers of the recipe that are worth a field: name, label, hint, whole or not. @type {[string, string, string, boolean][]} */
const NUMBERS = [
  ["max_train_steps", "Steps", "More steps learn the concept better; too many learn the photos by heart.", true],
  ["learning_rate", "Learning rate", "How far each step goes.", false],
  ["instance_batch_size", "Photos in a step", "", true],
  ["class_batch_size", "Class images in a step", "0 trains without.", true],
  ["prior_loss_weight", "Weight of the class images", "How firmly the kind stays as it was.", false],
  ["token_learning_rate_factor", "Rate of the word", "Times the learning rate.", false],
  ["lr_warmup_steps", "Warm-up steps", "", true],
  ["rank", "Rank", "Empty learns full matrices, a number their factors of that rank.", true],
];
/** Pointers of the fields under "More settings". */
const FOLDED = [...NUMBERS.slice(1).map(([name]) => `/recipe/${name}`), "/recipe/lr_scheduler", "/regularization"];
const SHOWN = [...FOLDED, "/recipe/max_train_steps", "/recipe/initializer_candidates", "/seed", "/promote", "/previews"];

/** The body of the request, without what stays as the preset has it. @param {any} concept @param {string[]} others @param {Draft} draft @param {string[]} prompts */
function bodyOf(concept, others, draft, prompts) {
  const recipe = Object.fromEntries(Object.entries(draft.recipe).filter(([, value]) => value !== null && value !== undefined && value !== ""));
  const drawn = prompts.map((prompt) => prompt.trim()).filter(Boolean).slice(0, 4);
  if (draft.starts.length && concept.modifier_token) recipe.initializer_candidates = draft.starts;
  return {
    concepts: [concept.handle, ...others],
    ...(draft.preset === "default" ? {} : { preset: draft.preset }),
    ...(draft.promote === "auto" ? {} : { promote: draft.promote }),
    ...(draft.seed === null ? {} : { seed: draft.seed }),
    ...(draft.source === "set" && draft.maxImages === null ? {} : { regularization: { source: draft.source, ...(draft.maxImages === null ? {} : { max_images: draft.maxImages }) } }),
    ...(draft.previews && drawn.length ? { previews: { prompts: drawn, seed: 7 } } : {}),
    ...(Object.keys(recipe).length ? { recipe } : {}),
  };
}

/** @param {{concept: any, trainings: any, others?: string}} props `others` are handles of concepts that are learned jointly */
export function Train({ concept, trainings, others = "" }) {
  const capabilities = useCapabilities();
  const [draft, setDraft] = useStored(`train ${concept.id}`, EMPTY);
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const [usable, setUsable] = useState(/** @type {Record<string, boolean>} */ ({}));
  const [rounds, setRounds] = useState(0);
  const jointly = useMemo(() => others.split(",").filter(Boolean), [others]);
  const [prompts, setPrompts] = useStored(`prompts ${concept.id}`, PROMPTS, preferences);
  const body = useMemo(() => bodyOf(concept, jointly, draft, prompts), [concept.handle, jointly, draft, prompts]);
  const ok = Object.values(usable).every(Boolean);
  const forecast = useForecast(ok ? body : null, concept.image_count);
  const shown = problem ?? forecast.problem;

  const set = (/** @type {Partial<Draft>} */ change) => (setProblem(null), setDraft((/** @type {Draft} */ former) => ({ ...former, ...change })));
  const setRecipe = (/** @type {string} */ name, /** @type {any} */ value, fine = true) => {
    setUsable((former) => ({ ...former, [name]: fine }));
    if (fine) set({ recipe: { ...draft.recipe, [name]: value } });
  };
  const preset = capabilities?.training_presets[draft.preset] ?? {};
  const start = async () => {
    setProblem(null);
    try {
      const { body: training } = await api.post("v1/trainings", body);
      navigate(`/trainings/${training.id}`);
    } catch (refused) {
      setProblem(refused);
    }
  };
  const touched = JSON.stringify(draft) !== JSON.stringify(EMPTY);

  return html`<div class="train">
    <form key=${rounds} class="stack" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
      <${FormProblem} problem=${shown} shown=${SHOWN} />
      ${jointly.length > 0 &&
      html`<${Notice} kind="info" title=${`Learned together with ${jointly.join(", ")}`} action=${html`<${Button} small href=${link(`/concepts/${concept.handle}`, { tab: "train" })}>Alone<//>`}>
        They share one version, which draws them in one picture.
      <//>`}

      <fieldset class="choices choices-row">
        <legend>Recipe</legend>
        <label class="choice">
          <input type="radio" name="preset" checked=${draft.preset === "default"} onChange=${() => set({ preset: "default" })} />
          <span><b>Tuned for this model</b><span class="muted small">${capabilities ? `${count(capabilities.training_presets.default.max_train_steps)} steps, which suits ${capabilities.base_model.name} best.` : "…"}</span></span>
        </label>
        <label class="choice">
          <input type="radio" name="preset" checked=${draft.preset === "paper"} onChange=${() => set({ preset: "paper" })} />
          <span><b>As in the paper</b><span class="muted small">${capabilities ? `${count(capabilities.training_presets.paper.max_train_steps)} steps with the numbers of Custom Diffusion.` : "…"}</span></span>
        </label>
      </fieldset>

      <div class="fields">
        <${NumberField} integer label=${NUMBERS[0][1]} hint=${NUMBERS[0][2]} pointer="/recipe/max_train_steps" problem=${shown} min=${1} value=${draft.recipe.max_train_steps} placeholder=${preset.max_train_steps} onValue=${(/** @type {any} */ value, /** @type {boolean} */ fine) => setRecipe("max_train_steps", value, fine)} />
        <${NumberField} integer label="Seed" optional hint="The same seed gives the same version." pointer="/seed" problem=${shown} max=${capabilities?.sampling_ranges.seed[1]} value=${draft.seed} placeholder="by chance" onValue=${(/** @type {any} */ value, /** @type {boolean} */ fine) => (setUsable((former) => ({ ...former, seed: fine })), fine && set({ seed: value }))} />
        <${SelectField}
          label="When it is done"
          hint=${concept.current_delta ? "Look at the new version first, or use it at once." : "The first version is used at once."}
          pointer="/promote"
          problem=${shown}
          value=${draft.promote}
          onValue=${(/** @type {string} */ promote) => set({ promote })}
          options=${[
            { value: "auto", label: concept.current_delta ? "keep the one in use" : "use it" },
            { value: "always", label: "use the new one" },
            { value: "never", label: "not used yet" },
          ]}
        />
      </div>

      ${concept.modifier_token &&
      preset.initializer_candidates?.length > 0 &&
      html`<${Field} label=${html`What ${concept.modifier_token} starts from`} hint=${draft.starts.length ? "The one of these that fits the photos best." : "Chosen by the photos. Choose words yourself if you know better."} pointer="/recipe/initializer_candidates" problem=${shown}>
        ${(/** @type {any} */ a) => html`<div class="chips" role="group" ...${a}>
          ${preset.initializer_candidates.map((/** @type {string} */ word) => {
            const on = draft.starts.includes(word);
            return html`<button type="button" key=${word} class="chip" aria-pressed=${on ? "true" : "false"} onClick=${() => set({ starts: on ? draft.starts.filter((/** @type {string} */ each) => each !== word) : [...draft.starts, word] })}>${word.replace("</w>", "")}</button>`;
          })}
        </div>`}
      <//>`}

      <div class="stack-small">
        <${CheckField}
          label="Previews during the training"
          hint="The same prompts are drawn after every fifth of the steps. They do not change what is learned."
          checked=${draft.previews}
          onValue=${(/** @type {boolean} */ previews) => set({ previews })}
        />
        ${draft.previews &&
        html`<${TextField}
          label="Prompts, one a line"
          hideLabel
          multiline
          rows="3"
          hint=${html`At most four. <code>{}</code> stands for the name.`}
          pointer="/previews"
          problem=${shown}
          value=${prompts.slice(0, 4).join("\n")}
          onValue=${(/** @type {string} */ text) => (setProblem(null), setPrompts(text.split("\n")))}
        />`}
      </div>

      <${Folded} class="more-settings" title="More settings" open=${errorsAt(shown, FOLDED).length > 0}>
        <div class="stack">
          <div class="fields">
            ${NUMBERS.slice(1).map(
              ([name, label, hint, integer]) => html`<${NumberField}
                key=${name}
                integer=${integer}
                label=${label}
                hint=${hint || undefined}
                pointer=${`/recipe/${name}`}
                problem=${shown}
                min=${0}
                value=${draft.recipe[name]}
                placeholder=${preset[name] ?? "whole"}
                onValue=${(/** @type {any} */ value, /** @type {boolean} */ fine) => setRecipe(name, value, fine)}
              />`,
            )}
            <${SelectField} label="Rate over time" pointer="/recipe/lr_scheduler" problem=${shown} value=${draft.recipe.lr_scheduler ?? ""} onValue=${(/** @type {string} */ value) => setRecipe("lr_scheduler", value)} options=${[{ value: "", label: `default (${preset.lr_scheduler ?? "…"})` }, { value: "constant", label: "constant" }, { value: "cosine", label: "falling (cosine)" }]} />
            <${SelectField}
              label="Class images"
              hint="They keep other things of the kind as they are."
              pointer="/regularization"
              problem=${shown}
              value=${draft.source}
              onValue=${(/** @type {string} */ source) => set({ source })}
              options=${[
                { value: "set", label: "of the same kind" },
                { value: "retrieved", label: "similar captions" },
                { value: "generated", label: "drawn by the model" },
                { value: "none", label: "none" },
              ]}
            />
          </div>
          <${CheckField} label="Mirror every second photo" hint="Not for things with writing or a left and a right." checked=${draft.recipe.horizontal_flip ?? preset.horizontal_flip ?? true} onValue=${(/** @type {boolean} */ value) => setRecipe("horizontal_flip", value === preset.horizontal_flip ? null : value)} />
        </div>
      <//>
    </form>

    <aside class="card forecast" aria-label="Estimate" aria-live="polite">
      <h2>Estimate</h2>
      <${Forecast} forecast=${forecast} ok=${ok} needed=${capabilities?.limits.photos_per_training_min ?? 4} concept=${concept} />
      <${Button} kind="primary" icon="play" disabled=${!ok || (forecast.problem && forecast.problem.status === 422)} onClick=${start}>Start the training<//>
      <div class="row">
        <${CopyCurl} path="v1/trainings" body=${body} />
        ${touched && html`<${Button} small kind="quiet" onClick=${() => (setUsable({}), setRounds(rounds + 1), set({ ...EMPTY }))}>Start over<//>`}
      </div>
    </aside>

    <div class="train-list"><${Trainings} list=${trainings} /></div>
  </div>`;
}

/** Asks what the request would make, as it stands. @param {any} body @param {number} photos */
function useForecast(body, photos) {
  const settled = useSettled(body, 350);
  const [state, setState] = useState({ body: /** @type {any} */ (null), problem: /** @type {any} */ (null), loading: true });
  const text = JSON.stringify(settled) + photos;
  useEffect(() => {
    if (!settled) return;
    const stop = new AbortController();
    setState((/** @type {any} */ former) => ({ ...former, loading: true }));
    api.post("v1/trainings", { ...settled, dry_run: true }, { signal: stop.signal, key: null }).then(
      (answer) => setState({ body: answer.body, problem: null, loading: false }),
      (problem) => stop.signal.aborted || setState({ body: null, problem, loading: false }),
    );
    return () => stop.abort();
  }, [text]);
  return state;
}

/** @param {{forecast: any, ok: boolean, needed: number, concept: any}} props */
function Forecast({ forecast, ok, needed, concept }) {
  if (concept.image_count < needed) {
    return html`<${Notice} kind="warn" title=${`${concept.image_count} of ${needed} photos`} action=${html`<${Button} small href=${link(`/concepts/${concept.handle}`, { tab: "photos" })}>Add photos<//>`}>A training needs ${needed}.<//>`;
  }
  if (!ok || forecast.problem) return html`<p class="muted">${ok ? "The service refuses these settings. The reason stands beside the field." : "One of the fields cannot be read yet."}</p>`;
  if (!forecast.body) return html`<p class="muted">Asking the service …</p>`;
  const { estimate, dataset, warnings } = forecast.body;
  const per = dataset?.passes;
  return html`<dl class="forecast-facts">
      <div class="forecast-main"><dt>Time</dt><dd>about ${duration(estimate.run_seconds)}</dd></div>
      <div><dt>Starts</dt><dd>${estimate.queue_seconds < 1 && !estimate.jobs_ahead ? "as soon as a worker is free" : `in about ${duration(estimate.queue_seconds)}${estimate.jobs_ahead ? `, after ${plural(estimate.jobs_ahead, "other training")}` : ""}`}</dd></div>
      <div><dt>Photos</dt><dd>${(dataset?.concepts ?? []).map((/** @type {any} */ each) => `${each.image_count} of ${each.handle}`).join(", ")}${per ? `, each looked at ${count(Math.round(per))} times` : ""}</dd></div>
      ${dataset?.class_image_count > 0 && html`<div><dt>Class images</dt><dd>${count(dataset.class_image_count)}</dd></div>`}
      ${dataset?.concepts?.[0]?.captions?.length > 0 && html`<div><dt>Captions</dt><dd>${dataset.concepts[0].captions.slice(0, 3).map((/** @type {string} */ caption) => html`<span class="caption" key=${caption}>${caption}</span>`)}</dd></div>`}
    </dl>
    ${estimate.measured_jobs === 0 && html`<p class="muted small">No training has run here yet, so the time is a guess.</p>`}
    <${Warnings} warnings=${warnings} />`;
}

/** The trainings so far. @param {{list: any}} props */
function Trainings({ list }) {
  const trainings = list.body?.data ?? [];
  if (!trainings.length) return null;
  return html`<${Section} title="Trainings">
    <div class="table-box">
      <ul class="rows">
        ${trainings.map(
          (/** @type {any} */ training) => html`<li key=${training.id}>
            <a class="row-link" href=${link(`/trainings/${training.id}`)}>
              <${StatusBadge} status=${training.status} />
              <span class="row-main">
                <b>${["queued", "running", "canceling"].includes(training.status) ? phaseText(training) : `${count(training.recipe.max_train_steps)} steps`}</b>
                <span class="muted small">seed ${String(training.seed)} · ${training.concepts.map((/** @type {any} */ each) => each.handle).join(", ")} · ${shortId(training.id)}</span>
                ${training.status === "running" && html`<${Bar} value=${share(training)} label="Progress" />`}
              </span>
              <span class="muted small nowrap">${ago(training.created_at)}</span>
            </a>
          </li>`,
        )}
      </ul>
    </div>
  <//>`;
}
