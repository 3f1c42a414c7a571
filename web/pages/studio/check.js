// How well concepts go together: the service's check of a merge, in words.

import { parseNumber, short } from "../../format.js";
import { sentence } from "../../ui/field.js";
import { html, useEffect, useState } from "../../ui/html.js";
import { Icon } from "../../ui/icon.js";
import { deltasOf } from "./concepts.js";
import { useAnswer } from "./foretell.js";

/** @typedef {import("./concepts.js").Concept} Concept */
/** @typedef {import("./settings.js").Composing} Choice */
/** @typedef {import("./settings.js").Use} Use */

/**
 * The body that names these concepts to a merge.
 *
 * @param {Concept[]} part
 * @param {Record<string, Use>} uses
 * @param {Choice} composing
 */
export function mergeBody(part, uses, composing) {
  const concepts = part.map(({ handle }) => {
    const { delta, strength = "" } = uses[handle] ?? {};
    const number = parseNumber(strength);
    return { concept: handle, ...(delta && { delta }), ...(typeof number === "number" && number !== 1 && { strength: number }) };
  });
  const weight = parseNumber(composing.weight);
  const method = composing.way === "hard" ? "hard" : "soft";
  return { concepts, method, ...(method === "soft" && typeof weight === "number" && { constraint_weight: weight }) };
}

/**
 * What the service expects of these concepts together. Nothing is asked for fewer than two, or for one that is not trained.
 *
 * @param {Concept[]} part
 * @param {Record<string, Use>} uses
 * @param {Choice} composing
 */
export function useCheck(part, uses, composing) {
  const deltas = part.map(({ handle, current_delta }) => uses[handle]?.delta ?? current_delta);
  const can = part.length > 1 && deltas.every(Boolean) && new Set(deltas).size > 1;
  return useAnswer("v1/merges/check", can ? mergeBody(part, uses, composing) : null);
}

/** What a verdict means for a pair. @type {Record<string, string>} */
const MEANING = {
  ok: "Merged, each keeps what it has learned.",
  risky: "Merged, one may lose some of what it has learned.",
  conflict: "They ask for different things with the same words. Merged, they blend into one, or one is lost.",
};

/** @type {Record<string, string>} */
const ADVICE = {
  merge: "Merging them will do.",
  regional: "Draw each in a region of its own.",
  tokens: "Let each change only its own words.",
  train_jointly: "Train them jointly.",
};

/** @type {Record<string, string>} */
const ICONS = { ok: "check", risky: "warn", conflict: "fail" };

/**
 * Every pair with its verdict in words.
 *
 * @param {object} props
 * @param {any} props.check The answer of `POST /v1/merges/check`.
 * @param {Concept[]} props.part
 * @param {boolean} [props.compact] Only the pairs that may go wrong, with advice for all together.
 */
export function Verdict({ check, part, compact = false }) {
  const names = useNames(check, part);
  const pairs = compact ? check.pairs.filter((/** @type {any} */ pair) => pair.verdict !== "ok") : check.pairs;
  return html`<div class="verdict">
    <ul class="verdict-pairs">
      ${pairs.map(
        (/** @type {any} */ pair) => html`<li key=${pair.deltas.join()} class=${`verdict-${pair.verdict}`}>
          <${Icon} name=${ICONS[pair.verdict]} size=${18} />
          <div>
            <p><strong>${pair.deltas.map((/** @type {string} */ id) => names.get(id) ?? "…").join(" and ")}</strong></p>
            <p>${MEANING[pair.verdict]}</p>
            ${!compact &&
            html`<p class="muted">
              Overlap ${short(pair.overlap, 2)}, error merged ${short(pair.constraint_error, 2)} (alone ${short(pair.constraint_error_alone, 2)})${pair.kept_after_other === null || pair.kept_after_other === undefined ? "" : `, kept after another name ${short(pair.kept_after_other, 2)}`}
            </p>`}
          </div>
        </li>`,
      )}
    </ul>
    ${check.recommended &&
    html`<p class="verdict-advice"><strong>${ADVICE[check.recommended.method] ?? check.recommended.method}</strong> ${sentence(check.recommended.detail)}</p>`}
  </div>`;
}

/**
 * The names of the check's deltas, by id.
 *
 * @param {any} check
 * @param {Concept[]} part
 * @returns {Map<string, string>}
 */
function useNames(check, part) {
  const [names, setNames] = useState(() => new Map(part.map(({ current_delta, modifier_token, class_noun }) => [current_delta, modifier_token ?? class_noun])));
  const ids = check.deltas.map((/** @type {any} */ one) => one.delta).join();
  useEffect(() => {
    let gone = false;
    deltasOf(ids.split(",")).then(
      (deltas) => {
        const named = [...deltas].map(([id, { concepts }]) => [id, concepts.map(({ modifier_token, class_noun }) => modifier_token ?? class_noun).join(" + ")]);
        if (!gone) setNames(new Map(/** @type {[string, string][]} */ (named)));
      },
      () => {},
    );
    return () => {
      gone = true;
    };
  }, [ids]);
  return /** @type {Map<string, string>} */ (names);
}
