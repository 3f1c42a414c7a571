// The parts of the studio that need no browser: `node --test tests/web/`.

import assert from "node:assert/strict";
import { test } from "node:test";
import { deflateSync } from "node:zlib";

import { readManifest } from "../../web/png.js";
import { randomSeed, readSeed, seedAfter } from "../../web/seed.js";
import { EMPTY, fromSample, takingPart, toRequest } from "../../web/pages/studio/settings.js";
import { columnsOf, defaultPrompts, promptsOf, requestOf } from "../../web/pages/compose/plan.js";

const REX = { id: "cpt_rex", handle: "rex", modifier_token: "<rex>", class_noun: "dog", current_delta: "dlt_rex" };
const DELFT = { id: "cpt_delft", handle: "delft", modifier_token: "<delft>", class_noun: "vase", current_delta: "dlt_delft" };
const GATE = { id: "cpt_gate", handle: "gate", modifier_token: null, class_noun: "gate", current_delta: "dlt_gate" };
const CONCEPTS = [REX, DELFT, GATE];
const DELTAS = new Map([
  ["dlt_rex", { id: "dlt_rex", concepts: [REX] }],
  ["dlt_old", { id: "dlt_old", concepts: [REX] }],
  ["dlt_delft", { id: "dlt_delft", concepts: [DELFT] }],
  ["dlt_gate", { id: "dlt_gate", concepts: [GATE] }],
]);

test("a seed is never rounded", () => {
  assert.deepEqual(readSeed("9007199254740991"), { seed: 9007199254740991, error: null });
  assert.deepEqual(readSeed(" 7 "), { seed: 7, error: null });
  assert.deepEqual(readSeed(""), { seed: null, error: null });
  for (const wrong of ["9007199254740992", "9007199254740993", "5400121572116419000", "18446744073709551615", "-1", "1e3", "0x10", "7.0", "７"]) {
    const { seed, error } = readSeed(wrong);
    assert.equal(seed, null, wrong);
    assert.equal(typeof error, "string", wrong);
  }
});

test("the seed after the largest is the smallest", () => {
  assert.equal(seedAfter("9007199254740991"), "0");
  assert.equal(seedAfter("9007199254740990"), "9007199254740991");
  assert.equal(seedAfter("0", -1n), "9007199254740991");
  for (let draw = 0; draw < 200; draw++) assert.equal(readSeed(randomSeed()).error, null);
});

test("a wrong number names its field and draws nothing of it", () => {
  const { body, errors } = toRequest({ ...EMPTY, prompt: "a dog", seed: "9007199254740993", guidance_scale: "three" }, CONCEPTS);

  assert.deepEqual(errors.map(({ pointer }) => pointer), ["/guidance_scale", "/seed"]);
  assert.deepEqual(body, { prompt: "a dog", n: 1 });
});

test("what has to be whole is", () => {
  const { errors } = toRequest({ ...EMPTY, prompt: "a dog", n: "0", num_inference_steps: "1.5", first_index: "-3", width: "64px" }, CONCEPTS);

  assert.deepEqual(errors.map(({ pointer }) => pointer), ["/n", "/first_index", "/num_inference_steps", "/width"]);
});

test("a comma is a decimal point", () => {
  const settings = { ...EMPTY, prompt: "a <rex> dog", guidance_scale: "3,5", uses: { rex: { strength: "0,8" } } };

  const { body, errors, order } = toRequest(settings, CONCEPTS);

  assert.deepEqual(errors, []);
  assert.equal(body.guidance_scale, 3.5);
  assert.deepEqual(body.concepts, [{ concept: "rex", strength: 0.8 }]);
  assert.deepEqual(order, ["rex"]);
});

test("concepts take part by their token, or because they were added", () => {
  const settings = { ...EMPTY, prompt: "a <delft> vase and a <rex> dog by a gate", uses: { gate: { strength: "", added: true }, mia: { strength: "", added: true } } };

  assert.deepEqual(takingPart(settings, CONCEPTS).map(({ handle }) => handle), ["delft", "rex", "gate"]);
  assert.deepEqual(toRequest(settings, CONCEPTS).body.concepts, [{ concept: "gate" }]);
});

test("what a sample was drawn with is asked for again", () => {
  const settings = {
    ...EMPTY,
    prompt: "a <rex> dog next to a <delft> vase by a gate",
    negative_prompt: "fog",
    uses: { rex: { strength: "0.8", delta: "dlt_old" }, gate: { strength: "1", added: true } },
    composing: { way: "regional", weight: "", enlarge: "2", boxes: { rex: [0, 0.2, 0.5, 0.9] } },
    n: "3",
    seed: "9007199254740991",
    first_index: "4",
    num_inference_steps: "20",
    guidance_scale: "2.5",
    scheduler: "euler",
    width: "96",
    height: "64",
    unconditional_strength: "0.5",
    guidance_start: "0.1",
    guidance_end: "0.9",
    init_image: "img_start",
    noise_strength: "0.6",
  };
  const { body } = toRequest(settings, CONCEPTS);
  const sample = {
    ...body,
    eta: 0,
    determinism: "strict",
    deltas: [
      { delta: "dlt_old", strength: 0.8 },
      { delta: "dlt_delft", strength: 1 },
      { delta: "dlt_gate", strength: 1 },
    ],
    composition: { method: "regional", enlarge: 2, regions: [{ concept: "rex", box: [0, 0.2, 0.5, 0.9] }, { concept: "delft", box: null }] },
    merge: null,
  };

  assert.deepEqual(toRequest(fromSample(sample, DELTAS, CONCEPTS), CONCEPTS).body, body);
  const third = toRequest(fromSample(sample, DELTAS, CONCEPTS, 6), CONCEPTS).body;
  assert.deepEqual(third, { ...body, n: 1, first_index: 6 }, "one image of it");
});

test("a merge keeps its method and weight", () => {
  const merged = { prompt: "a <rex> dog and a <delft> vase", n: 1, seed: 1, deltas: [], merge: { method: "soft", constraint_weight: 20 }, composition: { method: "merge" } };

  const { body } = toRequest(fromSample(merged, DELTAS, CONCEPTS), CONCEPTS);

  assert.deepEqual(body.merge, { method: "soft", constraint_weight: 20 });
  assert.deepEqual(body.composition, { method: "merge" });
});

test("the grid draws each prompt in each way from one seed", () => {
  const chosen = { part: [REX, GATE], uses: {}, composing: EMPTY.composing, seed: "7" };
  const columns = columnsOf(["alone", "regional", "hard", "joint"], chosen.part, "dlt_joint");
  const [template] = promptsOf(defaultPrompts(2));

  const requests = columns.map((column) => requestOf(template, column, chosen));

  assert.deepEqual(columns.map(({ id }) => id), ["alone-rex", "alone-gate", "regional", "hard", "joint"]);
  assert.deepEqual(requests[0], { prompt: "a <rex> dog on the grass", n: 1, seed: 7 });
  assert.deepEqual(requests[1], { prompt: "a gate on the grass", n: 1, seed: 7, concepts: [{ concept: "gate" }] });
  assert.deepEqual(requests[2].composition, { method: "regional" });
  assert.deepEqual(requests[3].merge, { method: "hard" });
  assert.deepEqual(requests[4].concepts, [{ concept: "rex", delta: "dlt_joint" }, { concept: "gate", delta: "dlt_joint" }]);
  assert.ok(requests.every(({ seed }) => seed === 7));
});

/** A PNG with these chunks. The reader looks at no checksum and no pixel. */
function png(...chunks) {
  const parts = chunks.map(([kind, data]) => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(data.length);
    return Buffer.concat([length, Buffer.from(kind, "latin1"), data, Buffer.alloc(4)]);
  });
  return new Blob([Buffer.from("89504e470d0a1a0a", "hex"), ...parts]);
}

const text = (keyword, value, compressed = false) => [
  "iTXt",
  Buffer.concat([Buffer.from(`${keyword}\0`, "latin1"), Buffer.from([compressed ? 1 : 0, 0]), Buffer.from("\0\0"), compressed ? deflateSync(value) : Buffer.from(value)]),
];
const HEADER = ["IHDR", Buffer.alloc(13)];
const END = ["IEND", Buffer.alloc(0)];

test("the manifest of a PNG is found, compressed or not", async () => {
  const manifest = JSON.stringify({ prompt: "ein Hündchen", seed: 9007199254740991 });

  for (const compressed of [false, true]) {
    const found = await readManifest(png(HEADER, text("Comment", "drawn"), text("vstar.manifest", manifest, compressed), END));
    assert.equal(found.text, manifest);
    assert.equal(found.manifest.seed, 9007199254740991);
  }
});

test("a file without a manifest has none", async () => {
  assert.equal(await readManifest(png(HEADER, text("Comment", "{}"), END)), null);
  assert.equal(await readManifest(new Blob(["not a picture"])), null);
  assert.equal(await readManifest(new Blob([])), null);
  const cut = png(HEADER, text("vstar.manifest", `{"prompt":"a dog","seed":1}`)).slice(0, 50);
  assert.equal(await readManifest(cut), null);
});

test("a damaged manifest says so", async () => {
  await assert.rejects(readManifest(png(HEADER, text("vstar.manifest", "{"), END)), /damaged/);
  await assert.rejects(readManifest(png(HEADER, text("vstar.manifest", "null"), END)), /damaged/);
  await assert.rejects(readManifest(png(HEADER, text("vstar.manifest", `{"prompt":"a dog","seed":9007199254740993}`), END)), /seed/);
});
