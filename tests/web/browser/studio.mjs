// The studio: prompts that complete themselves, pictures that are varied, compared, taken apart and drawn again.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { LOOKS, drop, fits, isAccessible, newPage, openBrowser, settled } from "../support/browser.mjs";
import { photos, trained } from "../support/catalog.mjs";
import { Server } from "../support/server.mjs";

let server, browser, page;
before(async () => {
  [server, browser] = await Promise.all([Server.start("studio"), openBrowser()]);
  await trained(server, "rex", "dog", 6);
  await trained(server, "tom", "cat", 4);
  page = await newPage(browser);
});
after(() => Promise.all([browser?.close(), server?.stop()]));

/** Looks for errors so far, then runs axe, which itself breaks the policy: its errors are forgotten. */
const accessible = async (name) => {
  assert.deepEqual(page.errors, [], name);
  await isAccessible(page, name);
  page.errors.length = 0;
};
const prompt = () => page.getByRole("textbox", { name: "Prompt", exact: true });
const field = (label) => page.getByLabel(label, { exact: true });
const draw = () => page.getByRole("button", { name: "Draw", exact: true }).click();
const drawn = (count) => page.waitForFunction((wanted) => document.querySelector(".result[data-status=succeeded]") && document.querySelectorAll(".slot .picture img").length === wanted, count, { timeout: 120_000 });
const newest = async () => (await server.call("GET", "v1/samples?limit=1")).data[0];

test("a prompt completes concepts, and says what it will take", { timeout: 120_000 }, async () => {
  await page.goto(`${server.url}#/studio`);
  await settled(page);
  await prompt().pressSequentially("a photo of a <re");
  await page.getByRole("option", { name: /<rex>/ }).waitFor();
  await page.keyboard.press("Enter");
  await prompt().pressSequentially(" and a @to");
  await page.getByRole("option", { name: /<tom>/ }).waitFor();
  await page.keyboard.press("Tab");

  assert.equal(await prompt().inputValue(), "a photo of a <rex> dog and a <tom> cat");
  await page.getByText(/^About /).first().waitFor();
  await page.locator(".composing .badge").waitFor();
  assert.equal(await page.locator(".uses .use").count(), 2);
  await accessible("two concepts");
});

test("a strength is sent, and a warning stands in words", { timeout: 180_000 }, async () => {
  await prompt().fill("a photo of a <rex> dog");
  await page.locator(".use .slider input[type=text]").fill("0,5");
  await field("Images").fill("2");
  await field("Steps").fill("4");
  await field("Seed").fill("9007199254740991");
  await page.keyboard.press("Tab");
  await draw();
  await drawn(2);

  const sample = await newest();
  assert.equal(sample.deltas[0].strength, 0.5);
  assert.deepEqual([sample.n, sample.seed], [2, 9007199254740991]);
});

test("varied, a picture has the seed after it: after the largest the smallest", { timeout: 180_000 }, async () => {
  await page.getByRole("button", { name: "Vary" }).nth(1).click();
  await page.waitForFunction(() => document.querySelector(".result-facts")?.textContent?.startsWith("seed 0 "));
  await drawn(1);

  const sample = await newest();
  assert.deepEqual([sample.seed, sample.n, sample.num_inference_steps], [0, 1, 4]);
});

test("two pictures are compared, with what differs", { timeout: 60_000 }, async () => {
  await page.getByRole("button", { name: "Compare" }).first().click();
  await page.locator(".history-entry").nth(1).click();
  await drawn(2);
  await page.getByRole("button", { name: "Compare" }).first().click();
  await page.getByRole("cell", { name: "9007199254740991" }).waitFor();
  await page.getByRole("slider", { name: /first picture/ }).press("Home");
  await accessible("compare");
  await page.keyboard.press("Escape");
  await page.locator("dialog").waitFor({ state: "detached" });
});

test("a picture that was downloaded gives its settings back, and one from elsewhere is the start", { timeout: 120_000 }, async () => {
  const [, second] = (await server.call("GET", "v1/samples")).data;
  const image = second.images.find(({ index }) => index === 1);
  const bytes = Buffer.from(await (await fetch(new URL(image.url, server.url))).arrayBuffer());
  await page.getByRole("button", { name: "Start afresh" }).click();
  await drop(page, "main", [{ name: "mine.png", type: "image/png", bytes }]);
  await page.waitForFunction(() => [...document.querySelectorAll("input")].some((input) => input.value === "9007199254740991"));
  await page.getByText("More settings").waitFor();

  assert.equal(await prompt().inputValue(), "a photo of a <rex> dog");
  assert.equal(await field("First image").inputValue(), "1");
  assert.equal(await page.locator(".use .slider input[type=text]").inputValue(), "0.5");

  // Drawn again, the bytes are the same.
  await draw();
  await drawn(1);
  const again = Buffer.from(await (await fetch(new URL((await newest()).images[0].url, server.url))).arrayBuffer());
  assert.deepEqual(again, bytes);

  const [plain] = photos("cat", 1);
  await drop(page, "main", [plain]);
  await page.locator(".start-chosen img").waitFor();
  assert.deepEqual(page.errors, []);
});

test("what was written survives a reload", { timeout: 60_000 }, async () => {
  const address = page.url();
  await page.reload();
  await settled(page);

  assert.equal(page.url(), address);
  assert.equal(await prompt().inputValue(), "a photo of a <rex> dog");
  assert.equal(await page.locator(".start-chosen img").count(), 1);
  assert.ok((await page.locator(".history-entry").count()) >= 3);
});

test("concepts are composed side by side, and the verdict comes first", { timeout: 240_000 }, async () => {
  await page.goto(`${server.url}#/compose?concepts=rex,tom`);
  await page.locator(".verdict-pairs").waitFor();
  await page.locator("details.composing-boxes > summary").click();
  const area = await page.locator(".regions-area").boundingBox();
  for (const [left, right] of [[0.05, 0.45], [0.55, 0.95]]) {
    await page.mouse.move(area.x + area.width * left, area.y + area.height * 0.3);
    await page.mouse.down();
    await page.mouse.move(area.x + area.width * right, area.y + area.height * 0.9, { steps: 4 });
    await page.mouse.up();
  }
  assert.equal(await page.locator(".regions-box").count(), 2);
  await page.locator(".regions-box").first().press("ArrowRight");
  await accessible("compose");

  await page.getByLabel("Prompts").fill("a {} next to a {} on the grass");
  await page.getByRole("button", { name: "Draw 4 pictures" }).click();
  await page.waitForFunction(() => document.querySelectorAll(".ways-table .picture img").length === 4, null, { timeout: 200_000 });
  const drawnNow = (await server.call("GET", "v1/samples?limit=4")).data;
  const regional = drawnNow.find(({ composition }) => composition?.method === "regional");
  assert.equal(regional.composition.regions.length, 2);
  assert.ok(Math.abs(regional.composition.regions[0].box[0] - 0.07) < 0.02, JSON.stringify(regional.composition.regions));
  assert.deepEqual(page.errors, []);
});

test("pictures are found by words of their prompt, and by their seed", { timeout: 120_000 }, async () => {
  await page.goto(`${server.url}#/images`);
  await settled(page);
  const shown = (count) => page.waitForFunction((wanted) => document.querySelectorAll(".virtual-tile img").length === wanted, count);
  const expected = async (query) => (await server.call("GET", `v1/samples?status=succeeded&limit=100&${query}`)).data.flatMap(({ images }) => images).length;

  await field("Seed").fill("9007199254740991");
  await shown(await expected("seed=9007199254740991"));
  await field("Seed").fill("1,5");
  await page.getByText("No picture fits").waitFor();
  await field("Seed").fill("");
  await field("Prompt").fill("DOG <rex>");
  const [dogs, all] = [await expected("prompt=%3Crex%3E%20dog"), await expected("")];
  assert.ok(dogs > 0 && dogs < all, `${dogs} of ${all}`);
  await shown(dogs);
  await page.reload();
  await shown(dogs);
  assert.deepEqual(page.errors, []);
});

test("a picture from outside proves its origin", { timeout: 120_000 }, async () => {
  const { id } = await server.call("POST", "v1/samples", { prompt: "a photo of a <rex> dog", num_inference_steps: 2, seed: 5 });
  await server.ended(`v1/samples/${id}`);
  const [image] = (await server.call("GET", `v1/samples/${id}`)).images;
  const bytes = Buffer.from(await (await fetch(new URL(image.url, server.url))).arrayBuffer());
  const found = { name: "found.png", type: "image/png", bytes };
  await page.goto(`${server.url}#/images`);
  await settled(page);
  await drop(page, "main", [found]);
  await page.getByText("It was drawn here").waitFor();
  assert.match(await page.getByRole("link", { name: "this picture" }).getAttribute("href"), new RegExp(`${image.id}$`));
  await page.keyboard.press("Escape");

  // One that is gone here is drawn again.
  await server.call("DELETE", `v1/samples/${id}`);
  await drop(page, "main", [found]);
  await page.getByRole("button", { name: "Draw it again and compare" }).click();
  await page.getByText("Every byte is the same").waitFor({ timeout: 100_000 });
  await accessible("origin");
});

test("on a phone all of it fits", { timeout: 120_000 }, async () => {
  const phone = await newPage(browser, LOOKS.phone);
  const { data } = await server.call("GET", "v1/samples?order=asc&limit=1");
  for (const address of [`/studio?sample=${data[0].id}`, "/studio?prompt=a+%3Crex%3E+dog+and+a+%3Ctom%3E+cat", "/compose?concepts=rex,tom", "/images"]) {
    await phone.goto(`${server.url}#${address}`);
    await settled(phone);
    if (address.includes("sample")) await phone.locator(".slot").nth(1).waitFor();
    await fits(phone, address);
  }
  assert.deepEqual(phone.errors, []);
});
