/** What runs, what waits and why, and what has ended lately. */
import { html, useEffect, useRef } from "../ui/html.js";
import { link } from "../router.js";
import { ago, duration, percent, plural, shortId } from "../format.js";
import { Badge, Page, Section } from "../ui/page.js";
import { Button } from "../ui/button.js";
import { Icon } from "../ui/icon.js";
import { Empty, Skeleton } from "../ui/empty.js";
import { sentence } from "../ui/field.js";
import { ProblemNotice } from "../ui/notice.js";
import { Bar, StatusBadge, cancelJob, phaseText, share } from "../ui/job.js";
import { useGet } from "../ui/load.js";
import { useConcepts } from "../ui/names.js";

/** Kinds of jobs: their lists, what one is called, and the page that shows it. */
const KINDS = [
  { path: "trainings", noun: "Training", many: "Trainings", page: (/** @type {any} */ job) => link(`/trainings/${job.id}`) },
  { path: "samples", noun: "Images", many: "Images", page: (/** @type {any} */ job) => link("/studio", { sample: job.id }) },
  { path: "merges", noun: "Merge", many: "Merges", page: (/** @type {any} */ job) => link(`/merges/${job.id}`) },
  { path: "evaluations", noun: "Evaluation", many: "Evaluations", page: (/** @type {any} */ job) => link(`/evaluations/${job.id}`) },
  { path: "compressions", noun: "Compression", many: "Compressions", page: () => null },
];

/** Waiting jobs of one kind that are listed; how many more there are is said. */
const SHOWN = 20;

export default function Queue() {
  // One small request says whether there is anything to list.
  const usage = useGet("v1/usage", { every: 2 });
  const { queued_jobs: waiting = 0, running_jobs: active = 0 } = usage.body ?? {};
  const every = waiting + active > 0 ? 3 : undefined;
  const running = useLists("&status=running&order=asc", 20, every);
  const queued = useLists("&status=queued&order=asc", 100, every);
  const newest = useLists("", 20, every);
  // Those of whom a job says no more than the id.
  const concepts = useConcepts([...running.jobs, ...queued.jobs, ...newest.jobs].filter(({ kind }) => kind.path === "merges").flatMap((job) => job.concepts));
  const reload = () => Promise.all([running.reload(), queued.reload(), newest.reload(), usage.reload()]);
  const known = useRef(/** @type {string | null} */ (null));
  useEffect(() => {
    const now = usage.body && `${waiting} ${active}`;
    if (known.current && now !== known.current) for (const lists of [running, queued, newest]) lists.reload();
    known.current = now;
  }, [usage.body, waiting, active]);
  const canceling = newest.jobs.filter((job) => job.status === "canceling" && !running.jobs.some(({ id }) => id === job.id));
  // Images of evaluations are of low priority, and belong to those.
  const ended = newest.jobs
    .filter((job) => job.finished_at && !(job.kind.path === "samples" && job.priority === "low"))
    .sort((a, b) => b.finished_at.localeCompare(a.finished_at))
    .slice(0, 12);

  const now = [...running.jobs, ...canceling];
  const waits = queued.kinds.filter((kind) => kind.jobs.length > 0);
  const limit = usage.body?.quotas?.max_active_jobs;
  const first = running.first || queued.first;
  return html`<${Page}
    title="Queue"
    lead="Jobs of one kind run in the order below; jobs of different kinds take turns. All of them survive a restart of the server."
    actions=${limit ? html`<${Badge} kind=${now.length + queued.jobs.length >= limit ? "warn" : "neutral"}>${now.length + queued.jobs.length} of ${limit} jobs<//>` : null}
  >
    <${ProblemNotice} problem=${running.problem ?? queued.problem} retry=${reload} />
    ${first && html`<${Skeleton} rows=${3} height="4rem" />`}
    ${!first &&
    now.length === 0 &&
    queued.jobs.length === 0 &&
    html`<${Empty} icon="queue" title="Nothing is running or waiting" action=${html`<div class="row"><${Button} href=${link("/studio")} icon="studio">Draw something<//><${Button} href=${link("/concepts")} icon="concepts">Train a concept<//></div>`}>
      <p>A training, an image or an evaluation appears here as soon as it is requested.</p>
    <//>`}
    ${now.length > 0 &&
    html`<${Section} title="Running" aside=${html`<${Badge} kind="active"><span class="pulse"></span>${plural(now.length, "job")}<//>`}>
      <ul class="queue-list">
        ${now.map((/** @type {any} */ job) => html`<${RunningJob} key=${job.id} job=${job} concepts=${concepts} reload=${reload} />`)}
      </ul>
    <//>`}
    ${waits.map(
      ({ kind, jobs, more }) => html`<${Section} key=${kind.path} title=${`Waiting: ${kind.many.toLowerCase()}`} aside=${html`<${Badge}>${jobs.length}${more ? " and more" : ""}<//>`}>
        <ol class="queue-list">
          ${jobs.slice(0, SHOWN).map((/** @type {any} */ job) => html`<${WaitingJob} key=${job.id} job=${job} concepts=${concepts} reload=${reload} />`)}
        </ol>
        ${jobs.length > SHOWN && html`<p class="muted small">${plural(jobs.length - SHOWN, "further one")}${more ? " and more" : ""} behind these.</p>`}
      <//>`,
    )}
    ${ended.length > 0 &&
    html`<${Section} title="Recently finished">
      <ul class="queue-list">
        ${ended.map((job) => html`<${EndedJob} key=${job.id} job=${job} concepts=${concepts} />`)}
      </ul>
    <//>`}
  <//>`;
}

/**
 * The jobs of every kind, the next to run first.
 *
 * @param {string} filter @param {number} limit @param {number | undefined} every Seconds between two readings.
 */
function useLists(filter, limit, every) {
  // The number of kinds never changes, so the hooks stand in a loop.
  const lists = KINDS.map((kind) => ({ kind, list: useGet(`v1/${kind.path}?limit=${limit}${filter}`, { every }) }));
  const kinds = lists.map(({ kind, list }) => ({
    kind,
    more: Boolean(list.body?.has_more),
    jobs: (list.body?.data ?? [])
      .map((/** @type {any} */ job) => ({ ...job, kind }))
      .sort((/** @type {any} */ a, /** @type {any} */ b) => (a.queue?.position ?? 0) - (b.queue?.position ?? 0)),
  }));
  return {
    kinds,
    jobs: /** @type {any[]} */ (kinds.flatMap(({ jobs }) => jobs)),
    first: lists.some(({ list }) => !list.body && !list.problem),
    problem: lists.find(({ list }) => list.problem)?.list.problem ?? null,
    reload: () => Promise.all(lists.map(({ list }) => list.reload())),
  };
}

/** What a job is about, in one line. @param {any} job @param {Map<string, any>} concepts By id. */
function about(job, concepts) {
  switch (job.kind.path) {
    case "trainings":
      return job.concepts.map((/** @type {any} */ concept) => concept.handle).join(" and ");
    case "samples":
      return job.prompt || "(empty prompt)";
    case "merges":
      return job.concepts.map((/** @type {string} */ id) => concepts.get(id)?.handle ?? shortId(id)).join(" with ");
    case "evaluations":
      return job.subjects.map((/** @type {any} */ subject) => subject.name).join(", ");
    default:
      return shortId(job.delta ?? job.id);
  }
}

/** @param {{job: any, concepts: Map<string, any>}} props */
function Name({ job, concepts }) {
  const address = job.kind.page(job);
  const text = html`<span class="queue-kind">${job.kind.noun}</span><span class="queue-about truncate">${about(job, concepts)}</span>`;
  return address ? html`<a class="queue-name" href=${address}>${text}</a>` : html`<span class="queue-name">${text}</span>`;
}

/** @param {{job: any, concepts: Map<string, any>, reload: () => any}} props */
function RunningJob({ job, concepts, reload }) {
  const done = share(job);
  const { eta_seconds: left } = job.progress ?? {};
  return html`<li class="queue-job queue-running">
    <${Name} job=${job} concepts=${concepts} />
    <span class="queue-state">
      ${phaseText(job)}${done !== null && done > 0 ? ` · ${percent(done)}` : ""}${left > 0 ? ` · about ${duration(left)} left` : ""}${job.attempt > 1 ? ` · attempt ${job.attempt}` : ""}
    </span>
    <${Cancel} job=${job} about=${about(job, concepts)} reload=${reload} />
    <${Bar} value=${done} label=${`Progress of ${about(job, concepts)}`} />
  </li>`;
}

/** @param {{job: any, concepts: Map<string, any>, reload: () => any}} props */
function WaitingJob({ job, concepts, reload }) {
  const place = job.queue?.position ?? 0;
  return html`<li class="queue-job">
    <${Name} job=${job} concepts=${concepts} />
    <span class="queue-state">
      ${place === 0 ? "Next" : `${plural(place, "job")} ahead`}${job.priority === "normal" ? "" : ` · ${job.priority} priority`} · requested ${ago(job.created_at)}
    </span>
    <${Cancel} job=${job} about=${about(job, concepts)} reload=${reload} />
  </li>`;
}

/** @param {{job: any, about: string, reload: () => any}} props */
function Cancel({ job, about: what, reload }) {
  const waits = job.status === "queued";
  return html`<span class="queue-cancel">
    <${Button}
      kind="quiet"
      small
      icon=${waits ? "close" : "stop"}
      label=${`${waits ? "Remove" : "Stop"}: ${job.kind.noun.toLowerCase()} ${what}`}
      disabled=${job.status === "canceling"}
      onClick=${() => cancelJob(job, reload)}
    />
  </span>`;
}

/** @param {{job: any, concepts: Map<string, any>}} props */
function EndedJob({ job, concepts }) {
  return html`<li class="queue-job">
    <${Name} job=${job} concepts=${concepts} />
    <span class="queue-state">${job.error ? html`<span class="queue-error"><${Icon} name="fail" size=${16} /><span>${sentence(job.error.detail)}</span></span>` : ago(job.finished_at)}</span>
    <span class="queue-cancel"><${StatusBadge} status=${job.status} /></span>
  </li>`;
}
