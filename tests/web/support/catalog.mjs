// Things for the pages to show: photos of the repository, concepts with a training, images, an evaluation.

import { readFileSync, readdirSync } from "node:fs";

import { root } from "./tools.mjs";

/** Photos of one of the repository's concepts. @param {string} name @param {number} [most] */
export function photos(name, most = 6) {
  const folder = `${root}demo/concepts/${name}/`;
  const names = readdirSync(folder).filter((file) => /\.(jpe?g|png|webp)$/i.test(file));
  return names.sort().slice(0, most).map((file) => ({ name: file, type: /png$/i.test(file) ? "image/png" : "image/jpeg", bytes: readFileSync(folder + file) }));
}

/** @param {import("./server.mjs").Server} server @param {string} handle @param {string} kind @param {number} steps */
export async function trained(server, handle, kind, steps, key = null) {
  const concept = await server.call("POST", "v1/concepts", { handle, class_noun: kind, modifier_token: `<${handle}>` }, key);
  const form = new FormData();
  for (const { name, type, bytes } of photos(kind)) form.append("files", new Blob([bytes], { type }), name);
  await server.call("POST", `v1/concepts/${concept.id}/images`, form, key);
  const training = await server.call("POST", "v1/trainings", { concepts: [handle], recipe: { max_train_steps: steps }, seed: 1 }, key);
  const ended = await server.ended(`v1/trainings/${training.id}`, key);
  if (ended.status !== "succeeded") throw new Error(JSON.stringify(ended.error));
  return { concept, training: ended };
}

/** Two trained concepts and one thing of every kind. @param {import("./server.mjs").Server} server */
export async function everything(server) {
  const dog = await trained(server, "rex", "dog", 6);
  const cat = await trained(server, "tom", "cat", 4);
  const sample = await server.call("POST", "v1/samples", { prompt: "photo of a <rex> dog", n: 4, num_inference_steps: 4, seed: 7 });
  await server.ended(`v1/samples/${sample.id}`);
  const merge = await server.call("POST", "v1/merges", { concepts: [{ concept: "rex" }, { concept: "tom" }] });
  await server.ended(`v1/merges/${merge.id}`);
  const evaluation = await server.call("POST", "v1/evaluations", {
    subjects: [{ concepts: [{ concept: "rex" }] }, { base: true }],
    prompts: ["photo of {}", "{} on the beach", "a painting of a house"],
    images_per_prompt: 2,
    num_inference_steps: 3,
  });
  const { subjects } = await server.ended(`v1/evaluations/${evaluation.id}`);
  const [first, second] = subjects.map((/** @type {any} */ subject) => ({ evaluation: evaluation.id, subject: subject.name }));
  const study = await server.call("POST", "v1/preference-studies", { first, second, links: 2 });
  const endpoint = await server.call("POST", "v1/webhook-endpoints", { url: "http://127.0.0.1:9/vstar-events", description: "The shop" });
  await server.call("POST", `v1/webhook-endpoints/${endpoint.id}/test`, {});
  return { concept: dog.concept, other: cat.concept, training: dog.training, sample, merge, evaluation, study, endpoint };
}
