/** What is under the pointer: the nearest run first, at most eight, never beyond the edge of the window. */

import { lowerBound, middle, xOf } from "./brush";
import type { Chart, DrawnRun, Pointed } from "./chart";
import { cut, h, morph } from "./dom";
import { number, whole } from "./format";
import { distance } from "./marks";
import { type Panel, placeInWords } from "./panel";
import { swatch } from "./shapes";
import type { Series } from "./wire";

const MOST_ROWS = 8;
const MOST_LINES = 6;
const NEAR_PIXELS = 40;

interface Hit {
  run: DrawnRun;
  series: Series;
  row: number;
  far: number;
}

/** Returns the runs at a place, the nearest first. */
export function hits(panel: Panel, chart: Chart, runs: DrawnRun[], at: Pointed): Hit[] {
  const scale = chart.scale();
  const ratio = devicePixelRatio || 1;
  const found: Hit[] = [];
  for (const run of runs) {
    const series = panel.series(run.id);
    if (!series?.x.length) continue;
    const row = nearestRow(series, at.x);
    const off = Math.abs(xOf(scale, middle(series, row)) - at.px);
    const within = series.x[row]! <= at.x && at.x < series.x[row]! + series.width;
    const reach = NEAR_PIXELS * ratio;
    if (off > reach && !within && isOutside(series, at.x)) continue;
    const far = distance(scale, series.low[row]!, series.high[row]!, series.smooth?.[row] ?? series.mean[row]!, at.py);
    found.push({ run, series, row, far: Number.isFinite(far) ? far : 1e9 });
  }
  return found.sort((a, b) => a.far - b.far);
}

function isOutside(series: Series, x: number): boolean {
  const last = series.x.length - 1;
  return x < series.x[0]! || x > series.x[last]! + series.width;
}

/** Returns the row whose bucket a place is in, or the nearest one. */
function nearestRow(series: Series, x: number): number {
  const { x: places } = series;
  if (!series.monotone) {
    let best = 0;
    for (let row = 1; row < places.length; row++)
      if (Math.abs(places[row]! - x) < Math.abs(places[best]! - x)) best = row;
    return best;
  }
  const after = lowerBound(places, x);
  if (after < places.length && places[after] === x) return after;
  if (after === 0) return 0;
  if (after >= places.length || Number.isNaN(places[after]!)) return after - 1;
  if (!series.single && series.axis === "step")
    return x < places[after - 1]! + series.width ? after - 1 : nearer(places, after, x);
  return nearer(places, after, x);
}

function nearer(places: Float64Array, after: number, x: number): number {
  return x - places[after - 1]! <= places[after]! - x ? after - 1 : after;
}

export class Tooltip {
  private readonly box = h("div", { class: "tooltip", role: "tooltip", hidden: true });

  constructor() {
    document.body.append(this.box);
  }

  hide(): void {
    this.box.hidden = true;
  }

  show(found: Hit[], at: Pointed): void {
    if (!found.length && !at.spot) {
      this.hide();
      return;
    }
    const first = found[0];
    const said = at.spot?.text.split("\n") ?? [];
    const shown = said.length > MOST_LINES ? said.slice(0, MOST_LINES - 1) : said;
    const lines = shown.map((text) => h("p", { class: "spot" }, cut(text, 200)));
    if (said.length > shown.length) lines.push(h("p", {}, `and ${whole(said.length - shown.length)} more: click`));
    const rows = found
      .slice(0, MOST_ROWS)
      .map(({ run, series, row }) =>
        h(
          "tr",
          {},
          h("td", {}, swatch(run.colour, run.dash)),
          h("td", { class: "who" }, h("bdi", {}, cut(run.name, 60))),
          h("td", { class: "value" }, valueInWords(series, row)),
          h("td", { class: "mute" }, rangeInWords(series, row)),
        ),
      );
    const more = found.length - MOST_ROWS;
    morph(this.box, [
      ...lines,
      first ? h("p", { class: "mute" }, placeOf(first)) : null,
      rows.length ? h("table", {}, h("tbody", {}, ...rows)) : null,
      more > 0 ? h("p", { class: "mute" }, `${whole(more)} more`) : null,
    ]);
    this.box.hidden = false;
    this.place(at);
  }

  private place(at: Pointed): void {
    const { width, height } = this.box.getBoundingClientRect();
    const [wide, high] = [document.documentElement.clientWidth, window.innerHeight];
    let left = at.left + 16;
    if (left + width > wide - 8) left = at.left - width - 16;
    let top = at.top + 16;
    if (top + height > high - 8) top = at.top - height - 16;
    this.box.style.left = `${Math.max(8, Math.min(left, wide - width - 8))}px`;
    this.box.style.top = `${Math.max(8, Math.min(top, high - height - 8))}px`;
  }
}

function placeOf({ series, row }: Hit): string {
  const place = placeInWords(series, row);
  if (series.axis === "step") return `step ${place}`;
  return series.step ? `${place} · step ${whole(series.step[row]!)}` : place;
}

function valueInWords(series: Series, row: number): string {
  const value = series.smooth?.[row] ?? series.mean[row]!;
  return number(Number.isNaN(value) && !Number.isNaN(series.high[row]!) ? series.high[row]! : value);
}

function rangeInWords(series: Series, row: number): string {
  const parts = [];
  if (!series.single && !Number.isNaN(series.high[row]!))
    parts.push(`${number(series.low[row]!)} to ${number(series.high[row]!)}`);
  if (series.lower && series.upper) parts.push(`runs ${number(series.lower[row]!)} to ${number(series.upper[row]!)}`);
  if (series.single && series.smooth) parts.push(`raw ${number(series.mean[row]!)}`);
  if (series.bad[row]!) parts.push(`◆ ${whole(series.bad[row]!)} not finite`);
  return parts.join(" · ");
}
