/** The gallery of concepts. */
import { html, classes, useEffect, useMemo, useRef, useState } from "../ui/html.js";
import { api } from "../api.js";
import { link, setQuery } from "../router.js";
import { plural } from "../format.js";
import { Badge, Page } from "../ui/page.js";
import { Button } from "../ui/button.js";
import { Icon } from "../ui/icon.js";
import { Empty, Skeleton } from "../ui/empty.js";
import { Picture } from "../ui/picture.js";
import { ProblemNotice } from "../ui/notice.js";
import { VirtualGrid, usePages } from "../ui/list.js";
import { useGet, useSettled } from "../ui/load.js";
import { share } from "../ui/job.js";

/** @typedef {import("../api-types").components["schemas"]["ConceptBody"]} Concept */

const STATES = [
  { id: "", name: "All" },
  { id: "ready", name: "Ready" },
  { id: "training", name: "Training" },
  { id: "untrained", name: "Not trained" },
  { id: "photos", name: "Needs photos" },
];

/** @param {{query: Record<string, string>}} props */
export default function Concepts({ query }) {
  const [text, setText] = useState(query.q ?? "");
  const wanted = useSettled(text.trim(), 200);
  const list = usePages(`v1/concepts${wanted ? `?q=${encodeURIComponent(wanted)}` : ""}`, { limit: 100 });
  const trainings = useActiveTrainings();
  useUpdated(list, trainings);
  const state = query.state ?? "";

  // The state is found out here, of all concepts, so all have to be there.
  useEffect(() => {
    if (state && list.hasMore && !list.loading && !list.problem) list.more();
  }, [state, list.items.length, list.loading]);

  const shown = useMemo(
    () => list.items.filter((/** @type {Concept} */ concept) => !state || stateOf(concept, trainings) === state),
    [list.items, state, trainings],
  );

  const narrow = matchMedia("(max-width: 600px)").matches;
  const none = !list.first && list.items.length === 0 && !list.problem && !wanted && !text.trim();
  const create = html`<${Button} kind="primary" icon="plus" href=${link("/concepts/new")}>New concept<//>`;
  if (none) return html`<${Welcome} />`;
  return html`<${Page} title="Concepts" lead="Things that the model has learned from your photos, or is about to." actions=${create} wide>
    <div class="concepts-tools" role="search">
      <div class="search">
        <${Icon} name="search" size=${18} />
        <input
          class="input"
          type="search"
          aria-label="Search concepts"
          placeholder="Search by name or kind"
          maxlength="200"
          value=${text}
          onInput=${(/** @type {any} */ event) => {
            setText(event.currentTarget.value);
            setQuery({ q: event.currentTarget.value });
          }}
        />
      </div>
      <div class="segments" role="group" aria-label="State">
        ${STATES.map((each) => html`<button type="button" key=${each.id} aria-pressed=${state === each.id ? "true" : "false"} onClick=${() => setQuery({ state: each.id })}>${each.name}</button>`)}
      </div>
    </div>
    <${ProblemNotice} problem=${list.problem} retry=${list.retry} />
    ${list.first && html`<${Skeleton} rows=${3} height="9rem" />`}
    ${!list.first &&
    shown.length === 0 &&
    !list.loading &&
    html`<${Empty} icon="search" title="No concept matches" action=${html`<${Button} onClick=${() => (setText(""), setQuery({ q: "", state: "" }))}>Show all<//>`} />`}
    ${shown.length > 0 &&
    html`<${VirtualGrid}
      items=${shown}
      label="Concepts"
      minWidth=${narrow ? 140 : 210}
      gap=${narrow ? 16 : 20}
      rowHeight=${(/** @type {number} */ width) => width * 0.8 + 60}
      onEnd=${list.more}
      render=${(/** @type {Concept} */ concept) => html`<${ConceptCard} concept=${concept} training=${trainings.get(concept.id)} />`}
    />`}
  <//>`;
}

/** Trainings that wait or run, by the id of their concept. */
function useActiveTrainings() {
  const running = useGet("v1/trainings?status=running&limit=100", { every: 4 });
  const queued = useGet("v1/trainings?status=queued&limit=100", { every: 8 });
  return useMemo(() => {
    const found = new Map();
    for (const training of [...(queued.body?.data ?? []), ...(running.body?.data ?? [])]) {
      for (const concept of training.concepts) found.set(concept.id, training);
    }
    return found;
  }, [running.body, queued.body]);
}

/** Reads the concepts again whose training has ended: they may be ready now. @param {any} list @param {Map<string, any>} trainings */
function useUpdated(list, trainings) {
  const former = useRef(/** @type {string[]} */ ([]));
  useEffect(() => {
    const ended = former.current.filter((id) => !trainings.has(id));
    former.current = [...trainings.keys()];
    for (const id of ended) {
      api.get(`v1/concepts/${id}`).then(({ body }) => list.change((/** @type {Concept[]} */ items) => items.map((item) => (item.id === id ? body : item))), () => {});
    }
  }, [trainings]);
}

/** @param {Concept} concept @param {Map<string, any>} trainings */
function stateOf(concept, trainings) {
  if (trainings.has(concept.id)) return "training";
  if (concept.current_delta) return "ready";
  return concept.image_count < 4 ? "photos" : "untrained";
}

/** @param {{concept: Concept, training?: any}} props */
function ConceptCard({ concept, training }) {
  const done = training && share(training);
  return html`<a class="concept-card" href=${link(`/concepts/${concept.handle}`)}>
    <${Picture} src=${concept.cover} alt="" width=${256} ratio="5 / 4">
      ${!concept.image_count && html`<span class="concept-blank"><${Icon} name="images" size=${28} /></span>`}
      ${training && html`<span class="concept-training"><span class=${classes("bar", done === null && "bar-unknown")}><span style=${{ width: done === null ? undefined : `${done * 100}%` }}></span></span></span>`}
    <//>
    <span class="concept-name"><b class="truncate">${concept.handle}</b><${ConceptState} concept=${concept} training=${training} /></span>
    <span class="concept-kind truncate">${concept.class_noun} · ${plural(concept.image_count, "photo")}</span>
  </a>`;
}

/** @param {{concept: Concept, training?: any}} props */
export function ConceptState({ concept, training }) {
  if (training) return training.status === "queued" ? html`<${Badge}>Waiting<//>` : html`<${Badge} kind="active"><span class="pulse"></span>Training<//>`;
  if (concept.current_delta) return html`<${Badge} kind="ok">Ready<//>`;
  if (concept.image_count < 4) return html`<${Badge} kind="warn">Needs photos<//>`;
  return html`<${Badge}>Not trained<//>`;
}

/** What somebody sees who has no concept yet. */
function Welcome() {
  const steps = [
    { picture: PhotosPicture, title: "Give it photos", text: "Four to ten of one thing, from different sides. Each is looked at, and you hear at once if one will not do." },
    { picture: LearningPicture, title: "Let it learn", text: "A training takes a few minutes. You see how it goes, and can leave the page meanwhile." },
    { picture: PromptPicture, title: "Use it in prompts", text: "Write its name, such as “<rex> dog on the beach”, and it is in the picture. Alone, or with others." },
  ];
  return html`<${Page} title="Teach it something of your own" plainTitle="Concepts" lead="A concept is a dog, a vase, a chair: one thing that the model does not know and you have photos of.">
    <ol class="welcome">
      ${steps.map(
        (step, index) => html`<li key=${step.title} class="card">
          <${step.picture} />
          <h2><span class="welcome-number">${index + 1}</span>${step.title}</h2>
          <p class="muted">${step.text}</p>
        </li>`,
      )}
    </ol>
    <div><${Button} kind="primary" icon="plus" href=${link("/concepts/new")}>Make the first concept<//></div>
  <//>`;
}

/** Three photos of one thing; one of them has been looked at. */
function PhotosPicture() {
  const photo = (/** @type {string} */ place) => html`<g transform=${place}>
    <rect class="w-paper" x="-34" y="-28" width="68" height="56" rx="7" />
    <rect class="w-sky" x="-28" y="-22" width="56" height="44" rx="3" />
    <path class="w-thing" d="M0-14c10 0 15 8 15 15 0 9-7 14-15 14s-15-5-15-14c0-7 5-15 15-15z" />
    <path class="w-line" d="M-5-1h.01M5-1h.01M-4 6c2.500 2.500 5.500 2.500 8 0" />
  </g>`;
  return html`<svg class="welcome-picture" viewBox="0 0 240 120" aria-hidden="true">
    ${photo("translate(72 64) rotate(-9)")}${photo("translate(166 62) rotate(8)")}${photo("translate(120 58)")}
    <circle class="w-accent" cx="151" cy="33" r="11" />
    <path class="w-tick" d="M146 33l4 4 7-8" />
  </svg>`;
}

/** A loss that falls, and a picture that becomes clear. */
function LearningPicture() {
  return html`<svg class="welcome-picture" viewBox="0 0 240 120" aria-hidden="true">
    <path class="w-grid" d="M30 96h180M30 70h180M30 44h180" />
    <path class="w-noise" d="M30 30l8 22 7-26 8 34 9-20 8 30 8-24 9 28 8-12 9 20 8-22 9 24 8-12 9 16 8-14 9 18 8-10 9 12 8-8 9 8 9-4" />
    <path class="w-curve" d="M30 32c40 6 50 42 96 50 32 5 58 7 84 8" />
    <circle class="w-accent" cx="210" cy="90" r="6" />
  </svg>`;
}

/** A prompt with the concept's name, and what it draws. */
function PromptPicture() {
  return html`<svg class="welcome-picture" viewBox="0 0 240 120" aria-hidden="true">
    <rect class="w-paper" x="24" y="22" width="112" height="32" rx="8" />
    <rect class="w-chip" x="32" y="30" width="38" height="16" rx="8" />
    <path class="w-text" d="M78 38h18M102 38h24" />
    <path class="w-text" d="M80 66v14c0 6 4 10 10 10h34M117 83l8 7-8 7" />
    <rect class="w-paper" x="140" y="48" width="76" height="62" rx="8" />
    <path class="w-sky" d="M146 57a3 3 0 0 1 3-3h58a3 3 0 0 1 3 3v26h-64z" />
    <path class="w-sand" d="M146 83h64v18a3 3 0 0 1-3 3h-58a3 3 0 0 1-3-3z" />
    <path class="w-thing" d="M178 66c10 0 15 8 15 15 0 9-7 14-15 14s-15-5-15-14c0-7 5-15 15-15z" />
    <path class="w-line" d="M173 79h.01M183 79h.01M174 86c2.500 2.500 5.500 2.500 8 0" />
  </svg>`;
}
