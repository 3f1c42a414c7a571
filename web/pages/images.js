/** Images: all that was drawn, to be found again, compared, downloaded and deleted. */
import { api } from "../api.js";
import { plural } from "../format.js";
import { link, navigate, setQuery } from "../router.js";
import { readSeed } from "../seed.js";
import { useStored } from "../store.js";
import { Button } from "../ui/button.js";
import { CompareDialog } from "../ui/compare.js";
import { confirm } from "../ui/dialog.js";
import { Empty, Skeleton } from "../ui/empty.js";
import { classes, html, useEffect, useMemo, useState } from "../ui/html.js";
import { VirtualGrid, usePages } from "../ui/list.js";
import { useSettled } from "../ui/load.js";
import { ProblemNotice } from "../ui/notice.js";
import { Page } from "../ui/page.js";
import { Picture } from "../ui/picture.js";
import { toast, toastProblem } from "../ui/toast.js";
import { Filters } from "./images/filters.js";
import { ImageDialog } from "./images/one.js";
import { OriginDialog } from "./images/origin.js";
import { save } from "./studio/actions.js";
import { useService } from "./studio/concepts.js";
import { useDroppedFile } from "./studio/taking.js";

/** @typedef {{ image: any, sample: any }} Drawn */

/** Samples that are read at first, so that they are there soon, and then at once. */
const FIRST = 20;
const MOST = 100;

/**
 * @param {{ params?: Record<string, string>, query: Record<string, string> }} props `concept`, `prompt` and `seed` filter; the
 *   parameter `id` is the image that is shown large.
 */
export default function Images({ params, query }) {
  const [isChoosing, setChoosing] = useState(false);
  const { concepts, capabilities, isAll } = useService(isChoosing);
  const { concept = "", prompt = "", seed = "" } = query;
  const wanted = useSettled({ concept, prompt: prompt.trim(), seed: seed.trim() }, 250);
  const filters = Boolean(wanted.concept || wanted.prompt || wanted.seed);
  const address = addressOf(wanted);
  const list = usePages(address, { limit: MOST, first: FIRST });
  const drawn = useMemo(() => imagesOf(list.items), [list.items]);
  const [marked, setMarked] = useStored("marked", /** @type {string[]} */ ([]));
  const [comparing, setComparing] = useState(false);
  const [outside, setOutside] = useState(/** @type {File | null} */ (null));
  const { over, input } = useDroppedFile(setOutside);
  const isSmall = (capabilities?.base_model.native_size ?? 512) <= 128;

  // Samples whose images were deleted show nothing. It goes on reading until a screen is full.
  useEffect(() => {
    if (drawn.length < 40 && list.hasMore && !list.loading && !list.problem) list.more();
  }, [drawn.length, list.items.length, list.hasMore, list.loading, list.problem]);

  const of = (/** @type {string} */ id) => drawn.find(({ image }) => image.id === id);
  const chosen = /** @type {Drawn[]} */ (marked.map(of).filter(Boolean));
  const mark = (/** @type {string} */ id) => setMarked((before) => (before.includes(id) ? before.filter((one) => one !== id) : [...before, id]));
  const forget = (/** @type {string[]} */ ids) => {
    setMarked((before) => before.filter((id) => !ids.includes(id)));
    list.change((samples) => samples.map((sample) => ({ ...sample, images: sample.images.filter((/** @type {any} */ image) => !ids.includes(image.id)) })));
  };
  // What was opened is closed without another step to go back.
  const close = () => navigate("/images", { query, replace: true });
  const removeMarked = async () => {
    const ids = chosen.map(({ image }) => image.id);
    /** @type {string[]} */
    const gone = [];
    const done = await confirm({
      title: `Delete ${plural(ids.length, "picture")}?`,
      text: html`<p>They will be gone. With their settings they can be drawn again.</p>`,
      yes: "Delete",
      danger: true,
      action: async () => {
        for (const id of ids.filter((one) => !gone.includes(one))) {
          await api.delete(`v1/images/${id}`);
          gone.push(id);
        }
        return true;
      },
    });
    forget(gone);
    if (done) toast(`${plural(gone.length, "picture")} deleted`);
  };
  const downloadMarked = async () => {
    for (const { image } of chosen) await api.blob(image.url).then((blob) => save(blob, `${image.id}.png`), toastProblem);
  };

  return html`<${Page}
    title="Images"
    wide
    class="images"
    actions=${html`<${Button} kind="quiet" small icon="search" onClick=${() => input.current?.click()}>Check a picture’s origin<//>
      <input ref=${input} type="file" accept="image/png" hidden aria-label="A picture to look into" onChange=${(/** @type {any} */ event) => {
        setOutside(event.currentTarget.files[0] ?? null);
        event.currentTarget.value = "";
      }} />`}
  >
    ${over && html`<div class="dropping" aria-hidden="true"><p>Drop a PNG to see whether and how it was made here</p></div>`}
    <${Filters} concepts=${concepts} isAll=${isAll} onChoosing=${() => setChoosing(true)} query=${query} onChange=${(/** @type {any} */ changes) => setQuery(changes)} />
    ${chosen.length > 0 &&
    html`<div class="images-marked" role="group" aria-label="Marked pictures">
      <strong>${chosen.length} marked</strong>
      <${Button} small icon="compare" disabled=${chosen.length !== 2} onClick=${() => setComparing(true)}>${chosen.length === 2 ? "Compare" : "Compare two"}<//>
      <${Button} small icon="download" onClick=${downloadMarked}>Download<//>
      <${Button} small kind="danger" icon="trash" onClick=${removeMarked}>Delete<//>
      <${Button} small kind="quiet" icon="close" onClick=${() => setMarked([])}>Unmark<//>
    </div>`}
    ${address && list.first && html`<${Skeleton} rows=${3} height="10rem" />`}
    ${(!address || (!list.first && !drawn.length && !list.hasMore)) && html`<${Nothing} filters=${filters} />`}
    <${VirtualGrid}
      items=${drawn}
      keyOf=${(/** @type {Drawn} */ { image }) => image.id}
      minWidth=${innerWidth < 500 ? 100 : 150}
      gap=${innerWidth < 500 ? 6 : 12}
      rowHeight=${(/** @type {number} */ width) => width}
      label="Pictures"
      onEnd=${list.more}
      render=${(/** @type {Drawn} */ { image, sample }) => html`<div class=${classes("images-tile", marked.includes(image.id) && "is-marked")}>
        <a href=${link(`/images/${image.id}`, query)} title=${sample.prompt}>
          <${Picture} src=${image.url} width=${256} alt=${`${sample.prompt}, seed ${sample.seed}`} pixelated=${isSmall} />
        </a>
        <label class="images-mark">
          <input type="checkbox" checked=${marked.includes(image.id)} onChange=${() => mark(image.id)} aria-label=${`Mark the picture of ${sample.prompt}, seed ${sample.seed}`} />
        </label>
      </div>`}
    />
    <${ProblemNotice} problem=${list.problem} retry=${list.retry} />
    ${comparing && chosen.length === 2 && html`<${CompareDialog} first=${chosen[0].image} second=${chosen[1].image} onClose=${() => setComparing(false)} />`}
    ${params?.id && html`<${ImageDialog} id=${params.id} drawn=${drawn} query=${query} isSmall=${isSmall} onClose=${close} onGone=${(/** @type {string} */ id) => (forget([id]), close())} />`}
    ${outside && html`<${OriginDialog} file=${outside} onClose=${() => setOutside(null)} />`}
  <//>`;
}

/** The list of the samples that are looked for; null for a seed that is none, of which the field says why. */
function addressOf(/** @type {Record<string, string>} */ { concept, prompt, seed }) {
  const { seed: number, error } = readSeed(seed);
  if (error) return null;
  const query = new URLSearchParams({ status: "succeeded" });
  if (concept) query.set("concept", concept);
  if (prompt) query.set("prompt", prompt);
  if (number !== null) query.set("seed", String(number));
  return `v1/samples?${query}`;
}

/** The images of samples, newest first. @returns {Drawn[]} */
function imagesOf(/** @type {any[]} */ samples) {
  return samples.flatMap((sample) => sample.images.map((/** @type {any} */ image) => ({ image, sample })));
}

/** @param {{ filters: boolean }} props */
function Nothing({ filters }) {
  return filters
    ? html`<${Empty} icon="search" title="No picture fits" action=${html`<${Button} onClick=${() => setQuery({ concept: null, prompt: null, seed: null })}>Show all<//>`}>
        Nothing was drawn with this.
      <//>`
    : html`<${Empty} icon="images" title="Nothing drawn yet" action=${html`<${Button} kind="primary" href=${link("/studio")}>To the studio<//>`}>
        All pictures that are drawn come together here.
      <//>`;
}
