/** The scalars that "more charts" shows, a page after the other. */

import type { KeyRow } from "./contract";
import { KEY_PAGE } from "./grid";
import type { Source } from "./model";

export class KeyList {
  rows: KeyRow[] = [];
  total = 0;
  /** Why there are none, in words. */
  problem = "";
  /** Whose they are, or are to be; "" if nothing came of that. */
  run = "";
  private number = 0;

  /** Asks for those that a filter lets through, from one on; null closes the list. Returns whether something is new. */
  async list(source: Source, run: string, filter: string | null, start: number): Promise<boolean> {
    this.number += 1;
    const mine = this.number;
    this.run = run;
    if (filter === null || !run) {
      [this.rows, this.total, this.problem] = [[], 0, ""];
      return true;
    }
    try {
      const found = await source.keys(run, filter, start, KEY_PAGE);
      if (mine !== this.number) return false;
      this.rows = start ? [...this.rows.slice(0, start), ...found.rows] : found.rows;
      [this.total, this.problem] = [found.total, ""];
    } catch (error) {
      if (mine !== this.number) return false;
      [this.run, this.rows, this.total, this.problem] = ["", [], 0, (error as Error).message];
    }
    return true;
  }
}
