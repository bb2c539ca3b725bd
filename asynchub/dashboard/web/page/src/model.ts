/**
 * What is known, and where it comes from.
 *
 * A source is the server or, in an exported page, what the page has in itself; the rest of the page does not tell them
 * apart but for what an exported page cannot do.
 */

import type { DrawnRun } from "./chart";
import { colourNow, greyNow } from "./colours";
import type {
  Asked,
  CurvesWanted,
  GroupHead,
  KeyRow,
  Mark,
  RunDifferences,
  RunList,
  RunRow,
  RunTable,
  Screen,
} from "./contract";
import type { Curves, Message } from "./wire";

export interface KeyPage {
  total: number;
  rows: KeyRow[];
}

export interface Steer {
  run: string;
  word: string;
  name: string;
  value: number | null;
  reason: string;
  id: string;
}

/** As `asynchub.overlaying` answers. */
export interface TriedRow {
  run: string;
  rule: string;
  judge: string;
  stop: number | null;
  cells: string[];
  text: string;
  error: string;
}

export interface WhatIf {
  rows: TriedRow[];
  /** Runs that are not yet replayed: ask again. */
  waiting: number;
  heads: string[];
  label: string;
  error: string;
}

export interface Source {
  /** Whether news come, and requests can be made. */
  readonly live: boolean;
  /** Tells whether a chart can be drawn with a linear y axis and with a logarithmic one. */
  hasBoth(key: string): boolean;
  start(): void;
  want(wanted: { filter: string; screen: string | null; curves: CurvesWanted | null }): number;
  keys(run: string, filter: string, start: number, most: number): Promise<KeyPage>;
  marks(run: string, start: number | null, stop: number | null): Promise<Mark[]>;
  curves(wanted: CurvesWanted): Promise<Message>;
  whatIf(runs: string[], rule: string): Promise<WhatIf>;
  /** Of a server alone, as the next one. */
  table?(query: Record<string, string>): Promise<RunTable>;
  differences?(runs: string[], filter: string): Promise<RunDifferences>;
  ask(steer: Steer): Promise<Asked>;
  page(run: string, keys: string[]): Promise<Blob>;
  unlock(token: string): void;
}

export const MOST_COLOURED = 10;
/** Runs whose curves are drawn at once. */
export const MOST_DRAWN = 100;
/** Runs that are drawn as groups at once. */
export const MOST_GROUPED = 200;

/** Returns the run that is looked at: the one that is named, else the first. */
export function mainRun(list: RunList | null, named: string): string {
  if (named) return named;
  return list?.rows[0]?.id ?? "";
}

/** Returns the runs to draw, the one that is looked at first, and which of them have a colour. */
export function drawnRuns(
  list: RunList | null,
  main: string,
  pinned: string[],
  screen: Screen | null,
  most = MOST_DRAWN,
): [RunRow[], Set<string>] {
  const rows = [...(list?.rows ?? [])];
  if (screen && screen.row.id === main && !rows.some((row) => row.id === main)) rows.push(screen.row);
  const rank = (row: RunRow) => (row.id === main ? 0 : pinned.includes(row.id) ? 1 : 2);
  const ordered = rows.map((row, at) => ({ row, at })).sort((a, b) => rank(a.row) - rank(b.row) || a.at - b.at);
  const drawn = ordered.slice(0, most).map(({ row }) => row);
  return [drawn, new Set(drawn.slice(0, Math.max(MOST_COLOURED, pinned.length + 1)).map((row) => row.id))];
}

/** Returns how runs are drawn, from back to front. */
export function lookOf(rows: RunRow[], coloured: Set<string>, main: string): DrawnRun[] {
  return rows
    .map(
      (row): DrawnRun => ({
        id: row.id,
        name: row.name,
        colour: coloured.has(row.id) ? colourNow(row.colour) : greyNow(),
        dash: row.colour.dash,
        rank: row.id === main ? 2 : coloured.has(row.id) ? 1 : 0,
      }),
    )
    .reverse();
}

/** Returns the groups that curves are of, by their ids, in the order that the server has them in. */
export function groupsIn(curves: Curves): Map<string, GroupHead> {
  const found = new Map<string, GroupHead>();
  for (const { series } of curves.charts.values())
    for (const { run, group } of series.values())
      if (group && group.runs >= (found.get(run)?.runs ?? 0)) found.set(run, group);
  return found;
}

/** Returns how groups are drawn, from back to front. */
export function lookOfGroups(groups: Map<string, GroupHead>): DrawnRun[] {
  return [...groups]
    .map(
      ([id, one]): DrawnRun => ({
        id,
        name: `${one.label} (${one.runs} ${one.runs === 1 ? "run" : "runs"})`,
        colour: colourNow(one.colour),
        dash: one.colour.dash,
        rank: 1,
      }),
    )
    .reverse();
}

/** Returns the id of the group that a run is in. */
export function groupOf(row: RunRow, name: string): string {
  return `=${row.config[name] ?? "not said"}`;
}
