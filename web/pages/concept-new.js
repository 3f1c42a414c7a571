/** A new concept: its photos, and what it is. */
import { html, useEffect, useMemo, useState } from "../ui/html.js";
import { api } from "../api.js";
import { link, navigate } from "../router.js";
import { drafts, useStored } from "../store.js";
import { useFiles } from "../files.js";
import { plural, size } from "../format.js";
import { Page, Section } from "../ui/page.js";
import { Button } from "../ui/button.js";
import { Field, FormProblem, TextField } from "../ui/field.js";
import { Notice } from "../ui/notice.js";
import { DropZone } from "../ui/drop-zone.js";
import { Icon } from "../ui/icon.js";
import { sendPhotos } from "../ui/uploads.js";
import { useCapabilities, useGet } from "../ui/load.js";

const USUAL = ["dog", "cat", "person", "toy", "backpack", "vase", "chair", "car", "flower", "building", "shoe", "teddy bear"];
const EMPTY = { name: "", handle: "", noun: "", token: "", known: true };

/** A handle from a name as people write it: `Rex, my dog` gives `rex-my-dog`. */
const handleOf = (/** @type {string} */ name) =>
  name.normalize("NFKD").toLowerCase().replace(/\p{M}/gu, "").replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 32).replace(/-+$/, "");

export default function ConceptNew() {
  const capabilities = useCapabilities();
  const [draft, setDraft] = useStored("concept-new", EMPTY);
  const { files, setFiles, kept, forget } = useFiles("concept-new");
  const isLosing = files.length > 0 && !kept;
  useEffect(() => {
    if (!isLosing) return;
    const ask = (/** @type {Event} */ event) => event.preventDefault();
    addEventListener("beforeunload", ask);
    return () => removeEventListener("beforeunload", ask);
  }, [isLosing]);
  const [problem, setProblem] = useState(/** @type {any} */ (null));
  const [busy, setBusy] = useState(false);
  const known = useGet("v1/concepts?limit=100");
  const set = (/** @type {Partial<typeof EMPTY>} */ change) => setDraft((/** @type {any} */ former) => ({ ...former, ...change }));

  const handle = draft.handle || handleOf(draft.name);
  const token = draft.token || (handle ? `<${handle.slice(0, 32)}>` : "");
  const noun = draft.noun.trim().toLowerCase();
  const needed = capabilities?.limits.photos_per_training_min ?? 4;
  const nouns = useMemo(() => [...new Set([...(known.body?.data ?? []).map((/** @type {any} */ concept) => concept.class_noun), ...USUAL])], [known.body]);
  const taken = (known.body?.data ?? []).find((/** @type {any} */ concept) => concept.handle === handle);
  const photos = files.filter((file) => !/\.(txt|caption|zip)$/i.test(file.name)).length;
  const archives = files.filter((file) => /\.zip$/i.test(file.name)).length;

  const create = async () => {
    if (!handle || !noun || busy) return;
    setProblem(null);
    setBusy(true);
    try {
      const { body } = await api.post("v1/concepts", { handle, class_noun: noun, ...(draft.known ? { modifier_token: token } : {}) });
      if (files.length) sendPhotos(body.id, files);
      drafts.set("concept-new", null);
      forget();
      navigate(`/concepts/${body.handle}`, { query: { tab: "photos" } });
    } catch (refused) {
      setProblem(refused);
      setBusy(false);
      setTimeout(() => /** @type {any} */ (document.querySelector("main form [aria-invalid], main form [role=alert]"))?.focus());
    }
  };

  return html`<${Page} title="New concept" back=${{ href: link("/concepts"), label: "Concepts" }} lead="One thing, a few photos of it, and a name to call it by.">
    <form
      class="concept-new"
      onSubmit=${(/** @type {Event} */ event) => (event.preventDefault(), create())}
    >
      <${FormProblem} problem=${problem} shown=${["/handle", "/class_noun", "/modifier_token"]} />

      <div class="card">
        <${Section} title="What is it?">
          <${TextField}
            label="Name"
            hint=${handle ? html`In addresses and requests: <code>${handle}</code>` : "What you call it, such as Rex."}
            pointer="/handle"
            problem=${problem}
            error=${taken && !problem ? `There is a concept “${handle}” already. Choose another name.` : null}
            value=${draft.name}
            onValue=${(/** @type {string} */ name) => set({ name, handle: "", token: "" })}
            maxlength="60"
            autofocus
          />
          <${Field} label="Kind" hint="The ordinary word for what it is. Prompts use it together with the name." pointer="/class_noun" problem=${problem}>
            ${(/** @type {any} */ a) => html`<input ...${a} class="input" list="nouns" autocomplete="off" placeholder="dog" value=${draft.noun} onInput=${(/** @type {any} */ event) => set({ noun: event.currentTarget.value })} />
              <datalist id="nouns">${nouns.map((each) => html`<option key=${each} value=${each} />`)}</datalist>
              <div class="chips" aria-label="Suggestions">
                ${nouns.slice(0, 8).map((each) => html`<button type="button" key=${each} class="chip" aria-pressed=${noun === each ? "true" : "false"} onClick=${() => set({ noun: each })}>${each}</button>`)}
              </div>`}
          <//>
          <fieldset class="choices">
            <legend>Does the model know what a ${noun || "thing of this kind"} looks like?</legend>
            <label class="choice">
              <input type="radio" name="known" checked=${draft.known} onChange=${() => set({ known: true })} />
              <span><b>Yes</b><span class="muted small">It learns what is special about yours. In prompts you write <code>${token || "<rex>"} ${noun || "dog"}</code>.</span></span>
            </label>
            <label class="choice">
              <input type="radio" name="known" checked=${!draft.known} onChange=${() => set({ known: false })} />
              <span><b>No, it is something new</b><span class="muted small">The word <code>${noun || "moongate"}</code> itself is taught.</span></span>
            </label>
          </fieldset>
          ${draft.known &&
          html`<${TextField}
            label="Word in prompts"
            hint="In angle brackets, so that it cannot be an ordinary word."
            pointer="/modifier_token"
            problem=${problem}
            class="field-short"
            placeholder="<rex>"
            value=${token}
            onValue=${(/** @type {string} */ text) => set({ token: text })}
          />`}
        <//>
      </div>

      <div class="card">
        <${Section} title="Photos" aside=${html`<span class="muted small">${photos || archives ? countText(photos, archives, needed) : `at least ${needed}`}</span>`} lead="From different sides, in different places and light, with the thing well in sight.">
          <${DropZone}
            title="Drop photos or a zip here, or choose them"
            hint="PNG, JPEG or WebP. A text file named like a photo becomes its caption."
            label="Photos"
            onFiles=${(/** @type {File[]} */ more) => setFiles((former) => [...former, ...more.filter((file) => !former.some((each) => each.name === file.name && each.size === file.size))])}
          />
          ${files.length > 0 &&
          html`<ul class="staged">
            ${files.map((file) => html`<${Staged} key=${file.name + file.size} file=${file} onRemove=${() => setFiles((former) => former.filter((each) => each !== file))} />`)}
          </ul>`}
          ${photos > 0 && photos < needed && !archives && html`<${Notice} kind="warn">A training needs ${needed} photos. You can add the rest later.<//>`}
        <//>
      </div>

      <div class="row">
        <${Button} kind="primary" type="submit" busy=${busy} disabled=${!handle || !noun}>
          ${files.length ? "Create and check the photos" : "Create"}
        <//>
        <${Button} kind="quiet" href=${link("/concepts")}>Cancel<//>
        ${(!handle || !noun) && html`<span class="muted small">Give it a name and a kind.</span>`}
      </div>
    </form>
  <//>`;
}

/** @param {number} photos @param {number} archives @param {number} needed */
const countText = (photos, archives, needed) =>
  [photos >= needed ? plural(photos, "photo") : photos ? `${photos} of ${needed} needed` : null, archives ? plural(archives, "archive") : null].filter(Boolean).join(" and ");

/** @param {{file: File, onRemove: () => void}} props */
function Staged({ file, onRemove }) {
  const [url, setUrl] = useState(/** @type {string | null} */ (null));
  useEffect(() => {
    if (!file.type.startsWith("image/")) return;
    const made = URL.createObjectURL(file);
    setUrl(made);
    return () => URL.revokeObjectURL(made);
  }, [file]);
  return html`<li>
    ${url ? html`<img src=${url} alt="" onError=${() => setUrl(null)} />` : html`<span class="staged-file"><${Icon} name="images" /></span>`}
    <span class="staged-name truncate" title=${file.name}>${file.name}</span>
    <span class="muted small">${size(file.size)}</span>
    <button type="button" class="staged-remove" aria-label=${`Remove ${file.name}`} onClick=${onRemove}><${Icon} name="close" size=${14} /></button>
  </li>`;
}
