/** Numbers, durations, sizes and times as people read and write them. */

/**
 * Reads a number as it is typed. A comma is accepted for the decimal point, `0,8` for `0.8`; blanks around are ignored.
 *
 * @param {string} text
 * @returns {number | null | undefined} null if the text is empty, undefined if it is no number
 */
export function parseNumber(text) {
  const trimmed = text.trim();
  if (trimmed === "") return null;
  if (!/^[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?$/i.test(trimmed)) return undefined;
  const value = Number(trimmed.replace(",", "."));
  return Number.isFinite(value) ? value : undefined;
}

/**
 * Reads a whole number without rounding it. One that a double cannot hold exactly is answered as a reason and never changed.
 *
 * @param {string} text
 * @param {{min?: number, max?: number}} [range]
 * @returns {{value: number | null, error: string | null}}
 */
export function parseInteger(text, { min = 0, max = Number.MAX_SAFE_INTEGER } = {}) {
  const trimmed = text.trim();
  if (trimmed === "") return { value: null, error: null };
  if (!/^[+-]?\d+$/.test(trimmed)) return { value: null, error: "Write a whole number." };
  const exact = BigInt(trimmed);
  if (exact < BigInt(min)) return { value: null, error: `The smallest is ${min}.` };
  if (exact > BigInt(max)) return { value: null, error: `The largest is ${max}.` };
  return { value: Number(exact), error: null };
}

const numbers = new Intl.NumberFormat("en");

/** `12345` as `12,345`. */
export const count = (/** @type {number} */ value) => numbers.format(value);

/** `count(n)` with a noun: `1 photo`, `3 photos`. */
export const plural = (/** @type {number} */ value, /** @type {string} */ noun, many = `${noun}s`) =>
  `${numbers.format(value)} ${value === 1 ? noun : many}`;

/** A number with few significant digits: `0.00412`. */
export const short = (/** @type {number | null | undefined} */ value, digits = 3) =>
  value === null || value === undefined || !Number.isFinite(value) ? "–" : String(Number(value.toPrecision(digits)));

/** `0.123` as `12 %`. */
export const percent = (/** @type {number} */ share) => `${Math.round(share * 100)}\u00a0%`;

/** `95` seconds as `1 min 35 s`. */
export function duration(/** @type {number | null | undefined} */ seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 1) return seconds <= 0 ? "0 s" : "less than 1 s";
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min${whole < 600 && whole % 60 ? ` ${whole % 60} s` : ""}`;
  if (whole < 172_800) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.round(whole / 86_400)} days`;
}

/** `39000000` bytes as `39 MB`. */
export function size(/** @type {number} */ bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${value < 10 && unit > 0 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

const dates = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** A time of the API as the reader's own date and time. */
export const time = (/** @type {string | null | undefined} */ text) => (text ? dates.format(new Date(text)) : "–");

/** How long ago: `just now`, `5 min ago`, `3 days ago`. */
export function ago(/** @type {string | null | undefined} */ text) {
  if (!text) return "–";
  const seconds = (Date.now() - Date.parse(text)) / 1000;
  if (seconds < 45) return "just now";
  if (seconds < 3600) return `${Math.max(1, Math.round(seconds / 60))} min ago`;
  if (seconds < 86_400) return `${Math.round(seconds / 3600)} h ago`;
  return seconds < 2_592_000 ? plural(Math.round(seconds / 86_400), "day") + " ago" : time(text);
}

/** The end of an id, which is what tells ids apart: `trn_…9dncgcth`. */
export const shortId = (/** @type {string} */ id) => `${id.slice(0, 4)}…${id.slice(-6)}`;

/** `near_duplicate` as `Near duplicate`. */
export const words = (/** @type {string} */ code) => {
  const text = code.replaceAll("_", " ");
  return text[0].toUpperCase() + text.slice(1);
};
