/** Jobs: follows one, and shows where it is. */
import { html, classes, useCallback, useEffect, useRef, useState } from "./html.js";
import { api, relative } from "../api.js";
import { canStream, stream } from "../stream.js";
import { duration, plural, short } from "../format.js";
import { every } from "./load.js";
import { Badge } from "./page.js";
import { Icon } from "./icon.js";
import { ProblemNotice, Warnings } from "./notice.js";
import { Button } from "./button.js";
import { toast, toastProblem } from "./toast.js";

/** How long a job may say nothing before it is asked, in milliseconds. */
const SILENCE_MS = 10_000;

/** Whether a job has ended, in whatever way. */
export const hasEnded = (/** @type {any} */ job) => ["succeeded", "failed", "canceled"].includes(job?.status);

/**
 * Follows a job until it has ended: by its events, or by asking every two seconds where too many streams are open.
 *
 * Goes on by itself after a lost connection and after a restart of the server.
 *
 * @param {string | null} path such as `v1/trainings/trn_…`; null follows nothing
 * @returns {{body: any, problem: any, lost: boolean, reload: () => Promise<any>}} `lost` is true while the connection is away
 */
export function useJob(path) {
  const [state, setState] = useState({ path, body: /** @type {any} */ (null), problem: /** @type {any} */ (null), lost: false });
  const take = useCallback(
    (/** @type {any} */ change) =>
      setState((/** @type {any} */ before) => {
        const former = before.path === path ? before : { path, body: null, problem: null, lost: false };
        return { ...former, ...(typeof change === "function" ? change(former) : change) };
      }),
    [path],
  );
  const reload = useCallback(async () => {
    const { body } = await api.get(/** @type {string} */ (path));
    // An event may have told of something newer meanwhile.
    take((/** @type {any} */ former) => ({ body: former.body?.revision > body.revision ? former.body : body, problem: null }));
    return body;
  }, [path]);

  useEffect(() => {
    if (!path) return;
    const stop = new AbortController();
    let heard = Date.now();
    const follow = async () => {
      let body = await reload();
      while (!hasEnded(body) && !stop.signal.aborted) {
        if (canStream()) {
          await stream(`${relative(path)}/events`, {
            signal: stop.signal,
            lastEventId: String(body.revision),
            onLost: (lost) => take({ lost }),
            onEvent: ({ data }) => {
              heard = Date.now();
              if (!data) return;
              const { status, phase, progress, error, revision } = data;
              // The event has the state; what else has changed with it is in the job.
              if ((status !== body.status || phase !== body.phase) && !hasEnded(data)) reload().catch(() => {});
              body = { ...body, status, phase, progress: progress ?? body.progress, error: error ?? body.error, revision };
              if (!hasEnded(data)) take((/** @type {any} */ former) => ({ body: { ...former.body, status, phase, progress: progress ?? former.body?.progress, revision } }));
            },
          });
        } else {
          await new Promise((done) => setTimeout(done, 2000));
        }
        if (stop.signal.aborted) return;
        body = await reload();
        heard = Date.now();
        take({ lost: false });
        if (!hasEnded(body)) await new Promise((done) => setTimeout(done, 500));
      }
    };
    follow().catch((problem) => !stop.signal.aborted && take({ problem, lost: false })).finally(() => endAsking());
    // A proxy may hold events back, so a job that says nothing is asked.
    const endAsking = every(SILENCE_MS, async () => {
      if (Date.now() - heard >= SILENCE_MS) await reload();
    });
    return () => (stop.abort(), endAsking());
  }, [path]);

  const fresh = state.path === path;
  return { body: fresh ? state.body : null, problem: fresh ? state.problem : null, lost: fresh && state.lost, reload };
}

/** @type {Record<string, [string, string]>} */
const STATES = {
  queued: ["Waiting", "neutral"],
  running: ["Running", "active"],
  canceling: ["Stopping", "warn"],
  succeeded: ["Done", "ok"],
  failed: ["Failed", "fail"],
  canceled: ["Stopped", "neutral"],
};

/** @param {{status: string}} props */
export function StatusBadge({ status }) {
  const [text, kind] = STATES[status] ?? [status, "neutral"];
  return html`<${Badge} kind=${kind}>${status === "running" && html`<span class="pulse"></span>`}${text}<//>`;
}

/** @type {Record<string, string>} */
const PHASES = {
  fetching: "Reading the files",
  regularizing: "Preparing class images",
  encoding: "Encoding the photos",
  optimizing: "Learning",
  denoising: "Drawing",
  merging: "Merging",
  compressing: "Compressing",
  scoring: "Comparing",
  storing: "Saving",
};

/** What a job is doing, in a few words. */
export function phaseText(/** @type {any} */ job) {
  if (job.status === "queued") {
    const before = job.queue?.position ?? 0;
    return before === 0 ? "Next in the queue" : `${plural(before, "job")} ahead of this one`;
  }
  if (job.status === "running" || job.status === "canceling") return PHASES[job.phase] ?? "Starting";
  return STATES[job.status]?.[0] ?? job.status;
}

/** A bar, 0 to 1; null is "not known". @param {{value: number | null, label: string, kind?: string}} props */
export function Bar({ value, label, kind }) {
  const known = value !== null && Number.isFinite(value);
  return html`<div
    class=${classes("bar", !known && "bar-unknown", kind && `bar-${kind}`)}
    role="progressbar"
    aria-label=${label}
    aria-valuemin="0"
    aria-valuemax="100"
    aria-valuenow=${known ? Math.round(/** @type {number} */ (value) * 100) : undefined}
  >
    <span style=${{ width: known ? `${Math.min(100, /** @type {number} */ (value) * 100)}%` : undefined }}></span>
  </div>`;
}

/** The share of a job that is done, or null. */
export function share(/** @type {any} */ job) {
  if (job.status === "succeeded") return 1;
  const { step, total_steps: total } = job.progress ?? {};
  return total ? step / total : job.status === "running" ? null : 0;
}

/**
 * Where a job is: state, phase, bar, time left; why it failed; its warnings.
 *
 * @param {{job: any, lost?: boolean, onCancel?: () => void, compact?: boolean, children?: any}} props
 */
export function JobCard({ job, lost, onCancel, compact, children }) {
  const running = !hasEnded(job);
  const { step, total_steps: total, eta_seconds: eta, steps_per_second: speed } = job.progress ?? {};
  const left = useCountdown(job.status === "running" ? eta : null, job.revision);
  return html`<div class=${classes("job", compact && "job-compact", `job-${job.status}`)}>
    <div class="job-top">
      <${StatusBadge} status=${job.status} />
      <span class="job-phase">${running ? phaseText(job) : endText(job)}</span>
      ${running && onCancel && html`<${Button} small icon="stop" disabled=${job.status === "canceling"} onClick=${onCancel}>Stop<//>`}
    </div>
    ${running && html`<${Bar} value=${share(job)} label="Progress" kind=${lost ? "lost" : undefined} />`}
    ${running &&
    html`<div class="job-numbers">
      ${total > 0 && html`<span>Step <b>${step}</b> of ${total}</span>`}
      ${left !== null && html`<span>${left >= 1 ? html`about <b>${duration(left)}</b> left` : "nearly done"}</span>`}
      ${speed > 0 && html`<span>${short(speed, 2)} steps/s</span>`}
      ${job.attempt > 1 && html`<span>Attempt <b>${job.attempt}</b></span>`}
    </div>`}
    ${lost && html`<p class="job-lost" role="status"><${Icon} name="refresh" size=${16} />Connection lost, trying again. The job goes on meanwhile.</p>`}
    ${job.error && html`<${ProblemNotice} problem=${job.error} />`}
    ${!compact && html`<${Warnings} warnings=${job.warnings} />`}
    ${children}
  </div>`;
}

/** @param {any} job */
function endText(job) {
  const from = job.started_at ?? job.created_at;
  if (!job.finished_at || !from) return "";
  const took = duration((Date.parse(job.finished_at) - Date.parse(from)) / 1000);
  return job.status === "succeeded" ? `Took ${took}` : `After ${took}`;
}

/** Counts the seconds down between two reports, so that the time left does not stand still. @param {number | null | undefined} seconds @param {any} revision */
function useCountdown(seconds, revision) {
  const [now, setNow] = useState(Date.now());
  const reported = useRef({ seconds, at: Date.now(), revision });
  if (reported.current.revision !== revision) reported.current = { seconds, at: Date.now(), revision };
  useEffect(() => {
    if (seconds === null || seconds === undefined) return;
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, [seconds === null || seconds === undefined]);
  if (seconds === null || seconds === undefined) return null;
  return Math.max(0, seconds - (now - reported.current.at) / 1000);
}

/** Cancels a job, and says so. @param {any} job @param {() => any} [then] */
export async function cancelJob(job, then) {
  try {
    await api.post(job.urls.cancel);
    toast(job.status === "queued" ? "Removed from the queue" : "Stopping after the current step", { kind: "info" });
    await then?.();
  } catch (problem) {
    toastProblem(problem);
  }
}
