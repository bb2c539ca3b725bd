/** The decisions about the run that is looked at: the newest come with its first screen, others are asked for. */

import type { Mark, Screen } from "./contract";
import type { Source } from "./model";

export interface Looked {
  source: Source;
  screen: Screen | null;
  /** The steps that are shown; null is the end of the data. */
  part: [number | null, number | null];
}

const AFTER = 300;

export class MarkList {
  private found: Mark[] = [];
  private run = "";
  private timer = 0;

  constructor(private readonly changed: () => void) {}

  /** Returns those that are known, the newest first. */
  all(screen: Screen | null): Mark[] {
    const others = screen?.row.id === this.run ? this.found : [];
    const known = new Map([...others, ...(screen?.marks ?? [])].map((mark) => [mark.seq, mark]));
    return [...known.values()].sort((a, b) => b.seq - a.seq);
  }

  /** Looks, in a moment, for those of the part that is shown then. */
  findSoon(look: () => Looked): void {
    if (!this.timer) this.timer = window.setTimeout(() => void this.find(look()), AFTER);
  }

  private async find({ source, screen, part }: Looked): Promise<void> {
    this.timer = 0;
    if (!screen || (source.live && screen.marks_total <= screen.marks.length)) return;
    try {
      this.found = await source.marks(screen.row.id, ...part);
      this.run = screen.row.id;
      this.changed();
    } catch (error) {
      console.warn("asynchub: decisions could not be read:", error);
    }
  }
}
