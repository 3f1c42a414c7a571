/** Compose: how well concepts go together, and what each way of bringing them into one picture gives. */
import { api } from "../api.js";
import { duration } from "../format.js";
import { navigate, setQuery } from "../router.js";
import { drafts, useStored } from "../store.js";
import { Button } from "../ui/button.js";
import { confirm } from "../ui/dialog.js";
import { Empty } from "../ui/empty.js";
import { FormProblem } from "../ui/field.js";
import { html, useEffect, useState } from "../ui/html.js";
import { Notice, Warnings } from "../ui/notice.js";
import { Badge, Page, Section } from "../ui/page.js";
import { toast } from "../ui/toast.js";
import { Chooser } from "./compose/chooser.js";
import { Grid } from "./compose/grid.js";
import { DEFAULT_COLUMNS, defaultPrompts, named, promptsOf } from "./compose/plan.js";
import { Verdict, mergeBody, useCheck } from "./studio/check.js";
import { Composing, KINDS, SHORT } from "./studio/composing.js";
import { useService } from "./studio/concepts.js";
import { useDryRun } from "./studio/foretell.js";
import { EMPTY as NOTHING, UNDECIDED } from "./studio/settings.js";
import { Uses } from "./studio/uses.js";

/** @typedef {import("./studio/concepts.js").Concept} Concept */

/** The most concepts that are composed on this page. */
const MOST = 4;

const EMPTY = {
  handles: /** @type {string[]} */ ([]),
  uses: /** @type {Record<string, import("./studio/settings.js").Use>} */ ({}),
  composing: UNDECIDED,
  columns: DEFAULT_COLUMNS,
  prompts: "",
  seed: "1",
  cells: /** @type {Record<string, string>} */ ({}),
};

/** @param {{ query: Record<string, string> }} props `concepts` names those to begin with: `rex,delft`. */
export default function Compose({ query }) {
  const [isLooking, setLooking] = useState(false);
  const [state, setState] = useStored("compose", EMPTY);
  const change = (/** @type {Partial<typeof EMPTY>} */ changes) => setState((before) => ({ ...before, ...changes }));
  useEffect(() => {
    if (!query.concepts) return;
    setState({ ...EMPTY, handles: query.concepts.split(",").slice(0, MOST) });
    setQuery({ concepts: null });
  }, [query.concepts]);

  const { concepts, capabilities, loaded, isAll, problem } = useService(isLooking || state.handles.length > 0);
  const trained = concepts.filter(({ current_delta }) => current_delta);
  const part = /** @type {Concept[]} */ (state.handles.map((handle) => trained.find((one) => one.handle === handle)).filter(Boolean));
  // Among the newest there may be none that is trained.
  useEffect(() => {
    if (loaded && !isAll && trained.length < 2) setLooking(true);
  }, [loaded, isAll, trained.length]);
  const check = useCheck(part, state.uses, state.composing);
  const sameDelta = part.length > 1 && new Set(part.map(({ current_delta }) => current_delta)).size === 1;

  const choose = (/** @type {string} */ handle) => {
    const isIn = state.handles.includes(handle);
    const handles = isIn ? state.handles.filter((one) => one !== handle) : [...part.map((one) => one.handle), handle].slice(-MOST);
    change({ handles, cells: {}, composing: { ...state.composing, boxes: {} }, prompts: "" });
  };

  /** Takes the concepts, their strengths and the way along as a new picture's settings. */
  const toStudio = () => {
    const [template] = promptsOf(state.prompts || defaultPrompts(part.length));
    const uses = Object.fromEntries(
      part.map(({ handle, modifier_token }) => [handle, { ...(state.uses[handle] ?? { strength: "" }), ...(!modifier_token && { added: true }) }]),
    );
    drafts.set("studio", { ...NOTHING, prompt: named(template, part), uses, composing: state.composing });
    navigate("/studio");
  };

  return html`<${Page} title="Compose" wide class="compose" lead="Two to four concepts in one picture: see what to expect before anything is drawn, then compare the ways.">
    ${problem && html`<${Notice} kind="fail"><p>${problem.detail}</p><//>`}
    ${isAll && trained.length < 2
      ? html`<${Empty} icon="compose" title="Two trained concepts are needed" action=${html`<${Button} kind="primary" href="#/concepts/new">Teach a concept<//>`}>
          ${trained.length ? `Only ${trained[0].handle} has been trained so far.` : "None has been trained so far."}
        <//>`
      : html`<${Chooser} isAll=${isAll} onLook=${() => setLooking(true)} concepts=${trained} chosen=${state.handles} onChoose=${choose} />`}
    ${part.length > 1 &&
    html`<div class="compose-columns">
        <${Section}
          title="What to expect"
          class="compose-verdict"
          aside=${check.answer && html`<${Badge} kind=${KINDS[check.answer.verdict]}>${SHORT[check.answer.verdict]}<//>`}
        >
          <div aria-live="polite" aria-busy=${check.asking ? "true" : "false"}>
            ${sameDelta && html`<${Notice} kind="ok"><p>These concepts were trained jointly. They share a delta, so nothing has to be merged.</p><//>`}
            ${check.problem && html`<${FormProblem} problem=${check.problem} />`}
            ${check.answer && html`<${Verdict} check=${check.answer} part=${part} />`}
            ${!check.answer && check.asking && html`<p class="muted">Looking at what each has learned …</p>`}
          </div>
          ${!sameDelta && html`<${Joint} part=${part} verdict=${check.answer?.verdict} />`}
        <//>
        <${Section} title="How they come together">
          <${Uses} part=${part} uses=${state.uses} onChange=${(/** @type {any} */ uses) => change({ uses })} order=${part.map(({ handle }) => handle)} problem=${check.problem} warnings=${[]} />
          <${Composing}
            composing=${state.composing}
            onChange=${(/** @type {any} */ composing) => change({ composing })}
            part=${part}
            uses=${state.uses}
            aspect=${1}
            problem=${check.problem}
            warnings=${[]}
            bare
          />
          <${Button} kind="quiet" icon="studio" onClick=${toStudio}>Go on in the studio<//>
          ${!sameDelta && html`<${Keep} part=${part} state=${state} />`}
        <//>
      </div>
      <${Grid} part=${part} state=${state} change=${change} capabilities=${capabilities} />`}
    ${part.length === 1 && html`<p class="muted compose-one">Choose at least one more.</p>`}
  <//>`;
}

/**
 * Offers a joint training, loudly where the check finds a conflict.
 *
 * @param {{ part: Concept[], verdict: string | undefined }} props
 */
function Joint({ part, verdict }) {
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const body = { concepts: part.map(({ handle }) => handle) };
  const train = async () => {
    const { body: tried } = await api.post("v1/trainings", { ...body, dry_run: true }, { key: null });
    const started = await confirm({
      title: "Train them jointly?",
      text: html`<p>
          One training teaches ${part.map(({ handle }) => handle).join(" and ")} together, so that each learns what the others are not. It takes about
          ${" "}${duration(tried.estimate.run_seconds)}${tried.estimate.queue_seconds >= 1 ? `, after ${duration(tried.estimate.queue_seconds)} in the queue` : ""}.
        </p>
        <${Warnings} warnings=${tried.warnings} />`,
      yes: "Start the training",
      action: () => api.post("v1/trainings", body),
    });
    if (started) navigate(`/trainings/${started.body.id}`);
  };
  if (!verdict || verdict === "ok") return null;
  return html`<div class="compose-joint">
    <${Button} kind=${verdict === "conflict" ? "primary" : "plain"} icon="concepts" onClick=${() => train().catch(setProblem)}>Train them jointly<//>
    <p class="field-hint">A joint training learns them together, in one delta. It takes as many times the steps as there are concepts.</p>
    <${FormProblem} problem=${problem} />
  </div>`;
}

/**
 * Keeps the merge as a delta.
 *
 * @param {{ part: Concept[], state: typeof EMPTY }} props
 */
function Keep({ part, state }) {
  const body = mergeBody(part, state.uses, state.composing);
  const tried = useDryRun("v1/merges", body);
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const keep = async () => {
    try {
      const { body: merge } = await api.post("v1/merges", body);
      toast("The merge is under way");
      navigate(`/merges/${merge.id}`);
    } catch (cause) {
      setProblem(cause);
    }
  };
  return html`<div class="compose-keep">
    <${Button} icon="compose" onClick=${keep} disabled=${Boolean(tried.problem)}>Keep the ${body.method} merge<//>
    <p class="field-hint">
      Merged, they become one delta with both names, to be used, promoted and downloaded like any
      other.${tried.answer ? ` It takes about ${duration(tried.answer.estimate.run_seconds)}.` : ""}
    </p>
    <${FormProblem} problem=${problem ?? tried.problem} />
  </div>`;
}
