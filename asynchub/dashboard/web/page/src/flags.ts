/** What stands on the curves, and where: the decisions about a run, and what a rule would have done. */

import type { DrawnRun } from "./chart";
import type { Mark } from "./contract";
import { cut } from "./dom";
import type { WhatIf } from "./model";
import type { Places } from "./places";
import type { Flag } from "./signs";
import { greyNow } from "./colours";

/** Of the run that is looked at; among other runs, each says whose it is. */
export function flagsOfMarks(marks: Mark[], places: Places, run: string, runs: DrawnRun[]): Flag[] {
  const found: Flag[] = [];
  const own = runs.find((one) => one.id === run);
  const colour = own?.colour ?? greyNow();
  const whose = own && runs.length > 1 ? `${cut(own.name, 60)}: ` : "";
  for (const mark of marks) {
    const x = places.place(run, mark.step, mark.time);
    if (x === null) continue;
    found.push({ x, label: cut(mark.short, 24), text: `${whose}${mark.what} · ${mark.who}`, mark, colour });
  }
  return found;
}

export function flagsOfTrial(tried: WhatIf | null, places: Places, runs: DrawnRun[]): Flag[] {
  const colours = new Map(runs.map((run) => [run.id, run.colour]));
  const found: Flag[] = [];
  for (const row of tried?.rows ?? []) {
    const x = row.stop === null ? null : places.place(row.run, row.stop, null);
    if (x !== null)
      found.push({ x, label: "would stop", text: row.text, mark: null, colour: colours.get(row.run) ?? greyNow() });
  }
  return found;
}
