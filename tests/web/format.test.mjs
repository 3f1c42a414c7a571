// Numbers, durations and sizes as the page reads and writes them.

import assert from "node:assert/strict";
import { test } from "node:test";

import { duration, parseInteger, parseNumber, plural, size } from "../../web/format.js";
import { match } from "../../web/router.js";

test("numbers are read with a point or a comma, and nothing else is guessed", () => {
  for (const [text, value] of [["0,8", 0.8], ["0.8", 0.8], [" 7 ", 7], [",5", 0.5], ["-1,5", -1.5], ["4e-3", 0.004], ["", null]]) {
    assert.equal(parseNumber(/** @type {string} */ (text)), value, String(text));
  }
  for (const text of ["1.000,5", "1,000.5", "0x10", "eight", "1 000", "--1", "Infinity", "1e999"]) assert.equal(parseNumber(text), undefined, text);
});

test("whole numbers keep every digit or are refused", () => {
  assert.deepEqual(parseInteger("9007199254740991"), { value: 9007199254740991, error: null });
  assert.deepEqual(parseInteger(" 7 "), { value: 7, error: null });
  assert.deepEqual(parseInteger(""), { value: null, error: null });
  for (const text of ["9007199254740992", "5400121572116419000", "-1", "1e3", "12,5", "7.0"]) {
    const { value, error } = parseInteger(text);
    assert.equal(value, null, text);
    assert.match(String(error), /whole number|smallest|largest/, text);
  }
});

test("durations and sizes are short", () => {
  assert.deepEqual([0, 0.4, 44, 95, 600, 5400, 200_000].map(duration), ["0 s", "less than 1 s", "44 s", "1 min 35 s", "10 min", "1 h 30 min", "2 days"]);
  assert.deepEqual([12, 1234, 395_896, 39_000_000].map(size), ["12 B", "1.2 kB", "396 kB", "39 MB"]);
  assert.deepEqual([plural(1, "photo"), plural(1200, "photo")], ["1 photo", "1,200 photos"]);
});

test("an address is matched as a whole", () => {
  assert.deepEqual(match("/concepts/:id", "/concepts/rex"), { id: "rex" });
  assert.equal(match("/concepts/:id", "/concepts"), null);
  assert.equal(match("/concepts/:id", "/concepts/rex/photos"), null);
  assert.deepEqual(match("/concepts/new", "/concepts/new"), {});
});
