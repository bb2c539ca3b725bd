/**
 * Where steps stand on an axis that is not of steps: read off the curves themselves.
 *
 * What is asked of the server is always steps. A part of another axis is asked for as the steps that stand in it in any
 * of the runs; what lies beyond it is not shown.
 */

import { lowerBound } from "./brush";
import type { Axis } from "./contract";
import type { Series } from "./wire";

interface Track {
  x: Float64Array;
  step: Float64Array;
}

export class Places {
  private readonly tracks = new Map<string, Track>();
  private axis: Axis = "step";

  /** Takes in where the steps of runs stand; the widest that was seen of each is kept. */
  learn(axis: Axis, all: Iterable<Series>): void {
    if (axis !== this.axis) {
      this.tracks.clear();
      this.axis = axis;
    }
    if (axis === "step") return;
    for (const series of all) {
      if (!series.step || series.axis !== axis || !series.monotone) continue;
      const known = this.tracks.get(series.run);
      if (known && covers(known, series)) continue;
      this.tracks.set(series.run, { x: series.x, step: series.step });
    }
  }

  /** Whether anything is known of the axis. */
  get known(): boolean {
    return this.axis === "step" || this.tracks.size > 0;
  }

  /** Returns the steps that stand in a part of the axis, in any run; null: in none. */
  steps(part: [number, number]): [number, number] | null {
    if (this.axis === "step") return [Math.floor(part[0]), Math.ceil(part[1])];
    let found: [number, number] | null = null;
    for (const run of this.tracks.keys()) {
      const own = this.stepsOf(run, part);
      if (own) found = found ? [Math.min(found[0], own[0]), Math.max(found[1], own[1])] : own;
    }
    return found;
  }

  /** Returns the steps of a run that stand in a part of the axis; null: none. */
  stepsOf(run: string, [low, high]: [number, number]): [number, number] | null {
    if (this.axis === "step") return [Math.floor(low), Math.ceil(high)];
    const track = this.tracks.get(run);
    if (!track) return null;
    const { x, step } = track;
    const size = defined(x);
    if (!size || x[0]! > high || x[size - 1]! < low) return null;
    const from = Math.max(0, lowerBound(x.subarray(0, size), low) - 1);
    const to = Math.min(size - 1, lowerBound(x.subarray(0, size), high));
    const last = to === size - 1 ? step[to]! + (size > 1 ? step[to]! - step[to - 1]! : 0) : step[to]!;
    return [step[from]!, Math.max(step[from]!, last)];
  }

  /** Returns where a step of a run stands on the axis; null where that is not known. */
  place(run: string, step: number | null, time: number | null): number | null {
    if (this.axis === "step") return step;
    const track = this.tracks.get(run);
    if (this.axis === "time" && time !== null) return time;
    if (!track || step === null) return null;
    const size = defined(track.x);
    const after = lowerBound(track.step.subarray(0, size), step);
    if (after >= size) return size ? track.x[size - 1]! : null;
    if (after === 0 || track.step[after] === step) return track.x[after]!;
    const [s0, s1, x0, x1] = [track.step[after - 1]!, track.step[after]!, track.x[after - 1]!, track.x[after]!];
    return x0 + ((x1 - x0) * (step - s0)) / (s1 - s0 || 1);
  }
}

/** Returns how many places are known: those at the end that are not stay out. */
function defined(x: Float64Array): number {
  let size = x.length;
  while (size && Number.isNaN(x[size - 1]!)) size -= 1;
  return size;
}

function covers(track: Track, series: Series): boolean {
  const step = series.step!;
  if (!step.length) return true;
  const [first, last] = [track.step[0]!, track.step[track.step.length - 1]!];
  return first <= step[0]! && last >= step[step.length - 1]! && last - first > step[step.length - 1]! - step[0]!;
}
