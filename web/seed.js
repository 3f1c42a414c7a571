// Seeds as the text of a field. They never pass through a number that could round them.

import { parseInteger } from "./format.js";

/** The largest seed that the API takes, 2⁵³ − 1. */
export const LARGEST_SEED = 9007199254740991n;

/**
 * Reads a seed as it was typed.
 *
 * @param {string} text Blanks around it are ignored.
 * @returns {{ seed: number | null, error: string | null }} `seed` is null if the text is empty or wrong.
 */
export function readSeed(text) {
  const { value, error } = parseInteger(text, { min: 0, max: Number(LARGEST_SEED) });
  return { seed: value, error };
}

/**
 * The seed that is `by` further. After the largest it goes on at 0.
 *
 * @param {string} text A seed that `readSeed` accepts.
 * @param {bigint} by
 */
export function seedAfter(text, by = 1n) {
  const count = LARGEST_SEED + 1n;
  return ((((BigInt(text.trim() || "0") + by) % count) + count) % count).toString();
}

/** A random seed, as text. */
export function randomSeed() {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  return ((BigInt(high & 0x1fffff) << 32n) | BigInt(low)).toString();
}
