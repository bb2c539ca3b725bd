/** Whether what a chart is to show is what it shows already: most news are of other charts, or of none. */

import type { Picture } from "./chart";
import type { Flag } from "./signs";
import type { ChartData, Series } from "./wire";

/** Curves are told apart by their objects, of which a message with other curves makes new ones. */
export function isSame(one: Picture, other: Picture): boolean {
  return (
    one.drawing === other.drawing &&
    one.series === other.series &&
    one.range.every((end, at) => end === other.range[at]) &&
    alike(one.palette, other.palette) &&
    allAlike(one.runs, other.runs) &&
    allAlike(one.flags.map(seen), other.flags.map(seen))
  );
}

/** Whether curves are the same, value by value. */
export function isSameData(one: ChartData, other: ChartData): boolean {
  return (
    isSameValue(one.drawing, other.drawing) &&
    one.series.size === other.series.size &&
    [...one.series].every(([run, series]) => isSameSeries(series, other.series.get(run)))
  );
}

function isSameSeries(one: Series, other: Series | undefined): boolean {
  if (!other) return false;
  const values = other as unknown as Record<string, unknown>;
  return Object.entries(one).every(([name, value]) => isSameValue(value, values[name]));
}

function isSameValue(one: unknown, other: unknown): boolean {
  if (!ArrayBuffer.isView(one) || !ArrayBuffer.isView(other)) return JSON.stringify(one) === JSON.stringify(other);
  const [some, others] = [one, other] as unknown as [Float64Array, Float64Array];
  return some.length === others.length && some.every((value, at) => Object.is(value, others[at]));
}

/** What of a flag is seen, or said of it. */
function seen({ mark, ...flag }: Flag): object {
  return { ...flag, seq: mark?.seq, kind: mark?.kind };
}

function allAlike(some: object[], others: object[]): boolean {
  return some.length === others.length && some.every((one, at) => alike(one, others[at]!));
}

function alike(one: object, other: object): boolean {
  const values = other as Record<string, unknown>;
  return Object.entries(one).every(([name, value]) => values[name] === value);
}
