/** Whether what a chart is to show is what it shows already: most news are of other charts, or of none. */

import type { Picture } from "./chart";
import type { Flag } from "./signs";

/** Curves are told apart by their objects, of which each message makes new ones. */
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
