// Evaluations, votes and the queue, as a person would use them.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { isAccessible, newPage, openBrowser, settled } from "../support/browser.mjs";
import { trained } from "../support/catalog.mjs";
import { Server } from "../support/server.mjs";

let server, browser, page;
before(async () => {
  [server, browser] = await Promise.all([Server.start("evaluations"), openBrowser()]);
  await trained(server, "rex", "dog", 4);
  page = await newPage(browser);
});
after(() => Promise.all([browser?.close(), server?.stop()]));
const dialog = () => page.locator("dialog[open]");

test("an evaluation is asked for, watched, and looked at side by side", { timeout: 240_000 }, async () => {
  await page.goto(`${server.url}#/evaluations`);
  await page.getByRole("button", { name: "New evaluation" }).click();
  await dialog().getByLabel("rex", { exact: true }).check();
  await dialog().getByLabel("Prompts", { exact: true }).selectOption({ label: "Only my own prompts" });
  await dialog().getByLabel("Prompts of your own").fill("photo of {} in the snow\na painting of a house");
  await dialog().getByLabel("Images of each prompt").fill("2");
  await dialog().getByLabel("Steps").fill("2000");
  await dialog().locator(".field-wrong", { hasText: "Steps" }).waitFor();
  await dialog().getByLabel("Steps").fill("3");
  await dialog().getByText("2 subjects, 2 prompts, 8 images in all.").waitFor();
  await settled(page);
  await isAccessible(page, "new evaluation");
  await dialog().getByRole("button", { name: "Start" }).click();

  await page.getByRole("heading", { name: "Agrees with the photos" }).waitFor({ timeout: 120_000 });
  assert.equal(await page.locator(".measure-row", { hasText: "base model" }).count() > 0, true);
  await page.getByRole("link", { name: "Side by side" }).click();
  await page.locator(".side-image img").nth(7).waitFor();
  const images = page.locator(".side-image");
  await images.nth(0).click();
  await images.nth(2).click();
  await dialog().getByRole("heading", { name: "Compare" }).waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("link", { name: "Plots and sheet" }).click();
  await page.locator(".figure-box img").nth(1).waitFor();
  assert.ok(await page.locator(".figure-box img").first().evaluate((image) => image.decode().then(() => image.naturalWidth > 100)));
  assert.deepEqual(page.errors, []);
});

test("people vote on pairs by a link of their own", { timeout: 120_000 }, async () => {
  await page.goto(`${server.url}#/evaluations`);
  await page.getByRole("button", { name: "New vote" }).click();
  await dialog().getByLabel("People").fill("1");
  await dialog().getByRole("button", { name: "Create the links" }).click();
  const link = page.locator(".links a");
  await link.waitFor();
  const address = await link.getAttribute("href");

  // Somebody else's browser, without a key.
  const voter = await (await browser.newContext()).newPage();
  await voter.goto(new URL(address, server.url).href);
  for (let pair = 0; pair < 4; pair++) {
    for (const criterion of ["text", "image"]) await voter.locator(`input[name=${criterion}]`).first().check();
    await voter.locator("button, input[type=submit]").first().click();
    await voter.waitForLoadState("load");
    if ((await voter.locator("input[name=text]").count()) === 0) break;
  }

  await page.getByText(/^[1-9]\d* votes?: /).first().waitFor({ timeout: 30_000 });
  assert.deepEqual(page.errors, []);
});

test("the queue shows what runs and what waits, and takes out what is not wanted", { timeout: 180_000 }, async () => {
  const start = (/** @type {number} */ seed) => server.call("POST", "v1/trainings", { concepts: ["rex"], recipe: { max_train_steps: 2000 }, seed });
  const [running, waiting, last] = [await start(1), await start(2), await start(3)];
  await page.goto(`${server.url}#/queue`);
  await page.locator(".queue-running").waitFor({ timeout: 60_000 });
  const rows = page.locator("ol .queue-job");
  await page.waitForFunction(() => document.querySelectorAll("ol .queue-job").length === 2);
  assert.match(await rows.nth(0).textContent(), /Next/);
  assert.match(await rows.nth(1).textContent(), /1 job ahead/);

  await rows.nth(0).getByRole("button", { name: /^Remove/ }).click();
  await page.waitForFunction(() => document.querySelectorAll("ol .queue-job").length === 1);
  assert.equal((await server.call("GET", `v1/trainings/${waiting.id}`)).status, "canceled");
  await page.locator(".queue-running").getByRole("button", { name: /^Stop/ }).click();
  assert.equal((await server.ended(`v1/trainings/${running.id}`)).status, "canceled");
  await server.call("POST", `v1/trainings/${last.id}/cancel`, {}).catch(() => {});
  assert.deepEqual(page.errors, []);
});
