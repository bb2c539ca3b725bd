/** What is asked of the server, so that what the reader looks at can be drawn: neither less nor much more. */

import type { CurvesWanted } from "./contract";
import type { Places } from "./places";
import { isLog, type ViewState, WINDOW } from "./state";

export interface Look {
  state: ViewState;
  live: boolean;
  /** The run that is looked at. */
  main: string;
  runs: string[];
  /** Of the charts near the window. */
  keys: string[];
  /** How many pixels of the device the widest of them is wide. */
  pixels: number;
  /** The part of the axis that is shown. */
  view: [number, number] | null;
  /** Where the newest of the run is. */
  newest: number | null;
  places: Places;
}

const MOST_KEYS = 24;
const MOST_CURVES = 2000;
const MOST_BUCKETS = 8000;
const MANY_RUNS = 20;
/** Buckets are asked for by so many at a time, so that a pixel more is no other question. */
const ROUND = 32;

/** Returns what curves are wanted; null: none. */
export function curvesWanted(look: Look): CurvesWanted | null {
  const { state, runs } = look;
  if (!runs.length || !look.keys.length) return null;
  const most = Math.max(1, Math.min(MOST_KEYS, Math.floor(MOST_CURVES / runs.length)));
  const pixels = Math.min(MOST_BUCKETS, Math.max(64, Math.ceil(look.pixels / ROUND) * ROUND));
  const [start, stop] = stepsWanted(look);
  const keys = [...new Set(look.keys)].slice(0, most);
  const wide = runs.length > MANY_RUNS ? Math.ceil(pixels / Math.max(1, devicePixelRatio)) : pixels;
  return {
    runs,
    keys,
    start,
    stop,
    buckets: Math.min(MOST_BUCKETS, Math.ceil((wide * closeness(look, start, stop)) / ROUND) * ROUND),
    axis: state.axis,
    window: state.smoothing === "off" ? 0 : state.window || WINDOW,
    smoothing: state.smoothing === "ema" ? "ema" : "mean",
    log: state.flipped.length ? keys.filter((key) => isLog(state, key)) : state.log,
    fit_all: state.fitAll,
    pixels,
    ...(state.group ? { group: state.group } : {}),
  };
}

/** Returns the steps that are wanted; null is the end of the data. */
export function stepsWanted({ state, live, view, newest, places }: Look): [number | null, number | null] {
  if (state.range === null || view === null || !places.known || !live) return [null, null];
  const steps = places.steps(view);
  if (steps === null) return [null, null];
  if (!state.follow || (newest ?? 0) < state.range[1]) return steps;
  // it is asked anew only after a quarter of the width, so that what comes in between is little
  const quarter = 2 ** Math.floor(Math.log2(Math.max(4, steps[1] - steps[0]) / 4));
  return [Math.floor(steps[0] / quarter) * quarter, (Math.ceil((steps[1] + 1) / quarter) + 1) * quarter - 1];
}

/** Returns how many times more buckets than pixels are wanted, since more is asked for than is shown. */
function closeness({ main, view, places }: Look, start: number | null, stop: number | null): number {
  if (start === null || stop === null || view === null) return 1;
  const own = places.stepsOf(main, view);
  return own ? Math.max(1, (stop - start + 1) / (own[1] - own[0] + 1)) : 1;
}
