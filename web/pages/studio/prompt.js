// The prompt: a text field that completes concepts after `<` and `@`, and counts tokens.

import { Errors } from "./errors.js";
import { classes, html, nextId, useRef, useState } from "../../ui/html.js";

/** @typedef {import("./concepts.js").Concept} Concept */

/** How many concepts are offered at once. */
const OFFERED = 8;

/**
 * @param {object} props
 * @param {string} props.value
 * @param {(text: string, added?: Concept) => void} props.onChange `added` is a concept without a token that was chosen.
 * @param {Concept[]} props.concepts
 * @param {() => void} props.onFocus
 * @param {() => void} props.onSubmit Ctrl+Enter.
 * @param {number | undefined} props.tokens How many tokens the service counts, with start and end.
 * @param {number | undefined} props.mostTokens
 * @param {string[]} props.errors
 */
export function Prompt({ value, onChange, concepts, onFocus, onSubmit, tokens, mostTokens, errors }) {
  const [id] = useState(() => nextId("prompt"));
  const field = useRef(/** @type {HTMLTextAreaElement | null} */ (null));
  const [asked, setAsked] = useState(/** @type {{ from: number, to: number, word: string } | null} */ (null));
  const [active, setActive] = useState(0);
  const offered = asked ? matching(concepts, asked.word) : [];
  const open = asked !== null && concepts.length > 0;

  const look = () => {
    const { selectionStart, selectionEnd, value: text } = /** @type {HTMLTextAreaElement} */ (field.current);
    const before = text.slice(0, selectionStart);
    const found = selectionStart === selectionEnd ? /[<@]([\w-]*)$/.exec(before) : null;
    setAsked(found && { from: found.index, to: selectionStart, word: found[1].toLowerCase() });
    setActive(0);
  };

  const choose = (/** @type {Concept} */ concept) => {
    if (!asked || !concept.current_delta) return;
    const rest = value.slice(asked.to).replace(/^>/, "");
    const words = inPrompt(concept, rest);
    const before = value.slice(0, asked.from) + words;
    // At once, for who types on would otherwise be ahead of the caret.
    const area = /** @type {HTMLTextAreaElement} */ (field.current);
    area.value = before + rest;
    area.focus();
    area.setSelectionRange(before.length, before.length);
    onChange(area.value, concept.modifier_token ? undefined : concept);
    setAsked(null);
  };

  const onKeyDown = (/** @type {KeyboardEvent} */ event) => {
    if (event.isComposing) return; // Enter chooses a word of an input method
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      onSubmit();
    } else if (open && offered.length && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      event.preventDefault();
      setActive((active + (event.key === "ArrowDown" ? 1 : offered.length - 1)) % offered.length);
    } else if (open && offered.length && (event.key === "Enter" || event.key === "Tab")) {
      event.preventDefault();
      choose(offered[active]);
    } else if (open && event.key === "Escape") {
      event.stopPropagation();
      setAsked(null);
    }
  };

  const isTooLong = tokens !== undefined && mostTokens !== undefined && tokens > mostTokens;
  return html`<div class=${classes("prompt field", errors.length && "field-wrong")}>
    <div class="field-top">
      <label for=${id}>Prompt</label>
      ${tokens !== undefined &&
      html`<span class="field-aside prompt-count" data-over=${isTooLong ? "" : undefined} title="Tokens of the text encoder, with start and end">
        ${tokens}${mostTokens ? ` of ${mostTokens}` : ""} tokens
      </span>`}
    </div>
    <textarea
      class="input"
      id=${id}
      ref=${field}
      rows="3"
      spellcheck="false"
      autocomplete="off"
      placeholder="photo of a <rex> dog on the beach"
      aria-autocomplete="list"
      aria-haspopup="listbox"
      aria-controls=${`${id}-list`}
      aria-activedescendant=${open && offered.length ? `${id}-${active}` : undefined}
      aria-invalid=${errors.length ? "true" : undefined}
      aria-describedby=${`${id}-hint`}
      value=${value}
      onInput=${(/** @type {any} */ event) => {
        onChange(event.currentTarget.value);
        look();
      }}
      onFocus=${onFocus}
      onClick=${look}
      onKeyUp=${(/** @type {KeyboardEvent} */ event) => /^(Arrow(Left|Right)|Home|End)$/.test(event.key) && look()}
      onKeyDown=${onKeyDown}
      onBlur=${() => setAsked(null)}
    ></textarea>
    <ul id=${`${id}-list`} class="prompt-list" role="listbox" aria-label="Concepts" hidden=${!open}>
      ${open && !offered.length && html`<li class="prompt-none" role="option" aria-disabled="true">No concept begins with “${asked?.word}”</li>`}
      ${offered.map(
        (concept, at) => html`<li
          key=${concept.id}
          id=${`${id}-${at}`}
          role="option"
          aria-selected=${at === active ? "true" : "false"}
          aria-disabled=${concept.current_delta ? undefined : "true"}
          onMouseDown=${(/** @type {MouseEvent} */ event) => {
            event.preventDefault();
            choose(concept);
          }}
        >
          <strong>${concept.modifier_token ?? concept.class_noun}</strong>
          <span>${concept.current_delta ? concept.class_noun : "not trained yet"}</span>
        </li>`,
      )}
    </ul>
    <div id=${`${id}-hint`}>
      <${Errors} errors=${errors} />
      ${!errors.length && html`<p class="field-hint">Type <kbd>${"<"}</kbd> or <kbd>@</kbd> for a concept, <kbd>Ctrl</kbd> <kbd>Enter</kbd> to draw.</p>`}
    </div>
  </div>`;
}

/**
 * The concepts that begin with the word, trained ones first.
 *
 * @param {Concept[]} concepts
 * @param {string} word
 */
function matching(concepts, word) {
  const begins = (/** @type {Concept} */ { handle, modifier_token, class_noun }) =>
    handle.startsWith(word) || (modifier_token ?? "").slice(1).startsWith(word) || class_noun.startsWith(word);
  const trained = (/** @type {Concept} */ concept) => (concept.current_delta ? 0 : 1);
  return concepts
    .filter(begins)
    .sort((one, other) => trained(one) - trained(other))
    .slice(0, OFFERED);
}

/**
 * How a concept is written in a prompt: its token and class noun, unless the noun follows already.
 *
 * @param {Concept} concept
 * @param {string} rest What follows in the prompt.
 */
export function inPrompt({ modifier_token, class_noun }, rest = "") {
  if (!modifier_token) return class_noun;
  return rest.trimStart().startsWith(class_noun) ? modifier_token : `${modifier_token} ${class_noun}`;
}
