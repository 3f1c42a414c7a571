/** A concept: its photos, its trainings, and what they have made. */
import { html, useCallback, useEffect, useRef, useState } from "../ui/html.js";
import { api } from "../api.js";
import { link, navigate } from "../router.js";
import { plural, size } from "../format.js";
import { Page, Tabs } from "../ui/page.js";
import { Button } from "../ui/button.js";
import { Empty, Skeleton } from "../ui/empty.js";
import { Dialog, confirm } from "../ui/dialog.js";
import { FormProblem, TextField, sentence } from "../ui/field.js";
import { ProblemNotice } from "../ui/notice.js";
import { toast } from "../ui/toast.js";
import { useGet } from "../ui/load.js";
import { Picture } from "../ui/picture.js";
import { ConceptState } from "./concepts.js";
import { Photos } from "./concept/photos.js";
import { Train } from "./concept/train.js";
import { Versions } from "./concept/versions.js";

/** @param {{params: {id: string}, query: Record<string, string>}} props */
export default function Concept({ params, query }) {
  const path = `v1/concepts/${encodeURIComponent(params.id)}`;
  const { body: concept, problem, reload } = useGet(path);
  const active = useGet(concept ? `v1/trainings?concept=${concept.id}&limit=20` : null, { every: 5 });
  const [renaming, setRenaming] = useState(false);
  const changed = useCallback(() => (reload(), active.reload()), [reload, active.reload]);
  const trainings = active.body?.data ?? [];
  const running = trainings.find((/** @type {any} */ training) => ["queued", "running", "canceling"].includes(training.status));
  // A training that has ended may have made a version, and put it into use.
  const ran = useRef(/** @type {string | undefined} */ (undefined));
  useEffect(() => {
    if (ran.current && ran.current !== running?.id) reload();
    ran.current = running?.id;
  }, [running?.id]);

  const back = { href: link("/concepts"), label: "Concepts" };
  if (problem?.status === 404) {
    return html`<${Empty} whole icon="search" title="There is no such concept" action=${html`<${Button} href=${link("/concepts")}>To the concepts<//>`}>
      <p>“${params.id}” may have been renamed or deleted.</p>
    <//>`;
  }
  if (!concept) {
    return html`<${Page} title=${params.id} back=${back}>
      ${problem ? html`<${ProblemNotice} problem=${problem} retry=${reload} />` : html`<${Skeleton} rows=${3} height="6rem" />`}
    <//>`;
  }

  const name = concept.modifier_token ? `${concept.modifier_token} ${concept.class_noun}` : concept.class_noun;
  const tab = ["photos", "train", "versions"].includes(query.tab) ? query.tab : concept.current_delta ? "versions" : "photos";
  const at = (/** @type {string} */ id) => link(`/concepts/${concept.handle}`, { tab: id });

  return html`<${Page}
    wide
    plainTitle=${concept.handle}
    title=${html`<span class="concept-heading"><${Cover} concept=${concept} />${concept.handle} <${ConceptState} concept=${concept} training=${running} /></span>`}
    back=${back}
    lead=${html`${concept.class_noun[0].toUpperCase() + concept.class_noun.slice(1)}, in prompts <code>${name}</code>`}
    actions=${html`${concept.current_delta && html`<${Button} kind="primary" icon="studio" href=${link("/studio", { prompt: `photo of a ${name}`, concept: concept.handle })}>Use in the studio<//>`}
      <${Button} icon="edit" label="Rename" onClick=${() => setRenaming(true)} />
      <${Button} kind="danger" icon="trash" label="Delete the concept" onClick=${() => void deleteConcept(concept)} />`}
  >
    <${Tabs}
      label="Parts of the concept"
      selected=${tab}
      tabs=${[
        { id: "photos", label: `Photos ${concept.image_count}`, href: at("photos") },
        { id: "train", label: running ? html`Training <span class="tab-dot"></span>` : "Training", href: at("train") },
        { id: "versions", label: "Versions", href: at("versions") },
      ]}
    />
    ${tab === "photos" && html`<${Photos} concept=${concept} onChange=${changed} trainAt=${at("train")} shown=${query.photo} />`}
    ${tab === "train" && html`<${Train} concept=${concept} trainings=${active} others=${query.with} />`}
    ${tab === "versions" && html`<${Versions} concept=${concept} onChange=${changed} trainAt=${at("train")} running=${running} />`}
    ${renaming && html`<${Rename} concept=${concept} onClose=${() => setRenaming(false)} />`}
  <//>`;
}

/** @param {{concept: any}} props */
function Cover({ concept }) {
  return concept.cover && html`<${Picture} src=${concept.cover} alt="" width=${64} class="concept-cover" />`;
}

/** @param {{concept: any, onClose: () => void}} props */
function Rename({ concept, onClose }) {
  const [handle, setHandle] = useState(concept.handle);
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const [busy, setBusy] = useState(false);
  const rename = async (/** @type {Event} */ event) => {
    event.preventDefault();
    setBusy(true);
    try {
      const { body } = await api.patch(`v1/concepts/${concept.id}`, { handle: handle.trim() });
      onClose();
      navigate(`/concepts/${body.handle}`, { replace: true });
      toast(`Now called ${body.handle}`);
    } catch (refused) {
      setProblem(refused);
      setBusy(false);
    }
  };
  return html`<${Dialog} title="Rename" onClose=${onClose}>
    <form class="stack" onSubmit=${rename}>
      <${FormProblem} problem=${problem} shown=${["/handle"]} />
      <${TextField} label="Handle" hint="Small letters, digits, - and _. The word in prompts stays as it is." pointer="/handle" problem=${problem} value=${handle} onValue=${setHandle} autofocus />
      <div class="row row-between"><span></span><${Button} kind="primary" type="submit" busy=${busy} disabled=${!handle.trim() || handle === concept.handle}>Rename<//></div>
    </form>
  <//>`;
}

const NOUNS = /** @type {[string, string][]} */ ([
  ["photos", "photo"],
  ["deltas", "version"],
  ["trainings", "training"],
  ["images", "drawn image"],
  ["samples", "sample"],
  ["evaluations", "evaluation"],
  ["merges", "merge"],
  ["compressions", "compression"],
  ["preference_studies", "preference study"],
]);

/** What a deletion has removed, in words. */
const removedText = (/** @type {any} */ body) =>
  NOUNS.filter(([field]) => body.removed[field]).map(([field, noun]) => plural(body.removed[field], noun, noun.endsWith("y") ? noun.slice(0, -1) + "ies" : undefined));

/**
 * Deletes a concept after asking. If something depends on it, the server refuses and says what; then asks whether all of that
 * may go too.
 *
 * @param {any} concept
 */
async function deleteConcept(concept) {
  const path = `v1/concepts/${concept.id}`;
  const counts = await Promise.all(
    ["trainings", "deltas", "samples", "evaluations"].map((kind) => api.get(`v1/${kind}?concept=${concept.id}&limit=100`).then(({ body }) => ({ kind, body }))),
  ).catch(() => []);
  const goes = [
    plural(concept.image_count, "photo"),
    ...counts.filter(({ body }) => body.data.length).map(({ kind, body }) => `${body.data.length}${body.has_more ? " or more" : ""} ${kind === "deltas" ? "versions" : kind}`.replace(/^1 (.*)s$/, "1 $1")),
  ];
  const done = (/** @type {any} */ body) => {
    const what = removedText(body);
    toast(`Deleted ${concept.handle}${what.length ? ` with ${what.join(", ")} (${size(body.size_bytes)})` : ""}`);
    navigate("/concepts");
  };
  /** @type {any} */
  let refused = null;
  const first = await confirm({
    title: `Delete ${concept.handle}?`,
    text: html`<p>This cannot be undone. With it go:</p>
      <ul class="bullets">${goes.map((each) => html`<li key=${each}>${each}</li>`)}</ul>
      <p class="muted small">Images and trainings that also involve other concepts are asked about first.</p>`,
    yes: "Delete",
    danger: true,
    action: async () => {
      try {
        return (await api.delete(path)).body;
      } catch (problem) {
        if (/** @type {any} */ (problem).status !== 409) throw problem;
        refused = problem;
        return "refused";
      }
    },
  });
  if (!first) return;
  if (!refused) return done(first);
  const second = await confirm({
    title: "Other things depend on it",
    text: html`<p>${concept.handle} is still used:</p>
      <ul class="bullets depends">${refused.errors.map((/** @type {any} */ error) => html`<li key=${error.detail}>${sentence(error.detail)}</li>`)}</ul>
      <p>Delete all of that too?</p>`,
    yes: "Delete all of it",
    danger: true,
    action: async () => (await api.delete(`${path}?cascade=true`)).body,
  });
  if (second) done(second);
}
