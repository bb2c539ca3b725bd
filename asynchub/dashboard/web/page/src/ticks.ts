/** Where the ticks of an axis are, and what they say. */

import type uPlot from "uplot";

import type { Axis } from "./contract";
import { compact, duration } from "./format";

/** Returns a tick of a logarithmic axis, given as a power of ten, in words. */
export function powerText(power: number): string {
  const value = 10 ** power;
  if (value >= 1e6 || value < 1e-3)
    return value.toExponential(Number.isInteger(Number(power.toFixed(9))) ? 0 : 1).replace("e+", "e");
  return String(Number(value.toPrecision(3)));
}

/** Returns the powers of ten to be written at a logarithmic axis. */
export function powers(low: number, high: number, most: number): number[] {
  const decades = high - low;
  if (decades > most) {
    const apart = Math.ceil(decades / most);
    return range(Math.ceil(low / apart) * apart, high, apart);
  }
  const factors = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]];
  for (const some of factors) {
    const found = range(Math.floor(low), high, 1)
      .flatMap((power) => some.map((factor) => power + Math.log10(factor)))
      .filter((power) => power >= low - 1e-9 && power <= high + 1e-9);
    if (found.length <= most && found.length >= 2) return found;
  }
  if (decades >= 1) return range(Math.ceil(low), high, 1);
  const [from, to] = [10 ** low, 10 ** high];
  const apart = nice((to - from) / most);
  return range(Math.ceil(from / apart) * apart, to, apart).map((value) => Math.log10(value));
}

function nice(size: number): number {
  const power = 10 ** Math.floor(Math.log10(size));
  return [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= size) ?? size;
}

function range(from: number, to: number, apart: number): number[] {
  const found = [];
  for (let at = 0; from + at * apart <= to + apart * 1e-9 && at < 100; at++)
    found.push(Number((from + at * apart).toPrecision(12)));
  return found;
}

/** Returns how an x axis is divided, and what its ticks say. */
export function xTicks(axis: Axis): Partial<uPlot.Axis> {
  if (axis === "time") return { values: TIMES };
  const text = (values: number[]) => {
    const apart = values.length > 1 ? values[1]! - values[0]! : Math.abs(values[0] ?? 1);
    return values.map((value) => (axis === "relative" ? duration(value) : compact(value, apart)));
  };
  const apart = axis === "step" ? { incrs: wholeIncrements() } : axis === "relative" ? { incrs: SECONDS } : {};
  return { ...apart, values: (_: uPlot, values: number[]) => text(values) };
}

const [DAY, YEAR] = ["\n{YYYY}-{MM}-{DD}", "\n{YYYY}"];

/** What ticks say of a time, as pictures do: by how far they are apart; below, at the first of a day, that. */
const TIMES: (number | string | null)[][] = [
  [365 * 86400, "{YYYY}", null, null, null, null, null, null, 1],
  [28 * 86400, "{YYYY}-{MM}", null, null, null, null, null, null, 1],
  [86400, "{MM}-{DD}", YEAR, null, null, null, null, null, 1],
  [60, "{HH}:{mm}", DAY, null, DAY, null, null, null, 1],
  [1, "{HH}:{mm}:{ss}", DAY, null, DAY, null, null, null, 1],
  [0.001, "{HH}:{mm}:{ss}.{fff}", DAY, null, DAY, null, null, null, 1],
];

/** Apart of which ticks of a duration may be. */
const SECONDS = [
  ...[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30],
  ...[1, 2, 5, 10, 15, 30].map((minutes) => minutes * 60),
  ...[1, 2, 3, 6, 12, 24, 48, 120, 240, 480, 1200, 2400, 4800].map((hours) => hours * 3600),
];

function wholeIncrements(): number[] {
  const found = [];
  for (let power = 0; power < 16; power++) for (const factor of [1, 2, 5]) found.push(factor * 10 ** power);
  return found;
}
