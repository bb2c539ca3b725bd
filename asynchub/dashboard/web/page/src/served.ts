/** What is known, from a server. */

import type { Asked, CurvesWanted, KeyRow, Mark, RunDifferences, RunTable } from "./contract";
import { type Link } from "./link";
import type { KeyPage, Source, Steer, WhatIf } from "./model";
import type { Message } from "./wire";

export class Served implements Source {
  readonly live = true;

  constructor(private readonly link: Link) {}

  hasBoth(): boolean {
    return true;
  }

  start(): void {
    this.link.start();
  }

  unlock(token: string): void {
    this.link.unlock(token);
  }

  want(wanted: { filter: string; screen: string | null; curves: CurvesWanted | null }): number {
    return this.link.want({ rows: true, ...wanted });
  }

  async keys(run: string, filter: string, start: number, most: number): Promise<KeyPage> {
    return this.link.get<{ total: number; rows: KeyRow[] }>("api/keys", { run, filter, start, most });
  }

  async marks(run: string, start: number | null, stop: number | null): Promise<Mark[]> {
    const query: Record<string, string | number> = { run, most: 500 };
    if (start !== null) query.start = start;
    if (stop !== null) query.stop = stop;
    return (await this.link.get<{ rows: Mark[] }>("api/marks", query)).rows;
  }

  async curves(wanted: CurvesWanted): Promise<Message> {
    return this.link.postForCurves(wanted);
  }

  async whatIf(runs: string[], rule: string): Promise<WhatIf> {
    return this.link.post<WhatIf>("api/what-if", { runs, rule });
  }

  async table(query: Record<string, string>): Promise<RunTable> {
    return this.link.get<RunTable>("api/table", query);
  }

  async differences(runs: string[], filter: string): Promise<RunDifferences> {
    const query = [["filter", filter], ...runs.map((run) => ["run", run])];
    return this.link.get<RunDifferences>("api/differences", query);
  }

  async ask(steer: Steer): Promise<Asked> {
    return this.link.post<Asked>("api/requests", steer);
  }

  async page(run: string, keys: string[]): Promise<Blob> {
    return this.link.getFile("api/export", [["run", run], ...keys.map((key): [string, string] => ["keys", key])]);
  }
}
