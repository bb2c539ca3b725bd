/** Files for the reader: a picture of the charts near the window, twice as fine as the screen, with the truth below. */

import type { Chart } from "./chart";
import { cut, h } from "./dom";
import { moment } from "./format";
import type { Page } from "./page";
import { DASHES } from "./shapes";
import { palette } from "./theme";

type ChartKind = typeof Chart;

const SIZE = 2;
const [WIDE, HIGH, GAP, HEAD, TRUTH] = [700, 300, 16, 84, 34];

/** Asks what is to be kept. */
export function exports({ dialog, source: { live } }: Page): void {
  dialog.show(
    "Export",
    h(
      "p",
      {},
      h("button", { type: "button", class: "solid", "data-do": "picture" }, "Picture of these charts (PNG)"),
      h("span", { class: "mute" }, " as they are on the screen, twice as fine, with the truth below each"),
    ),
    live
      ? h(
          "p",
          {},
          h("button", { type: "button", class: "solid", "data-do": "page" }, "Page of this run (HTML)"),
          h("span", { class: "mute" }, " one file with the data in it; it opens without a server and cannot steer"),
        )
      : null,
    h("p", { class: "mute" }, "The address of this page, without its token, brings back what is shown now."),
    h("p", { id: "export-state", role: "status" }),
  );
}

/** Keeps the page of the run that is looked at. */
export async function savePage(page: Page): Promise<void> {
  page.dialog.fill("#export-state", "Making the page…");
  try {
    const keys = page.grid.near.map((panel) => panel.key);
    saveFile(await page.source.page(page.main, keys), `${fileName(page)}.html`);
    page.dialog.fill("#export-state", "Done.");
  } catch (error) {
    page.dialog.fill("#export-state", `▲ ${(error as Error).message}`);
  }
}

/** Keeps a picture of the charts near the window, drawn by charts of a kind. */
export async function savePicture(page: Page, Kind: ChartKind): Promise<void> {
  page.dialog.fill("#export-state", "Drawing…");
  try {
    await drawPicture(page, Kind, `${fileName(page)}.png`);
    page.dialog.fill("#export-state", "Done.");
  } catch (error) {
    page.dialog.fill("#export-state", `▲ ${(error as Error).message}`);
  }
}

/** Offers a file to be kept. */
function saveFile(content: Blob, name: string): void {
  const link = document.createElement("a");
  const address = URL.createObjectURL(content);
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** Draws the charts into a picture and offers it. */
async function drawPicture(page: Page, Kind: ChartKind, name: string): Promise<void> {
  const panels = page.grid.near.filter((panel) => panel.picture).slice(0, 12);
  if (!panels.length) throw new Error("there is no chart to draw");
  const columns = panels.length > 1 ? 2 : 1;
  const rows = Math.ceil(panels.length / columns);
  const [width, height] = [columns * (WIDE + GAP) + GAP, HEAD + rows * (HIGH + TRUTH + 24 + GAP) + legendHeight(page)];
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width * SIZE, height * SIZE];
  const ctx = canvas.getContext("2d");
  if (!ctx) throw new Error("this browser draws no pictures");
  ctx.scale(SIZE, SIZE);
  const colours = palette();
  ctx.fillStyle = colours.card;
  ctx.fillRect(0, 0, width, height);
  const text = (words: string, x: number, y: number, font: string, colour: string, most: number) => {
    ctx.font = `${font} system-ui, "DejaVu Sans", sans-serif`;
    ctx.fillStyle = colour;
    ctx.fillText(fitting(ctx, words, most), x, y);
  };
  const { screen } = page;
  if (screen) {
    const words = [screen.status.word, ...screen.status.lines.map((line) => line.text)].join(" · ");
    text(cut(screen.row.name, 120), GAP, 28, "600 18px", colours.ink, width - 2 * GAP);
    text(words, GAP, 50, "13px", colours.ink, width - 2 * GAP);
    text(`asynchub · ${moment(screen.time)}`, GAP, 70, "12px", colours.mute, width - 2 * GAP);
  }
  const place = h("div", { class: "offstage" });
  document.body.append(place);
  try {
    panels.forEach((panel, at) => {
      const [x, y] = [GAP + (at % columns) * (WIDE + GAP), HEAD + Math.floor(at / columns) * (HIGH + TRUTH + 24 + GAP)];
      const ratio = devicePixelRatio || 1;
      const chart = new Kind(
        place,
        page.state.now.axis,
        (WIDE * SIZE) / ratio,
        (HIGH * SIZE) / ratio,
        colours,
        { zoomed() {}, pointed() {}, picked() {} },
        SIZE / ratio,
      );
      chart.draw(panel.picture!);
      text(panel.key, x, y + 14, "600 13px", colours.ink, WIDE);
      ctx.drawImage(chart.canvas, x, y + 20, WIDE, HIGH);
      const truth = panel.picture!.drawing.footer;
      ctx.font = `11px system-ui, "DejaVu Sans", sans-serif`;
      wrapped(ctx, truth, WIDE, 2).forEach((line, row) =>
        text(line, x, y + 20 + HIGH + 14 + row * 14, "11px", colours.mute, WIDE),
      );
      chart.destroy();
    });
  } finally {
    place.remove();
  }
  let [x, y] = [GAP, height - legendHeight(page) + 8];
  for (const run of page
    .drawn()
    .reverse()
    .filter((one) => one.rank > 0)) {
    [ctx.strokeStyle, ctx.lineWidth] = [run.colour, 3];
    ctx.setLineDash(DASHES[run.dash % DASHES.length]!);
    ctx.beginPath();
    ctx.moveTo(x, y + 1);
    ctx.lineTo(x + 20, y + 1);
    ctx.stroke();
    ctx.setLineDash([]);
    text(run.name, x + 24, y + 5, "12px", colours.ink, 280);
    x += 320;
    if (x + 300 > width) [x, y] = [GAP, y + 20];
  }
  const content = await new Promise<Blob | null>((done) => canvas.toBlob(done, "image/png"));
  if (!content) throw new Error("the picture is too large for this browser");
  saveFile(content, name);
}

function legendHeight(page: Page): number {
  return 24 + Math.ceil(page.drawn().filter((run) => run.rank > 0).length / 4) * 20;
}

function fitting(ctx: CanvasRenderingContext2D, words: string, most: number): string {
  let shown = words.slice(0, 1000);
  while (shown.length > 1 && ctx.measureText(shown).width > most)
    shown = `${shown.slice(0, Math.floor(shown.length * 0.95) - 1)}…`;
  return shown;
}

function wrapped(ctx: CanvasRenderingContext2D, words: string, most: number, rows: number): string[] {
  const lines: string[] = [""];
  for (const word of words.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (ctx.measureText(longer).width <= most || lines.length >= rows) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines;
}

function fileName(page: Page): string {
  return (page.screen?.row.name ?? "run").replace(/[^\w.-]+/g, "_").slice(0, 60) || "run";
}
