/**
 * What stands on the curves: decisions, values that are not finite, values beyond the edge, what a rule would do.
 *
 * Lanes: above the plot, decisions in the upper lane (`signs.ts`), carets and gaps in the lower one. A text that would
 *     cover another is left out; its sign stays, and what it says is shown when the pointer is on it.
 */

import { xOf, yOf, type Scale } from "./brush";
import type { Palette, Picture } from "./chart";
import { triangle } from "./shapes";
import { drawSigns, type Spot } from "./signs";

const APART = 7;

/** Draws all of it; returns what can be pointed at. */
export function drawMarks(ctx: CanvasRenderingContext2D, scale: Scale, picture: Picture, unit: number): Spot[] {
  const spots: Spot[] = [];
  ctx.save();
  ctx.font = `${11 * unit}px system-ui, "DejaVu Sans", sans-serif`;
  ctx.textBaseline = "alphabetic";
  ctx.textAlign = "left"; // uPlot has left it as its axes want it
  const colours = new Map(picture.runs.map((run) => [run.id, run.colour]));
  const lower = new Lane(ctx, scale, scale.top - 5 * unit, unit, spots);
  for (const gap of picture.drawing.gaps) {
    const [from, to] = [xOf(scale, gap.x0), xOf(scale, gap.x1)];
    if (to < scale.left - 1 || from > scale.left + scale.width + 1) continue;
    const left = Math.max(scale.left, Math.floor(from));
    const width = Math.max(2 * unit, Math.min(to, scale.left + scale.width) - left);
    ctx.fillStyle = picture.palette.bad;
    ctx.fillRect(left, scale.top, width, 4 * unit);
    ctx.globalAlpha = 0.14;
    ctx.fillRect(left, scale.top, width, scale.height);
    ctx.globalAlpha = 1;
    lower.put(left + width / 2, gap.text, picture.palette.bad, picture.palette);
  }
  for (const caret of picture.drawing.carets) {
    const x = xOf(scale, caret.x);
    if (x < scale.left - 1 || x > scale.left + scale.width + 1) continue;
    const y = caret.top ? scale.top : scale.top + scale.height;
    ctx.fillStyle = colours.get(caret.run) ?? picture.palette.bad;
    triangle(ctx, x, y + (caret.top ? 1 : -1) * unit, (caret.top ? 5 : -5) * unit, true);
    if (caret.top) lower.put(x, caret.text, picture.palette.bad, picture.palette);
    else atBottom(ctx, scale, x, caret.text, picture.palette, unit, spots);
  }
  trials(ctx, scale, picture, unit, spots);
  drawSigns(ctx, scale, picture.flags, picture.palette, unit, spots);
  ctx.restore();
  return spots;
}

/** Texts next to each other in one line. */
class Lane {
  private readonly taken: [number, number][] = [];

  constructor(
    private readonly ctx: CanvasRenderingContext2D,
    private readonly scale: Scale,
    private readonly y: number,
    private readonly unit: number,
    private readonly spots: Spot[],
  ) {}

  put(x: number, text: string, colour: string, palette: Palette, shift = 0): void {
    const wide = this.ctx.measureText(text).width;
    const room: [number, number] = [
      this.scale.left - 40 * this.unit,
      this.scale.left + this.scale.width + 8 * this.unit,
    ];
    const left = Math.max(room[0], Math.min(room[1] - wide, shift ? x + shift : x - wide / 2));
    const free = this.taken.every(
      ([from, to]) => left > to + APART * this.unit || left + wide < from - APART * this.unit,
    );
    if (free) {
      this.ctx.lineWidth = 3 * this.unit;
      this.ctx.strokeStyle = palette.card;
      this.ctx.strokeText(text, left, this.y);
      this.ctx.fillStyle = colour;
      this.ctx.fillText(text, left, this.y);
      this.taken.push([left, left + wide]);
    }
    const reach = 6 * this.unit;
    const [from, to] = free ? [left, left + wide] : [x - reach, x + reach];
    this.spots.push({ x, y: this.y - 4 * this.unit, left: from, right: to, text, marks: [], line: false });
  }
}

function atBottom(
  ctx: CanvasRenderingContext2D,
  scale: Scale,
  x: number,
  text: string,
  palette: Palette,
  unit: number,
  spots: Spot[],
): void {
  const y = scale.top + scale.height - 9 * unit;
  const wide = ctx.measureText(text).width;
  const left = Math.max(scale.left + 2, Math.min(scale.left + scale.width - wide - 2, x - wide / 2));
  const covered = spots.some(
    (spot) => spot.y === y && left < spot.right + 4 * unit && left + wide > spot.left - 4 * unit,
  );
  if (!covered) {
    ctx.lineWidth = 3 * unit;
    ctx.strokeStyle = palette.card;
    ctx.strokeText(text, left, y);
    ctx.fillStyle = palette.bad;
    ctx.fillText(text, left, y);
  }
  spots.push({
    x,
    y,
    left: covered ? x - 5 * unit : left,
    right: covered ? x + 5 * unit : left + wide,
    text,
    marks: [],
    line: false,
  });
}

/** Draws where a rule that is tried would have stopped the runs. */
function trials(ctx: CanvasRenderingContext2D, scale: Scale, picture: Picture, unit: number, spots: Spot[]): void {
  const foot = new Lane(ctx, scale, scale.top + scale.height - 5 * unit, unit, spots);
  for (const { x: at, label, mark, colour } of picture.flags) {
    const x = xOf(scale, at);
    if (mark || x < scale.left - 1 || x > scale.left + scale.width + 1) continue;
    const snapped = Math.round(x) + (Math.round(unit) % 2 ? 0.5 : 0);
    ctx.strokeStyle = colour;
    ctx.lineWidth = unit;
    ctx.globalAlpha = 0.9;
    ctx.setLineDash([5 * unit, 3 * unit]);
    ctx.beginPath();
    ctx.moveTo(snapped, scale.top);
    ctx.lineTo(snapped, scale.top + scale.height);
    ctx.stroke();
    ctx.setLineDash([]);
    ctx.globalAlpha = 1;
    const wide = ctx.measureText(label).width;
    const isAtEdge = x + wide + 12 * unit > scale.left + scale.width;
    foot.put(x, label, colour, picture.palette, isAtEdge ? -wide - 4 * unit : 4 * unit);
  }
}

/** Returns how far a place on the canvas is from the line of a series, in pixels of the device. */
export function distance(scale: Scale, low: number, high: number, mean: number, py: number): number {
  if (Number.isNaN(high)) return Number.POSITIVE_INFINITY;
  const [top, bottom, line] = [yOf(scale, high), yOf(scale, low), yOf(scale, Number.isNaN(mean) ? high : mean)];
  if (py >= top && py <= bottom) return Math.abs(py - line) * 0.25;
  return Math.min(Math.abs(py - top), Math.abs(py - bottom));
}
