// Teaches a concept from a folder of photos and draws it, with openapi-fetch and the types made from the description.
import fs from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

const client = createClient<paths>({
  baseUrl: process.env.VSTAR_URL ?? "http://127.0.0.1:8080",
  // Where the service asks for no keys, any text will do.
  headers: { authorization: `Bearer ${process.env.VSTAR_KEY ?? "none"}` },
});
const [folder] = process.argv.slice(2);
if (!folder) throw new Error("which folder of photos?");

/** The data of an answer; a problem is an exception that says what is wrong. */
function data<T>(answer: { data?: T; error?: unknown }): T {
  if (answer.data === undefined) throw new Error(JSON.stringify(answer.error));
  return answer.data;
}

/** The job that a request has started: with `dry_run`, it would have started none. */
function started<T extends { object: string }>(answer: T): Exclude<T, { object: "dry_run" }> {
  if (answer.object === "dry_run") throw new Error("nothing has been started");
  return answer as Exclude<T, { object: "dry_run" }>;
}

/** A form with a field for each entry; lists become several fields of the same name. */
function form(body: Record<string, unknown>): FormData {
  const form = new FormData();
  for (const [name, value] of Object.entries(body)) {
    for (const part of Array.isArray(value) ? value : [value]) form.append(name, part);
  }
  return form;
}

// A concept and its photos.
const concept = data(
  await client.POST("/v1/concepts", {
    body: { handle: "rex", modifier_token: "<rex>", class_noun: "dog" },
  }),
);
console.log(`concept ${concept.handle}`);
const files = fs.readdirSync(folder).sort().slice(0, 4);
const photos = files.map((file) => new File([fs.readFileSync(path.join(folder, file))], file));
const upload = data(
  await client.POST("/v1/concepts/{concept}/images", {
    params: { path: { concept: concept.handle } },
    body: { files: photos },
    bodySerializer: form,
  }),
);
console.log(`${upload.accepted} photos`);
if (upload.accepted !== 4) throw new Error(JSON.stringify(upload));

// A training is a job: start it, then look until it has ended.
const asked = await client.POST("/v1/trainings", {
  body: { concepts: ["rex"], recipe: { max_train_steps: 4 }, seed: 1 },
});
let training = started(data(asked));
while (!["succeeded", "failed", "canceled"].includes(training.status)) {
  await sleep(200);
  const params = { path: { training_id: training.id } };
  training = data(await client.GET("/v1/trainings/{training_id}", { params }));
}
if (training.status !== "succeeded" || !training.delta) throw new Error(JSON.stringify(training));
console.log(`training ${training.status}`);

// README's minimal body. The answer may wait for the image.
const drawn = await client.POST("/v1/samples", {
  params: { header: { prefer: "wait=20" } },
  body: { prompt: "photo of a <rex> dog on the beach", seed: 7 },
});
let sample = started(data(drawn));
while (!["succeeded", "failed", "canceled"].includes(sample.status)) {
  await sleep(200);
  const params = { path: { sample_id: sample.id } };
  sample = data(await client.GET("/v1/samples/{sample_id}", { params }));
}
const image = sample.images[0];
if (sample.status !== "succeeded" || !image) throw new Error(JSON.stringify(sample));
console.log(`sample ${sample.status}`);

// The image and the delta, as files.
const png = data(
  await client.GET("/v1/images/{image_id}/content", {
    params: { path: { image_id: image.id } },
    parseAs: "arrayBuffer",
  }),
);
const delta = data(
  await client.GET("/v1/deltas/{delta_id}/content", {
    params: { path: { delta_id: training.delta } },
    parseAs: "arrayBuffer",
  }),
);
const magic = Buffer.from(png).subarray(1, 4).toString();
const header = Buffer.from(delta).readBigUInt64LE();
if (magic !== "PNG" || header > BigInt(delta.byteLength)) throw new Error("not what was asked for");
console.log(`a PNG, and a delta with a header of ${header} bytes`);

// A problem has a type, too.
const refused = await client.POST("/v1/samples", { body: { prompt: "photo of a dog", n: 99 } });
const code: components["schemas"]["Code"] | undefined = refused.error?.code;
if (code !== "out_of_range") throw new Error(JSON.stringify(refused.error));
console.log(`n = 99: ${code}`);
