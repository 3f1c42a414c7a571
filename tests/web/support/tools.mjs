// The tools that tests/web/run has installed into target/web.

import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("../../../", import.meta.url));
const require = createRequire(`${root}target/web/`);

export const { chromium } = require("playwright-core");
export const axeSource = require("axe-core").source;
export const isShort = process.env.WEB_ROUND === "short";
