/** A training: where it is, its loss, what it draws, and with which numbers it was asked for. */
import { html, useEffect, useMemo, useRef, useState } from "../ui/html.js";
import { api } from "../api.js";
import { link } from "../router.js";
import { preferences, useStored } from "../store.js";
import { count, duration, percent, short, shortId, time } from "../format.js";
import { Facts, Page, Section } from "../ui/page.js";
import { Button } from "../ui/button.js";
import { Chart, smooth } from "../ui/chart.js";
import { CheckField, sentence } from "../ui/field.js";
import { CopyButton, CopyCurl } from "../ui/copy.js";
import { Empty, Skeleton } from "../ui/empty.js";
import { JobCard, cancelJob, hasEnded, useJob } from "../ui/job.js";
import { Notice, ProblemNotice } from "../ui/notice.js";
import { confirm } from "../ui/dialog.js";
import { every } from "../ui/load.js";
import { Drawings } from "./concept/drawings.js";
import { Steps } from "./concept/steps.js";

/** @param {{params: {id: string}}} props */
export default function Training({ params }) {
  const path = `v1/trainings/${encodeURIComponent(params.id)}`;
  const { body: training, problem, lost, reload } = useJob(path);
  if (problem?.status === 404) {
    return html`<${Empty} whole icon="search" title="There is no such training" action=${html`<${Button} href=${link("/concepts")}>To the concepts<//>`}>
      <p>It may have been deleted with its concept.</p>
    <//>`;
  }
  const first = training?.concepts[0];
  const back = first ? { href: link(`/concepts/${first.handle}`, { tab: "train" }), label: first.handle } : { href: link("/concepts"), label: "Concepts" };
  if (!training) {
    return html`<${Page} title="Training" back=${back}>${problem ? html`<${ProblemNotice} problem=${problem} />` : html`<${Skeleton} rows=${3} height="7rem" />`}<//>`;
  }
  const names = training.concepts.map((/** @type {any} */ each) => each.handle).join(" and ");
  const stop = async () => {
    const sure =
      training.status === "queued" ||
      (await confirm({ title: "Stop the training?", text: html`<p>What it has learned so far is not kept.</p>`, yes: "Stop it", no: "Go on", danger: true }));
    if (sure) await cancelJob(training, reload);
  };
  return html`<${Page}
    wide
    title=${`Training ${names}`}
    back=${back}
    lead=${html`${count(training.recipe.max_train_steps)} steps on ${training.concepts.map((/** @type {any} */ each) => `${each.image_count} photos`).join(" and ")}, seed <span class="number">${String(training.seed)}</span>`}
    actions=${html`${training.delta && html`<${Button} kind="primary" href=${link(`/concepts/${first.handle}`, { tab: "versions" })}>See the version<//>`}
      ${["failed", "canceled"].includes(training.status) && first && html`<${Button} kind="primary" icon="refresh" href=${link(`/concepts/${first.handle}`, { tab: "train", with: training.concepts.slice(1).map((/** @type {any} */ each) => each.handle).join() })}>Train again<//>`}
      <${CopyCurl} small=${false} path="v1/trainings" body=${requestOf(training)} />`}
  >
    <div class="card"><${JobCard} job=${training} lost=${lost} onCancel=${stop} /><${Attempts} training=${training} /></div>
    <div class="training-parts">
      <${Loss} training=${training} />
      <${Result} training=${training} />
    </div>
    ${training.previews && html`<${Steps} training=${training} />`}
    ${!training.previews && training.status === "succeeded" && training.delta && html`<${Drawings} title="What it draws" concept=${first} columns=${[{ delta: null, name: "Before" }, { delta: training.delta, name: "After" }]} />`}
    ${!hasEnded(training) && html`<p class="muted small">You can leave this page. The training goes on, also over a restart of the server.</p>`}
    <${Recipe} training=${training} />
  <//>`;
}

/** The request that would start the same training again. @param {any} training */
function requestOf(training) {
  const { recipe, seed, preset, promote, start_from: startFrom, regularization } = training;
  return {
    concepts: training.concepts.map((/** @type {any} */ each) => each.handle),
    preset,
    recipe,
    seed,
    promote,
    ...(training.previews ? { previews: training.previews } : {}),
    ...(startFrom ? { start_from: startFrom } : {}),
    ...(regularization.source === "none" ? { regularization: { source: "none" } } : {}),
  };
}

/** @param {{training: any}} props */
function Attempts({ training }) {
  const { previous_attempts: previous, resumed_from_step: resumed, started_over: over, checkpoint_step: checkpoint } = training;
  const ended = hasEnded(training);
  // What a training failed of is said above.
  const told = previous.filter((/** @type {any} */ attempt) => !(ended && attempt.reason.detail === training.error?.detail));
  if (!told.length && !over) return null;
  return html`<${Notice} kind="info" title=${resumed ? `Went on from step ${resumed}` : over ? "Started over" : ended ? "Was interrupted" : "Was interrupted, and goes on by itself"}>
    ${over && html`<p>${sentence(over)}</p>`}
    <ul class="plain-list">
      ${told.map((/** @type {any} */ attempt) => html`<li key=${attempt.attempt}>Attempt ${attempt.attempt} ended ${time(attempt.ended_at)}${attempt.reached_step ? ` at step ${attempt.reached_step}` : ""}. ${sentence(attempt.reason.detail)}</li>`)}
    </ul>
    ${checkpoint && !ended && html`<p class="notice-small">Safe up to step ${checkpoint}.</p>`}
  <//>`;
}

const WEIGHTS = { light: 0.8, medium: 0.93, strong: 0.98 };

/** @param {{training: any}} props */
function Loss({ training }) {
  const { metrics, known } = useMetrics(training);
  const [log, setLog] = useStored("loss-log", false, preferences);
  const [raw, setRaw] = useStored("loss-raw", true, preferences);
  const [strength, setStrength] = useStored("loss-smooth", /** @type {keyof typeof WEIGHTS} */ ("medium"), preferences);
  const { x, losses } = useMemo(() => ({ x: metrics.map((metric) => metric.step), losses: metrics.map((metric) => metric.loss) }), [metrics]);
  const series = useMemo(
    () => [...(raw ? [{ label: "Loss", values: losses, color: "--chart-1", faint: true }] : []), { label: "Smoothed", values: smooth(losses, WEIGHTS[strength]), color: "--chart-1" }],
    [losses, raw, strength],
  );
  const marks = training.resumed_from_step ? [{ x: training.resumed_from_step, label: "went on here" }] : [];
  return html`<${Section}
    class="card"
    title="Loss"
    aside=${html`<div class="segments" role="group" aria-label="Smoothing">
      ${Object.keys(WEIGHTS).map((each) => html`<button type="button" key=${each} aria-pressed=${strength === each ? "true" : "false"} onClick=${() => setStrength(/** @type {any} */ (each))}>${each}</button>`)}
    </div>`}
  >
    ${metrics.length > 1
      ? html`<${Chart} label=${`The loss over ${metrics.length} steps, last ${short(losses[losses.length - 1])}`} x=${x} series=${series} log=${log} xLabel="Step" marks=${marks} height=${260} />
          <div class="row"><${CheckField} label="Single steps" checked=${raw} onValue=${setRaw} /><${CheckField} label="Logarithmic" checked=${log} onValue=${setLog} /></div>`
      : html`<p class="muted chart-empty">${!known ? "" : hasEnded(training) ? "It ended before its first step." : "The curve begins with the first step."}</p>`}
  <//>`;
}

/** The losses so far, and whether they were answered; asks for the newer ones as the training goes on. @param {any} training */
function useMetrics(training) {
  const [metrics, setMetrics] = useState(/** @type {{step: number, loss: number}[]} */ ([]));
  const [known, setKnown] = useState(false);
  const latest = useRef(metrics);
  const ended = hasEnded(training);
  useEffect(() => {
    const stop = new AbortController();
    const read = async () => {
      const found = [...latest.current];
      for (;;) {
        // A training that went on from a checkpoint reports the steps behind it again.
        const since = found.length ? found[found.length - 1].step : null;
        const { body } = await api.get(`${training.urls.self}/metrics?limit=10000${since === null ? "" : `&since_step=${since}`}`, { signal: stop.signal });
        const fresh = body.data.filter((/** @type {any} */ metric) => since === null || metric.step > since);
        found.push(...fresh);
        if (fresh.length < 9000) break;
      }
      if (found.length !== latest.current.length) setMetrics((latest.current = found));
      setKnown(true);
    };
    read().catch(() => {});
    const end = ended ? () => {} : every(1500, read);
    return () => (stop.abort(), end());
  }, [ended, training.id]);
  return { metrics, known };
}

/** @param {{training: any}} props */
function Result({ training }) {
  const { report } = training;
  const token = report?.token_change?.[0];
  const left = training.progress?.eta_seconds;
  const mean = report?.weight_change?.length ? report.weight_change.reduce((/** @type {number} */ sum, /** @type {any} */ each) => sum + each.change, 0) / report.weight_change.length : null;
  const took = training.finished_at && training.started_at ? (Date.parse(training.finished_at) - Date.parse(training.started_at)) / 1000 : null;
  return html`<${Section} class="card" title=${hasEnded(training) ? "In numbers" : "So far"}>
    <${Facts}
      rows=${[
        ["Requested", time(training.created_at)],
        ["Started", training.started_at && time(training.started_at)],
        [training.status === "succeeded" ? "Finished" : "Ended", training.finished_at && time(training.finished_at)],
        ["Took", took && duration(took)],
        ["Time left", !took && left > 0 && duration(left)],
        ["Loss", training.progress?.loss && short(training.progress.loss)],
        ["Speed", training.progress?.steps_per_second && `${short(training.progress.steps_per_second, 2)} steps/s`],
        ["Attempt", training.attempt > 0 && training.attempt],
        ["Safe up to step", !hasEnded(training) && training.checkpoint_step],
        ["Weights changed by", mean && percent(mean)],
        ["Word started from", token?.initializer_token && token.initializer_token.replace("</w>", "")],
        ["Version", training.delta && html`<${CopyButton} kind="quiet" text=${training.delta} said="Id copied">${shortId(training.delta)}<//>`],
      ]}
    />
    ${token && token.binds === false && html`<${Notice} kind="warn" title=${`The model does not read ${token.modifier_token} yet`}>Images may show any ${training.concepts[0].class_noun}. Train again with another seed, or let the word start from something else.<//>`}
    ${token && token.binds && html`<${Notice} kind="ok" title=${`The model reads ${token.modifier_token}`}>Without the word, it knows the photos ${percent(token.binding_gain)} worse.<//>`}
  <//>`;
}

/** @param {{training: any}} props */
function Recipe({ training }) {
  const text = JSON.stringify(requestOf(training), null, 2);
  return html`<details class="card recipe">
    <summary>The full recipe</summary>
    <div class="row row-between"><span class="muted small">Every number of this training, defaults included.</span><${CopyButton} text=${text}>Copy<//></div>
    <pre class="code-block" tabindex="0">${text}</pre>
  </details>`;
}
