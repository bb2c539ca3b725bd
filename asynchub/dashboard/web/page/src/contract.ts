/** What the server says: the dataclasses of `asynchub/dashboard/screen.py` and `drawing.py`, as JSON has them. */

export type Level = "good" | "plain" | "quiet" | "warn" | "bad";
export type Axis = "step" | "time" | "relative" | "epoch";
export type Role = "view" | "steer";

export interface Line {
  text: string;
  level: Level;
  key: string;
  start: number | null;
  stop: number | null;
}

export interface Status {
  state: "running" | "silent" | "stopping" | "stopped" | "finished" | "crashed" | "unknown";
  word: string;
  level: Level;
  step: number | null;
  total: number | null;
  share: number | null;
  reason: string;
  lines: Line[];
}

export interface Mark {
  seq: number;
  step: number | null;
  time: number;
  who: string;
  what: string;
  why: string;
  kind: "acted" | "suggested" | "refused" | "manual" | "resumed" | "failed";
  key: string;
  short: string;
  inputs: Record<string, string>;
}

export interface KeyRow {
  key: string;
  count: number;
  last: number | null;
  text: string;
  summary: string;
}

export interface ChartFacts {
  key: string;
  why: string;
  mode: "min" | "max" | "";
  best: number | null;
  best_step: number | null;
  note: string;
}

export interface StageCard {
  name: string;
  text: string;
  busy: number | null;
  limits: boolean;
}

export interface PipelineCard {
  name: string;
  headline: string;
  level: Level;
  stages: StageCard[];
}

export interface Steerable {
  word: string;
  name: string;
  value: number | null;
  low: number | null;
  high: number | null;
  note: string;
}

export interface Asked {
  id: string;
  what: string;
  who: string;
  why: string;
  state: "requested" | "seen" | "applied" | "refused" | "expired";
  step: number | null;
  error: string;
  time: number;
}

export interface Colour {
  hue: number;
  dash: number;
  light: string;
  dark: string;
}

export interface RunRow {
  id: string;
  name: string;
  folder: string;
  run_id: string;
  colour: Colour;
  state: Status["state"];
  word: string;
  level: Level;
  step: number | null;
  newest: number | null;
  metrics: Record<string, string>;
  config: Record<string, string>;
  problem: string;
}

export interface Screen {
  row: RunRow;
  seq: number;
  time: number;
  status: Status;
  stops: Line[];
  stops_head: string;
  speed: Line[];
  speed_head: string;
  alerts: Line[];
  charts: ChartFacts[];
  keys: number;
  pipelines: PipelineCard[];
  marks: Mark[];
  marks_total: number;
  steerable: Steerable[];
  steering: string;
  asked: Asked[];
}

export interface RunList {
  time: number;
  folder: string;
  problem: string;
  note?: string;
  role: Role;
  allow: string[];
  what_if: boolean;
  rows: RunRow[];
  more: number;
  /** Infos by which the runs can be grouped. */
  groups?: string[];
}

export interface Caret {
  run: string;
  x: number;
  value: number | null;
  top: boolean;
  text: string;
}

export interface Gap {
  run: string;
  x0: number;
  x1: number;
  count: number;
  text: string;
}

export interface Drawing {
  low: number | null;
  high: number | null;
  log: boolean;
  carets: Caret[];
  gaps: Gap[];
  points: number;
  clipped: number;
  not_finite: number;
  below_zero: number;
  footer: string;
  summary: string;
}

/** What curves are wanted, as `POST /api/curves` takes it; of `start` and `stop`, null is the end of the data. */
export interface CurvesWanted {
  runs: string[];
  keys: string[];
  start: number | null;
  stop: number | null;
  buckets: number;
  axis: Axis;
  window: number;
  smoothing: "mean" | "ema";
  /** Whether the y axes are logarithmic, or the keys of the charts whose are. */
  log: boolean | string[];
  fit_all: boolean;
  pixels: number;
  group?: string;
}

/** A group of runs that a series is of. */
export interface GroupHead {
  label: string;
  runs: number;
  colour: Colour;
}

/** A row of the table of runs, as `GET /api/table` has it. */
export interface TableRow extends Pick<RunRow, "id" | "name" | "folder" | "colour" | "state" | "word" | "level" | "step"> {
  last: string;
  best: string;
  slope: string;
  count: number;
  not_finite: number;
  problem: string;
  /** Where each part of the sparkline begins, from 0 to 1. */
  at: number[];
  /** Of each part the smallest, the largest value and the mean, from 0 to the height; null: there is none. */
  spark: (number | null)[][];
}

export interface RunTable {
  key: string;
  by: string;
  mode: string;
  height: number;
  total: number;
  rows: TableRow[];
  more: boolean;
}

/** In what runs differ, as `GET /api/differences` has it. */
export interface RunDifferences {
  names: string[];
  rows: (Pick<RunRow, "id" | "name" | "folder" | "colour" | "state" | "word" | "level" | "step"> & { cells: string[] })[];
  same: number;
  text: string;
  left: number;
  left_runs: number;
  more: boolean;
}
