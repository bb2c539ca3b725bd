// Bundles the page into the folder given, or ../dist: app.js, app.css, index.html and the licence of what is bundled; and
// more.js, more.css, which app.js fetches when what is in them is first opened.

import { build } from "esbuild";
import { copyFile, mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, "..", "dist");
const options = {
  outdir: out,
  bundle: true,
  minify: true,
  format: "iife", // an exported page has it inline
  target: "es2022",
  charset: "utf8",
  legalComments: "none", // uPlot has none that esbuild would find: its licence is copied below
  logLevel: "warning",
};

await mkdir(out, { recursive: true });
await build({ ...options, entryPoints: { app: join(here, "src", "main.ts") } });
await build({ ...options, entryPoints: { more: join(here, "src", "more.ts") }, globalName: "asynchubMore" });
await copyFile(join(here, "src", "index.html"), join(out, "index.html"));
await copyFile(join(here, "node_modules", "uplot", "LICENSE"), join(out, "uPlot.LICENSE.txt"));
