// Asks the service, while the user types, what a request would make.

import { api } from "../../api.js";
import { useEffect, useState } from "../../ui/html.js";

/** How long the fields have to rest before the service is asked, in milliseconds. */
const REST_MS = 400;

/**
 * @typedef {object} Foretold
 * @property {Record<string, any> | null} answer The newest answer of the dry run.
 * @property {any} problem Why the request would be refused, or null.
 * @property {boolean} asking
 */

/**
 * The dry run of a request: its estimate, warnings and prompt tokens, or why it would be refused.
 *
 * @param {string} path
 * @param {Record<string, any> | null} body Null: nothing is asked.
 * @returns {Foretold}
 */
export function useDryRun(path, body) {
  return useAnswer(path, body && { ...body, dry_run: true });
}

/**
 * The answer to a `POST` that changes nothing, asked again when the body has changed and rested.
 *
 * @param {string} path
 * @param {Record<string, any> | null} body Null: nothing is asked.
 * @returns {Foretold}
 */
export function useAnswer(path, body) {
  const text = body && JSON.stringify(body);
  const [state, setState] = useState(/** @type {Foretold} */ ({ answer: null, problem: null, asking: false }));
  useEffect(() => {
    if (!text) {
      setState({ answer: null, problem: null, asking: false });
      return;
    }
    let gone = false;
    setState((before) => ({ ...before, asking: true }));
    const timer = setTimeout(() => {
      api.post(path, JSON.parse(text), { key: null }).then(
        ({ body: answer }) => gone || setState({ answer, problem: null, asking: false }),
        (problem) => gone || setState({ answer: null, problem, asking: false }),
      );
    }, REST_MS);
    return () => {
      gone = true;
      clearTimeout(timer);
    };
  }, [path, text]);
  return state;
}
