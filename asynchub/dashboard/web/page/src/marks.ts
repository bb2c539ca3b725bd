/**
 * What stands on the curves: decisions, values that are not finite, values beyond the edge, what a rule would do.
 *
 * Lanes: above the plot, decisions in the upper lane, carets and gaps in the lower one. A text that would cover another
 *     is left out; its sign stays, and what it says is shown when the pointer is on it.
 */

import { xOf, yOf, type Scale } from "./brush";
import type { Palette, Picture } from "./chart";
import type { Mark } from "./contract";

export interface Flag {
  x: number;
  /** To stand beside its sign. */
  label: string;
  text: string;
  mark: Mark | null;
  /** Of a rule that is tried: the run's. */
  colour: string | null;
}

/** Something on the canvas that can be pointed at, in pixels of the device. */
export interface Spot {
  x: number;
  y: number;
  left: number;
  right: number;
  text: string;
  marks: Mark[];
  /** Whether it has a line through the plot. */
  line: boolean;
}

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
  flags(ctx, scale, picture, unit, spots);
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

  /** Whether a text from there on is free. */
  free(left: number, wide: number): boolean {
    return this.taken.every(([from, to]) => left > to + APART * this.unit || left + wide < from - APART * this.unit);
  }

  take(left: number, wide: number): void {
    this.taken.push([left, left + wide]);
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

function flags(ctx: CanvasRenderingContext2D, scale: Scale, picture: Picture, unit: number, spots: Spot[]): void {
  const { palette } = picture;
  const seen = picture.flags
    .map((flag) => ({ flag, x: xOf(scale, flag.x) }))
    .filter(({ x }) => x >= scale.left - 1 && x <= scale.left + scale.width + 1)
    .sort((a, b) => a.x - b.x);
  const groups: (typeof seen)[] = [];
  for (const one of seen) {
    const last = groups.at(-1);
    const alike = last && !one.flag.colour && !last[0]!.flag.colour;
    if (alike && one.x - last.at(-1)!.x < 5 * unit) last.push(one);
    else groups.push([one]);
  }
  const y = scale.top - 20 * unit;
  const lane = new Lane(ctx, scale, y, unit, spots);
  const foot = new Lane(ctx, scale, scale.top + scale.height - 5 * unit, unit, spots);
  for (const group of groups) {
    const { flag, x } = group[0]!;
    const colour = flag.colour ?? colourOf(flag.mark, palette);
    const snapped = Math.round(x) + (Math.round(unit) % 2 ? 0.5 : 0);
    ctx.strokeStyle = colour;
    ctx.lineWidth = unit;
    ctx.globalAlpha = flag.colour ? 0.9 : 0.65;
    ctx.setLineDash(flag.colour ? [5 * unit, 3 * unit] : [2 * unit, 3 * unit]);
    ctx.beginPath();
    ctx.moveTo(snapped, flag.mark ? y + 3 * unit : scale.top);
    ctx.lineTo(snapped, scale.top + scale.height);
    ctx.stroke();
    ctx.setLineDash([]);
    ctx.globalAlpha = 1;
    const text = group.length > 1 ? `${flag.label} +${group.length - 1}`.trim() : flag.label;
    const whole = group.map(({ flag: one }) => one.text).join("\n");
    const wide = ctx.measureText(text).width;
    if (!flag.mark) {
      ctx.fillStyle = colour;
      foot.put(x, text, colour, palette, x + wide + 12 * unit > scale.left + scale.width ? -wide - 4 * unit : 4 * unit);
      continue;
    }
    sign(ctx, flag.mark, snapped, y, colour, palette, unit);
    const right = snapped + 8 * unit;
    const left = right + wide < scale.left + scale.width + 8 * unit ? right : snapped - 8 * unit - wide;
    const from = Math.min(left, snapped - 6 * unit);
    const size = Math.max(left + wide, snapped + 6 * unit) - from;
    const free = text !== "" && lane.free(from, size);
    lane.take(free ? from : snapped - 5 * unit, free ? size : 10 * unit);
    if (free) {
      ctx.fillStyle = palette.mute;
      ctx.fillText(text, left, y + 3.5 * unit);
    }
    const marks = group.map(({ flag: one }) => one.mark).filter((mark): mark is Mark => mark !== null);
    const [a, b] = free ? [from, from + size] : [snapped - 6 * unit, snapped + 6 * unit];
    spots.push({ x: snapped, y, left: a, right: b, text: whole, marks, line: true });
  }
}

function colourOf(mark: Mark | null, palette: Palette): string {
  if (mark?.kind === "failed" || mark?.kind === "refused") return palette.bad;
  if (mark?.kind === "manual") return palette.accent;
  return palette.mute;
}

/** Solid: it was done. Hollow: it was suggested, or refused. A person: by one. */
function sign(
  ctx: CanvasRenderingContext2D,
  mark: Mark,
  x: number,
  y: number,
  colour: string,
  palette: Palette,
  unit: number,
): void {
  ctx.fillStyle = colour;
  ctx.strokeStyle = colour;
  ctx.lineWidth = 1.4 * unit;
  const size = 4.5 * unit;
  if (mark.kind === "manual") {
    ctx.beginPath();
    ctx.arc(x, y - 2.4 * unit, 2.3 * unit, 0, 2 * Math.PI);
    ctx.fill();
    ctx.beginPath();
    ctx.arc(x, y + 5 * unit, 4.4 * unit, Math.PI, 2 * Math.PI);
    ctx.fill();
  } else if (mark.kind === "resumed") {
    ctx.beginPath();
    ctx.arc(x, y, 3.6 * unit, -0.6 * Math.PI, 1.1 * Math.PI);
    ctx.stroke();
    triangle(ctx, x - 3 * unit, y - 1.6 * unit, 4 * unit, true);
  } else if (mark.kind === "failed") {
    ctx.beginPath();
    ctx.moveTo(x - size * 0.8, y - size * 0.8);
    ctx.lineTo(x + size * 0.8, y + size * 0.8);
    ctx.moveTo(x + size * 0.8, y - size * 0.8);
    ctx.lineTo(x - size * 0.8, y + size * 0.8);
    ctx.lineWidth = 2 * unit;
    ctx.stroke();
  } else {
    const solid = mark.kind === "acted";
    if (!solid) {
      ctx.fillStyle = palette.card;
      triangle(ctx, x, y + size, -size * 1.8, true);
    }
    ctx.fillStyle = colour;
    triangle(ctx, x, y + size, -size * 1.8, solid);
  }
}

/** A triangle whose tip is at a place and which is as high as given, downwards if that is positive. */
function triangle(ctx: CanvasRenderingContext2D, x: number, y: number, height: number, solid: boolean): void {
  const half = Math.abs(height) * 0.62;
  ctx.beginPath();
  ctx.moveTo(x, y);
  ctx.lineTo(x - half, y + height);
  ctx.lineTo(x + half, y + height);
  ctx.closePath();
  if (solid) ctx.fill();
  else ctx.stroke();
}

/** Returns how far a place on the canvas is from the line of a series, in pixels of the device. */
export function distance(scale: Scale, low: number, high: number, mean: number, py: number): number {
  if (Number.isNaN(high)) return Number.POSITIVE_INFINITY;
  const [top, bottom, line] = [yOf(scale, high), yOf(scale, low), yOf(scale, Number.isNaN(mean) ? high : mean)];
  if (py >= top && py <= bottom) return Math.abs(py - line) * 0.25;
  return Math.min(Math.abs(py - top), Math.abs(py - bottom));
}
