/**
 * The decisions above a chart, and how they share the room.
 *
 * Signs: one a decision, in the colour of its run. Of three or more of one kind that stand close together there is one
 *     bar, with how many they are; each keeps its line through the plot.
 * Texts: where there is room until the next sign and the edge, and nowhere else. What every sign is about is said when
 *     the pointer is on it.
 */

import { xOf, type Scale } from "./brush";
import type { Palette } from "./chart";
import type { Mark } from "./contract";
import { triangle } from "./shapes";

export interface Flag {
  x: number;
  /** To stand beside its sign. */
  label: string;
  text: string;
  /** null: of a rule that is tried. */
  mark: Mark | null;
  /** Of the run it is about. */
  colour: string;
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

interface Placed {
  flag: Flag;
  mark: Mark;
  x: number;
}

interface Group {
  all: Placed[];
  colour: string;
  /** Where its signs begin and end. */
  from: number;
  to: number;
}

/** Closer than this many CSS pixels they are one sign; three or more that are closer than the other are one bar. */
const [SAME, CLOSE] = [5, 22];
const HALF = 6;
const APART = 6;
/** Kinds whose texts get the room first. */
const FIRST: Mark["kind"][] = ["failed", "refused", "manual", "resumed"];

/** Draws the decisions; adds what can be pointed at to `spots`. */
export function drawSigns(
  ctx: CanvasRenderingContext2D,
  scale: Scale,
  flags: Flag[],
  palette: Palette,
  unit: number,
  spots: Spot[],
): void {
  const y = scale.top - 20 * unit;
  const groups = grouped(placed(flags, scale), palette, unit);
  const room = [scale.left - 40 * unit, scale.left + scale.width + 10 * unit] as const;
  const taken: [number, number][] = groups.map(({ from, to }) => [from, to]);
  const texts: (() => void)[] = [];
  for (const group of [...groups].sort((a, b) => rank(a) - rank(b) || a.from - b.from)) {
    const text = textOf(group);
    const wide = ctx.measureText(text).width;
    const left = text ? placeFor(group, wide, taken, room, unit) : null;
    if (left === null) continue;
    const isInside = left > group.from && left + wide < group.to;
    if (!isInside) taken.push([left, left + wide]);
    spots.push(spotOf(group.all, left, left + wide, y));
    texts.push(() => {
      ctx.fillStyle = palette.card;
      if (isInside) ctx.fillRect(left - 4 * unit, y - 8 * unit, wide + 8 * unit, 14 * unit);
      ctx.fillStyle = palette.mute;
      ctx.fillText(text, left, y + 3.5 * unit);
    });
  }
  for (const group of groups) {
    drawGroup(ctx, scale, group, y, palette, unit);
    for (const some of chained(group.all, SAME * unit))
      spots.push({ ...spotOf(some, some[0]!.x - HALF * unit, some.at(-1)!.x + HALF * unit, y), line: true });
  }
  for (const write of texts) write();
}

function placed(flags: Flag[], scale: Scale): Placed[] {
  const found: Placed[] = [];
  for (const flag of flags) {
    const x = xOf(scale, flag.x);
    if (flag.mark && x >= scale.left - 1 && x <= scale.left + scale.width + 1) found.push({ flag, mark: flag.mark, x });
  }
  return found.sort((a, b) => a.x - b.x);
}

/** Puts together what stands close: first what says the same, then what is left between that. */
function grouped(all: Placed[], palette: Palette, unit: number): Group[] {
  const found: Placed[][] = [];
  let rest: Placed[] = [];
  const put = () => {
    for (const some of chained(rest, CLOSE * unit)) found.push(...(some.length > 2 ? [some] : chained(some, SAME * unit)));
    rest = [];
  };
  for (const some of chained(all, CLOSE * unit, isAlike)) {
    if (some.length > 2) {
      put();
      found.push(some);
    } else rest.push(...some);
  }
  put();
  return found.map((some) => ({
    all: some,
    colour: colourOf(some[0]!, palette),
    from: some[0]!.x - HALF * unit,
    to: some.at(-1)!.x + HALF * unit,
  }));
}

/** Puts neighbours together that are nearer than given and belong together; by themselves: those of one kind. */
function chained(all: Placed[], near: number, belong = isOfKind): Placed[][] {
  const found: Placed[][] = [];
  for (const one of all) {
    const last = found.at(-1)?.at(-1);
    if (last && one.x - last.x < near && belong(last, one)) found.at(-1)!.push(one);
    else found.push([one]);
  }
  return found;
}

function isOfKind(one: Placed, other: Placed): boolean {
  return one.mark.kind === other.mark.kind;
}

function isAlike(one: Placed, other: Placed): boolean {
  return isOfKind(one, other) && one.flag.label === other.flag.label;
}

function rank({ all }: Group): number {
  const at = FIRST.indexOf(all[0]!.mark.kind);
  return at < 0 ? FIRST.length : at;
}

function textOf({ all }: Group): string {
  const { label } = all[0]!.flag;
  if (all.length === 1) return label;
  return label && all.every(({ flag }) => flag.label === label) ? `${all.length}× ${label}` : `${all.length} decisions`;
}

/** Returns where a text begins: on its bar, to the right of its sign, to the left; null: it has no room. */
function placeFor(
  { from, to }: Group,
  wide: number,
  taken: [number, number][],
  [low, high]: readonly [number, number],
  unit: number,
): number | null {
  if (to - from > wide + 36 * unit) return (from + to - wide) / 2;
  const [right, left] = [to + 2 * unit, from - 2 * unit - wide];
  const free = (at: number) =>
    at >= low &&
    at + wide <= high &&
    taken.every(([a, b]) => (a === from && b === to) || at > b + APART * unit || at + wide < a - APART * unit);
  return free(right) ? right : free(left) ? left : null;
}

function spotOf(all: Placed[], left: number, right: number, y: number): Spot {
  const text = all.map(({ flag }) => flag.text).join("\n");
  return { x: all[0]!.x, y, left, right, text, marks: all.map(({ mark }) => mark), line: false };
}

function drawGroup(
  ctx: CanvasRenderingContext2D,
  scale: Scale,
  { all, colour, from, to }: Group,
  y: number,
  palette: Palette,
  unit: number,
): void {
  const [first, last] = [all[0]!, all.at(-1)!];
  const isBar = to - from > (CLOSE + 2 * HALF) * unit;
  ctx.strokeStyle = colour;
  ctx.lineWidth = unit;
  ctx.globalAlpha = isBar ? 0.4 : 0.75;
  ctx.setLineDash([2 * unit, 3 * unit]);
  ctx.beginPath();
  let before = Number.NEGATIVE_INFINITY;
  for (const { x } of all) {
    const snapped = snap(x, unit);
    if (snapped - before < 2 * unit) continue; // those on one pixel are one line
    ctx.moveTo(snapped, y + 4 * unit);
    ctx.lineTo(snapped, scale.top + scale.height);
    before = snapped;
  }
  ctx.stroke();
  ctx.setLineDash([]);
  ctx.globalAlpha = 1;
  if (isBar) {
    ctx.fillStyle = colour;
    ctx.fillRect(first.x, y - 1.5 * unit, last.x - first.x, 1.5 * unit);
    sign(ctx, last.mark, snap(last.x, unit), y, colour, palette, unit);
  }
  sign(ctx, first.mark, snap(first.x, unit), y, colour, palette, unit);
}

function snap(x: number, unit: number): number {
  return Math.round(x) + (Math.round(unit) % 2 ? 0.5 : 0);
}

function colourOf({ mark, flag }: Placed, palette: Palette): string {
  if (mark.kind === "failed" || mark.kind === "refused") return palette.bad;
  return mark.kind === "manual" ? palette.accent : flag.colour;
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
