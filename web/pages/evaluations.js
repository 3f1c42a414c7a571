/** Evaluations and preference studies: lists, and what starts one. */
import { html, useEffect } from "../ui/html.js";
import { link, navigate, setQuery } from "../router.js";
import { ago, percent, plural, short } from "../format.js";
import { Badge, Page, Section } from "../ui/page.js";
import { Button } from "../ui/button.js";
import { Empty, Skeleton } from "../ui/empty.js";
import { sentence } from "../ui/field.js";
import { More, usePages } from "../ui/list.js";
import { Notice, ProblemNotice } from "../ui/notice.js";
import { Bar, StatusBadge, hasEnded, phaseText, share } from "../ui/job.js";
import { every, useCapabilities } from "../ui/load.js";
import { NewEvaluation } from "./evaluations/new.js";
import { NewStudy } from "./evaluations/new-study.js";

/** @param {{query: Record<string, string>}} props `new` is the form that is open: `evaluation` or `study`. */
export default function Evaluations({ query }) {
  const can = useCapabilities();
  const list = usePages("v1/evaluations", { limit: 20 });
  const studies = usePages("v1/preference-studies", { limit: 20 });
  const isGoing = list.items.some((job) => !hasEnded(job));
  useEffect(() => (isGoing ? every(3000, list.refresh) : undefined), [isGoing, list.refresh]);
  const making = query.new ?? "";
  const setMaking = (/** @type {string} */ what) => setQuery({ new: what });
  const none = !list.first && !list.items.length && !list.problem;
  const create = html`<${Button} kind="primary" icon="plus" onClick=${() => setMaking("evaluation")}>New evaluation<//>`;
  const mayVote = list.items.some((job) => job.status === "succeeded" && job.subjects.length > 1) || list.items.filter((job) => job.status === "succeeded").length > 1;
  return html`<${Page} title="Evaluations" lead="How well the images agree with their prompts and with your photos, in numbers and by people’s votes." actions=${!none && can?.evaluator && create}>
    ${can && !can.evaluator && html`<${Notice} kind="warn" title="This server has no evaluator"><p>Start it with a CLIP model, <code>--evaluator FOLDER</code>, and evaluations can be made. Earlier ones are still shown.</p><//>`}
    <${ProblemNotice} problem=${list.items.length ? null : list.problem} retry=${list.reload} />
    ${list.first && html`<${Skeleton} rows=${3} height="5rem" />`}
    ${none &&
    html`<${Empty} icon="evaluations" title="Measure what was learned" action=${can?.evaluator && create}>
      <p>An evaluation draws the same prompts with several subjects, such as two versions of a concept and the base model, and compares the images with the prompts and with the photos.</p>
    <//>`}
    ${list.items.length > 0 && html`<ul class="evaluations">${list.items.map((job) => html`<${Row} key=${job.id} job=${job} />`)}</ul>`}
    <${More} list=${list} />
    ${(studies.items.length > 0 || mayVote) &&
    html`<${Section} title="Votes" lead="People see two images of one prompt without knowing whose they are, and choose." aside=${mayVote && html`<${Button} icon="plus" onClick=${() => setMaking("study")}>New vote<//>`}>
      ${studies.items.length > 0
        ? html`<ul class="evaluations">${studies.items.map((study) => html`<${StudyRow} key=${study.id} study=${study} />`)}</ul>`
        : html`<p class="muted">No vote yet. It takes the images of an evaluation, and a link for each person.</p>`}
      <${More} list=${studies} />
    <//>`}
    ${making === "evaluation" && html`<${NewEvaluation} onClose=${() => setMaking("")} onMade=${(/** @type {any} */ job) => navigate(`/evaluations/${job.id}`)} />`}
    ${making === "study" && html`<${NewStudy} evaluations=${list.items.filter((job) => job.status === "succeeded")} onClose=${() => setMaking("")} onMade=${(/** @type {any} */ study) => navigate(`/preference/${study.id}`)} />`}
  <//>`;
}

/** @param {{job: any}} props */
function Row({ job }) {
  const names = job.subjects.map((/** @type {any} */ subject) => subject.name).join(", ");
  const prompts = plural(job.prompts.length, "prompt");
  const best = job.report?.subjects.filter((/** @type {any} */ subject) => !subject.is_base);
  return html`<li>
    <a class="evaluation-row" href=${link(`/evaluations/${job.id}`)}>
      <span class="evaluation-name"><b>${names}</b><${StatusBadge} status=${job.status} /></span>
      <span class="muted small">${job.concepts.map((/** @type {any} */ concept) => concept.handle).join(", ") || "no concept"} · ${prompts}, ${plural(job.settings.n, "image")} each · ${ago(job.created_at)}</span>
      ${!hasEnded(job) && html`<span class="evaluation-progress"><span class="small muted">${phaseText(job)}</span><${Bar} value=${share(job)} label=${`Progress of ${names}`} /></span>`}
      ${best?.length > 0 &&
      html`<span class="evaluation-scores">
        ${best.slice(0, 3).map(
          (/** @type {any} */ subject) => html`<span key=${subject.name}>
            ${best.length > 1 && html`<span class="muted">${subject.name}: </span>`}text <b>${short(subject.text_alignment.mean)}</b>, photos <b>${short(subject.image_alignment.mean)}</b>
          </span>`,
        )}
      </span>`}
      ${job.error && html`<span class="small evaluation-error">${sentence(job.error.detail)}</span>`}
    </a>
  </li>`;
}

/** @param {{study: any}} props */
function StudyRow({ study }) {
  const votes = study.results.reduce((/** @type {number} */ sum, /** @type {any} */ one) => Math.max(sum, one.first_votes + one.second_votes), 0);
  const text = study.results.map((/** @type {any} */ one) => (one.first_share.mean === null ? null : `${one.criterion === "text" ? "fits the prompt" : "looks like the photos"}: ${percent(one.first_share.mean)}`)).filter(Boolean);
  return html`<li>
    <a class="evaluation-row" href=${link(`/preference/${study.id}`)}>
      <span class="evaluation-name"><b>${study.first.subject} or ${study.second.subject}?</b><${Badge}>${plural(votes, "vote")}<//></span>
      <span class="muted small">${plural(study.pair_count, "pair")}, ${plural(study.links.length, "link")} · ${ago(study.created_at)}</span>
      ${text.length > 0 && html`<span class="evaluation-scores"><span class="muted">For ${study.first.subject}: </span>${text.join(", ")}</span>`}
    </a>
  </li>`;
}
