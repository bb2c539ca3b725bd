/**
 * Curves as they come from the server: `AHC1` messages, and what they add up to.
 *
 * Layout: the letters AHC1, the length of the head as uint32, the head as JSON, blanks to a multiple of 8, then columns,
 *     all little-endian. An offset in the head counts from the first byte after the blanks.
 * Increments: a series says from which row on it is sent; what came before stands. One that does not fit to what is
 *     here is an error, and a whole message has to be asked for.
 */

import type { Axis, Drawing, GroupHead } from "./contract";
import { isSameData } from "./sameness";

/** Doubles where floats would not tell the values apart. */
export type Values = Float32Array | Float64Array;

export interface Series {
  run: string;
  width: number;
  single: boolean;
  axis: Axis;
  monotone: boolean;
  note: string;
  window: number;
  seq: number;
  start: number;
  stop: number;
  /** Where each begins on the axis; NaN where that is not known. */
  x: Float64Array;
  low: Values;
  high: Values;
  mean: Values;
  /** null: no smoothing was asked for. */
  smooth: Values | null;
  /** How many values are not finite. */
  bad: Uint32Array;
  /** The step at which each begins, if the axis is another one and the server says it. */
  step: Float64Array | null;
  /** Of a group of runs, the smallest and the largest mean of these in each bucket. */
  lower: Values | null;
  upper: Values | null;
  group?: GroupHead;
}

export interface Part {
  key: string;
  drawing: Drawing;
  series: {
    head: Omit<Series, keyof Columns>;
    from: number;
    rows: Columns;
  }[];
}

export interface Message {
  /** The counter of what was asked for, of a live message. */
  n: number | null;
  parts: Part[];
}

type Columns = Pick<Series, "x" | "low" | "high" | "mean" | "smooth" | "bad" | "step" | "lower" | "upper">;
type Place = [offset: number, size: number, bytes?: number];

const MAGIC = "AHC1";

/** Returns what a message says; throws an `Error` if it is none. */
export function decode(buffer: ArrayBuffer): Message {
  const bytes = new Uint8Array(buffer);
  const magic = String.fromCharCode(...bytes.subarray(0, 4));
  if (bytes.length < 8 || magic !== MAGIC) throw new Error(`curves begin with ${MAGIC}, got ${JSON.stringify(magic)}`);
  const size = new DataView(buffer).getUint32(4, true);
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + size)));
  const data = Math.ceil((8 + size) / 8) * 8;
  const parts = head.charts.map(
    (chart: any): Part => ({
      key: chart.key,
      drawing: chart.drawing,
      series: chart.series.map((one: any) => {
        const { from, columns, rows: _, ...rest } = one;
        return { head: rest, from, rows: columnsOf(buffer, data, columns) };
      }),
    }),
  );
  return { n: head.n ?? null, parts };
}

function columnsOf(buffer: ArrayBuffer, data: number, places: Record<string, Place | undefined>): Columns {
  const cut = ([offset, size]: Place, width: number): [ArrayBuffer, number, number] => {
    const begin = data + offset;
    return begin % width ? [buffer.slice(begin, begin + size * width), 0, size] : [buffer, begin, size];
  };
  const values = (name: string): Values | null => {
    const place = places[name];
    if (!place) return null;
    return place[2] === 8 ? new Float64Array(...cut(place, 8)) : new Float32Array(...cut(place, 4));
  };
  return {
    x: places.x ? new Float64Array(...cut(places.x, 8)) : new Float64Array(),
    low: values("low") ?? new Float32Array(),
    high: values("high") ?? new Float32Array(),
    mean: values("mean") ?? new Float32Array(),
    smooth: values("smooth"),
    lower: values("lower"),
    upper: values("upper"),
    bad: places.bad ? new Uint32Array(...cut(places.bad, 4)) : new Uint32Array(),
    step: places.step ? new Float64Array(...cut(places.step, 8)) : null,
  };
}

export interface ChartData {
  drawing: Drawing;
  series: Map<string, Series>;
}

/** The newest curves of each key. */
export class Curves {
  readonly charts = new Map<string, ChartData>();

  /** Takes a message in; returns the keys that it is about. Throws an `Error` if a series does not fit. */
  take(message: Message): string[] {
    for (const part of message.parts) {
      const before = this.charts.get(part.key);
      const series = new Map<string, Series>();
      for (const { head, from, rows } of part.series) {
        const old = before?.series.get(head.run);
        if (from > (old?.x.length ?? 0)) throw new Error(`${part.key}: rows from ${from} on, but not those before`);
        series.set(head.run, { ...head, ...(from && old ? joined(old, rows, from) : rows) });
      }
      const data = { drawing: part.drawing, series };
      const isWhole = part.series.every(({ from }) => from === 0); // as after each other question
      if (!isWhole || !before || !isSameData(data, before)) this.charts.set(part.key, data);
    }
    return message.parts.map((part) => part.key);
  }

  /** Lets go of all others. */
  keep(keys: string[]): void {
    for (const key of [...this.charts.keys()]) if (!keys.includes(key)) this.charts.delete(key);
  }
}

function joined(old: Columns, rows: Columns, from: number): Columns {
  return {
    x: glued(old.x, rows.x, from),
    low: glued(old.low, rows.low, from),
    high: glued(old.high, rows.high, from),
    mean: glued(old.mean, rows.mean, from),
    smooth: both(old.smooth, rows.smooth, from),
    lower: both(old.lower, rows.lower, from),
    upper: both(old.upper, rows.upper, from),
    bad: glued(old.bad, rows.bad, from),
    step: both(old.step, rows.step, from),
  };
}

function both<T extends Values>(old: T | null, rows: T | null, from: number): T | null {
  return old && rows ? glued(old, rows, from) : rows;
}

/** Returns the first rows of what was here, and those that came behind them. */
function glued<T extends Values | Uint32Array>(old: T, rows: T, from: number): T {
  const make = rows.constructor as new (size: number) => T;
  const all = new make(from + rows.length);
  all.set(old.subarray(0, from));
  all.set(rows, from);
  return all;
}
