// Open workflows and blueprints (UI format) in the real frontend: what it complains about, their API format, screenshots.
// node frontend.mjs <server URL> <folder> <workflow.json> ...: api.json, report.json and screenshot.png in <folder>/<name>
// PLAYWRIGHT_CORE: folder that holds node_modules/playwright-core. CHROMIUM: the browser (/usr/bin/chromium).
import { mkdtempSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";

const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];
const READY_MS = 120_000;

function playwright() {
  const root = resolve(process.env.PLAYWRIGHT_CORE ?? ".");
  return createRequire(join(root, "package.json"))("playwright-core");
}

// The frontend's own start logs a few errors on an empty user folder (404s): they are kept apart from the workflow's.
function collectErrors(page) {
  const errors = { startup: [], workflow: [], phase: "startup" };
  const add = (text) => errors[errors.phase].push(text);
  page.on("console", (message) => message.type() === "error" && add(`${message.text()} ${message.location().url}`));
  page.on("pageerror", (error) => add(error.stack ?? String(error)));
  return errors;
}

// Everything below runs inside the page.
async function openWorkflow(workflow) {
  const app = window.app;
  await app.loadGraphData(workflow);
  await new Promise((done) => setTimeout(done, 2000));
  const known = window.LiteGraph.registered_node_types;
  const missing = app.graph.nodes.filter((node) => !(node.type in known)).map((node) => node.type);
  const dialogs = [...document.querySelectorAll("[role=dialog], .p-dialog, .comfy-modal")]
    .filter((element) => element.offsetParent !== null)
    .map((element) => element.innerText.trim().slice(0, 2000));
  await new Promise((done) => setTimeout(done, 1000));
  const { output } = await app.graphToPrompt();
  return { missing: [...new Set(missing)], dialogs, nodes: app.graph.nodes.length, api: output };
}

async function start(page, url) {
  await page.goto(url, { waitUntil: "load", timeout: READY_MS });
  await page.waitForFunction(() => window.app?.graph && window.LiteGraph?.registered_node_types?.KSampler,
    null, { timeout: READY_MS });
  await page.waitForTimeout(3000); // the frontend loads its own default workflow and its first-run dialogs
  await page.keyboard.press("Escape");
  await page.waitForTimeout(500);
}

async function inspect(page, file, folder, errors) {
  errors.phase = "workflow";
  errors.workflow = [];
  const { api, ...found } = await page.evaluate(openWorkflow, JSON.parse(readFileSync(file, "utf8")));
  const report = { ...found, startup_errors: errors.startup, workflow_errors: errors.workflow };
  mkdirSync(folder, { recursive: true });
  await page.screenshot({ path: join(folder, "screenshot.png") });
  writeFileSync(join(folder, "api.json"), JSON.stringify(api, null, 2) + "\n");
  writeFileSync(join(folder, "report.json"), JSON.stringify(report, null, 2) + "\n");
}

async function main([url, outputFolder, ...files]) {
  const profile = mkdtempSync(join(tmpdir(), "frontend-"));
  const context = await playwright().chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS, viewport: { width: 1600, height: 900 },
  });
  try {
    const page = context.pages()[0] ?? await context.newPage();
    const errors = collectErrors(page);
    await start(page, url);
    for (const file of files) {
      await inspect(page, file, join(outputFolder, basename(file, ".json")), errors);
    }
  } finally {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  }
}

await main(process.argv.slice(2));
