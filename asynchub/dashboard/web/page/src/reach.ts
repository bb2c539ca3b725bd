/** How far the curves reach on the axis: those of all runs that are drawn, and those of the one that is looked at. */

import type { Axis } from "./contract";
import { Places } from "./places";
import type { Curves } from "./wire";

export type Span = [low: number, high: number];

export class Reach {
  readonly places = new Places();
  all: Span | null = null;
  own: Span | null = null;

  /** Takes in curves. */
  learn(curves: Curves, axis: Axis, runs: Set<string>, main: string): void {
    for (const { series } of curves.charts.values()) {
      this.places.learn(axis, series.values());
      for (const one of series.values()) {
        if (one.axis !== axis || !runs.has(one.run) || !one.x.length) continue;
        const ends = endsOf(one.x, one.monotone);
        if (!ends) continue;
        const isWide = axis === "step" && !one.single;
        const last = isWide ? Math.min(ends[1] + one.width - 1, Math.max(one.stop, ends[1])) : ends[1];
        this.all = spanned(this.all, ends[0], last);
        if (one.run === main) this.own = spanned(this.own, ends[0], last);
      }
    }
  }

  forget(): void {
    [this.all, this.own] = [null, null];
  }
}

/** Returns a span that is not empty. */
export function widened([low, high]: Span): Span {
  return high > low ? [low, high] : [low - 0.5, high + 0.5];
}

/** Returns a span whose ends have no more digits than can be seen. */
export function rounded([low, high]: Span): Span {
  const unit = 10 ** (Math.floor(Math.log10(high - low)) - 5);
  if (!(unit > 0)) return [low, high];
  const digits = Math.max(0, Math.min(20, -Math.round(Math.log10(unit))));
  const [a, b] = [low, high].map((place) => Number((Math.round(place / unit) * unit).toFixed(digits)));
  return b! > a! ? [a!, b!] : [low, high];
}

function spanned(before: Span | null, low: number, high: number): Span {
  return before ? [Math.min(before[0], low), Math.max(before[1], high)] : [low, high];
}

/** Returns the smallest and the largest place that is known. */
function endsOf(x: Float64Array, monotone: boolean): Span | null {
  let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  if (monotone && !Number.isNaN(x[0]!) && !Number.isNaN(x[x.length - 1]!)) return [x[0]!, x[x.length - 1]!];
  for (const place of x) {
    if (place < low) low = place;
    if (place > high) high = place;
  }
  return low <= high ? [low, high] : null;
}
