/**
 * How curves are put on a canvas.
 *
 * Strokes: each bucket is one stroke from its smallest to its largest value, as wide as the bucket and at least one
 *     pixel of the device wide and high, so that a single value among a million is seen.
 * Line: through the means, or through what was smoothed; broken where there is no finite value.
 * Edges: what reaches beyond the chart is cut at its edge; that it does is said by the carets of the drawing.
 */

import type { Series, Values } from "./wire";

/** Points of a dense line that are drawn at once. */
const PIECE = 16;

/** From values to pixels of the device. */
export interface Scale {
  left: number;
  top: number;
  width: number;
  height: number;
  xLow: number;
  xHigh: number;
  yLow: number;
  yHigh: number;
  log: boolean;
}

export interface Look {
  colour: string;
  dash: number[];
  /** How wide the line is, in pixels of the device. */
  line: number;
  /** How opaque strokes are; 0 for none. */
  strokes: number;
  /** How opaque the line is. */
  opaque: number;
}

export function xOf(scale: Scale, value: number): number {
  return scale.left + ((value - scale.xLow) / (scale.xHigh - scale.xLow)) * scale.width;
}

export function yOf(scale: Scale, value: number): number {
  const place = scale.log
    ? value > 0
      ? Math.log(value / scale.yLow) / Math.log(scale.yHigh / scale.yLow)
      : Number.NEGATIVE_INFINITY // at the bottom edge
    : (value - scale.yLow) / (scale.yHigh - scale.yLow);
  return scale.top + (1 - place) * scale.height;
}

/** Returns where the middle of a bucket is on the axis. */
export function middle(series: Series, row: number): number {
  const x = series.x[row]!;
  if (series.single || series.width === 1) return x;
  return series.axis === "step" ? x + (series.width - 1) / 2 : x;
}

/** Returns the rows that may be seen: from the one before the left edge to the one after the right edge. */
export function inView(series: Series, scale: Scale): [number, number] {
  const { x } = series;
  if (!series.monotone) return [0, x.length];
  const from = lowerBound(x, scale.xLow - (series.axis === "step" ? series.width : 0));
  const to = lowerBound(x, scale.xHigh);
  return [Math.max(0, from - 1), Math.min(x.length, to + 2)];
}

/** Returns the first index whose number is not below the given one; NaN counts as above. */
export function lowerBound(numbers: Float64Array, value: number): number {
  let [low, high] = [0, numbers.length];
  while (low < high) {
    const half = (low + high) >> 1;
    if (numbers[half]! < value) low = half + 1;
    else high = half;
  }
  return low;
}

/**
 * Draws the strokes of buckets; of single values there are none.
 *
 * Buckets that share a column of pixels are one stroke there, so that none is drawn over another.
 */
export function drawStrokes(ctx: CanvasRenderingContext2D, series: Series, scale: Scale, look: Look): void {
  if (series.single || look.strokes === 0) return;
  const [from, to] = inView(series, scale);
  const { low, high, x } = series;
  const [top, bottom] = [scale.top - 2, scale.top + scale.height + 2];
  const wide = series.axis === "step" ? series.width : 0;
  ctx.globalAlpha = look.strokes;
  ctx.fillStyle = look.colour;
  let [left, right, upper, lower] = [0, Number.NEGATIVE_INFINITY, 0, 0];
  const put = () => {
    if (right > left) ctx.fillRect(left, upper, right - left, Math.max(1, lower - upper));
  };
  for (let row = from; row < to; row++) {
    if (Number.isNaN(high[row]!) || Number.isNaN(x[row]!)) continue;
    const begin = Math.floor(xOf(scale, x[row]!));
    const end = Math.max(
      begin + 1,
      wide ? Math.floor(xOf(scale, x[row]! + wide)) : endByNext(series, row, scale, begin),
    );
    const y1 = Math.floor(Math.max(top, Math.min(bottom, yOf(scale, high[row]!))));
    const y0 = Math.ceil(Math.max(top, Math.min(bottom, yOf(scale, low[row]!))));
    if (begin < right && begin >= left) {
      upper = Math.min(upper, y1);
      lower = Math.max(lower, y0);
      if (end <= right) continue;
      put();
      left = right;
    } else {
      put();
      left = begin;
    }
    [right, upper, lower] = [end, y1, y0];
  }
  put();
  ctx.globalAlpha = 1;
}

/** Of an axis on which buckets differ in width: where the next one begins, if that is near. */
function endByNext(series: Series, row: number, scale: Scale, begin: number): number {
  const next = series.x[row + 1];
  if (next === undefined || !(next >= series.x[row]!)) return begin + 1;
  const end = Math.floor(xOf(scale, next));
  return end - begin < 24 ? end : begin + 1;
}

/** Draws the line, with dots where values are alone or far apart. */
export function drawLine(ctx: CanvasRenderingContext2D, series: Series, scale: Scale, look: Look, ratio: number): void {
  const [from, to] = inView(series, scale);
  const smooth = series.smooth;
  const line = smooth ?? series.mean;
  const [top, bottom] = [scale.top - 4 * look.line, scale.top + scale.height + 4 * look.line];
  const sparse = series.single && (to - from) * 7 * ratio < scale.width;
  const dots: number[] = [];
  // along the axis, not along the line: of a noisy line dashes would be dust. Where the line is all that there is, a
  // spike must not fall between two dashes; where points are far apart, dashes are shorter than the way between them
  const isDense = !series.single && (to - from) * 3 * ratio > scale.width;
  const dashes = isDense ? new Dashes(look.dash, scale.left) : null;
  // several buckets to a pixel have one point: their mean; what they reach, the strokes show
  const each = series.single ? 1 : Math.max(1, Math.floor((to - from) / scale.width));
  ctx.strokeStyle = look.colour;
  ctx.lineWidth = look.line;
  ctx.lineJoin = isDense ? "bevel" : "round";
  ctx.setLineDash(isDense ? [] : look.dash);
  ctx.globalAlpha = look.opaque;
  // a browser takes more than twice as long for one long line as for the same in pieces, which must not shine through
  const most = isDense && look.opaque === 1 ? PIECE : Number.POSITIVE_INFINITY;
  let length = 0;
  ctx.beginPath();
  let [before, alone, last] = [false, false, Number.NEGATIVE_INFINITY];
  let [px, py] = [0, 0];
  for (let row = from; row < to; row += each) {
    const x = middle(series, row);
    const value = each === 1 ? line[row]! : meanOf(line, row, Math.min(to, row + each));
    if (
      Number.isNaN(value) ||
      Number.isNaN(x) ||
      (each === 1 && series.bad[row]! > 0 && Number.isNaN(series.low[row]!))
    ) {
      if (alone) dots.push(px, py);
      [before, alone] = [false, false];
      continue;
    }
    if (x < last) {
      // steps, or the clock, go back: another piece begins
      if (alone) dots.push(px, py);
      before = false;
    }
    last = x;
    px = xOf(scale, x);
    py = Math.max(top, Math.min(bottom, yOf(scale, value)));
    const isOn = dashes === null || dashes.on(px);
    if (before && isOn) {
      ctx.lineTo(px, py);
      length += 1;
    }
    if (length === most) {
      ctx.stroke();
      ctx.beginPath();
      length = 0;
    }
    if (length === 0 || !before || !isOn) ctx.moveTo(px, py);
    if (sparse) dots.push(px, py);
    alone = !before;
    before = true;
  }
  if (alone) dots.push(px, py);
  ctx.stroke();
  ctx.globalAlpha = 1;
  ctx.setLineDash([]);
  if (dots.length) drawDots(ctx, dots, look, Math.max(look.line * 1.2, 2 * ratio));
  if (smooth && series.single) drawRaw(ctx, series, scale, look, from, to);
}

/** Returns the mean of what is finite among some numbers; NaN if nothing is. */
function meanOf(numbers: Values, from: number, to: number): number {
  let [sum, count] = [0, 0];
  for (let at = from; at < to; at++) {
    const number = numbers[at]!;
    if (Number.isNaN(number)) continue;
    sum += number;
    count += 1;
  }
  return count ? sum / count : Number.NaN;
}

/** Tells where a dashed line is drawn, by the place on the axis. */
class Dashes {
  private readonly whole: number;

  constructor(
    private readonly lengths: number[],
    private readonly from: number,
  ) {
    this.whole = lengths.reduce((sum, length) => sum + length, 0);
  }

  on(px: number): boolean {
    if (!this.whole) return true;
    let rest = (px - this.from) % this.whole;
    if (rest < 0) rest += this.whole;
    for (let at = 0; at < this.lengths.length; at++) {
      rest -= this.lengths[at]!;
      if (rest < 0) return at % 2 === 0;
    }
    return true;
  }
}

function drawDots(ctx: CanvasRenderingContext2D, dots: number[], look: Look, radius: number): void {
  ctx.beginPath();
  for (let at = 0; at < dots.length; at += 2) {
    ctx.moveTo(dots[at]! + radius, dots[at + 1]!);
    ctx.arc(dots[at]!, dots[at + 1]!, radius, 0, 2 * Math.PI);
  }
  ctx.fillStyle = look.colour;
  ctx.fill();
}

/** Draws the values that a smoothed line is made of. */
function drawRaw(
  ctx: CanvasRenderingContext2D,
  series: Series,
  scale: Scale,
  look: Look,
  from: number,
  to: number,
): void {
  ctx.beginPath();
  let before = false;
  for (let row = from; row < to; row++) {
    const value = series.mean[row]!;
    if (Number.isNaN(value) || Number.isNaN(series.x[row]!)) {
      before = false;
      continue;
    }
    const [px, py] = [xOf(scale, series.x[row]!), yOf(scale, value)];
    if (before) ctx.lineTo(px, py);
    else ctx.moveTo(px, py);
    before = true;
  }
  ctx.globalAlpha = 0.45;
  ctx.lineWidth = Math.max(1, look.line / 2);
  ctx.strokeStyle = look.colour;
  ctx.stroke();
  ctx.globalAlpha = 1;
}
