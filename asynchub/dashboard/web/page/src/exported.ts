/** What is known, from the page itself: see EXPORT.md. No request is made. */

import type { Asked, Axis, CurvesWanted, KeyRow, Mark, RunRow, Screen } from "./contract";
import { moment } from "./format";
import type { KeyPage, Source, WhatIf } from "./model";
import type { Offer } from "./toolbar";
import { decode, type Message } from "./wire";

interface Variant {
  axis: Axis;
  log: boolean;
  fit_all: boolean;
  smoothing: "mean" | "ema";
  window: number;
  data: string;
}

interface Data {
  format: number;
  made: number;
  folder: string;
  rows: RunRow[];
  screens: Screen[];
  keys?: Record<string, KeyRow[]>;
  marks?: Record<string, Mark[]>;
  curves: Variant[];
}

export interface ExportListener {
  rows(list: {
    time: number;
    folder: string;
    problem: string;
    role: "view";
    allow: string[];
    what_if: boolean;
    rows: RunRow[];
    more: number;
  }): void;
  screen(screen: Screen): void;
  curves(message: Message): void;
}

/** Returns the data in the page; null if it has none. */
export function exportedData(): Data | null {
  const text = document.getElementById("asynchub-export")?.textContent;
  if (!text) return null;
  const data = JSON.parse(text) as Data;
  if (data.format !== 1) throw new Error(`this page draws data of format 1, got ${data.format}`);
  return data;
}

export class Exported implements Source {
  readonly live = false;

  constructor(
    private readonly data: Data,
    private readonly listener: ExportListener,
  ) {}

  get made(): string {
    return moment(this.data.made);
  }

  get offer(): Offer {
    const { curves } = this.data;
    return {
      live: false,
      axes: [...new Set(curves.map((one) => one.axis))],
      log: new Set(curves.map((one) => one.log)).size > 1,
      fit: new Set(curves.map((one) => one.fit_all)).size > 1,
      smoothing: false,
      whatIf: false,
      more: Boolean(this.data.keys),
    };
  }

  start(): void {
    const { made, folder, rows } = this.data;
    this.listener.rows({ time: made, folder, problem: "", role: "view", allow: [], what_if: false, rows, more: 0 });
  }

  unlock(): void {
    return;
  }

  want(wanted: { screen: string | null; curves: CurvesWanted | null }): number {
    const screen = this.data.screens.find((one) => one.row.id === wanted.screen) ?? this.data.screens[0];
    if (screen) this.listener.screen(screen);
    if (!wanted.curves) return 0;
    const { axis, log, fit_all } = wanted.curves;
    const rank = (one: Variant) =>
      (one.axis === axis ? 0 : 4) + (one.log === log ? 0 : 2) + (one.fit_all === fit_all ? 0 : 1);
    const [best] = [...this.data.curves].sort((a, b) => rank(a) - rank(b));
    if (best) this.listener.curves(decode(bytesOf(best.data)));
    return 0;
  }

  async keys(run: string, filter: string, start: number, most: number): Promise<KeyPage> {
    const rows = (this.data.keys?.[run] ?? []).filter((row) => row.key.includes(filter.replaceAll("*", "")));
    return { total: rows.length, rows: rows.slice(start, start + most) };
  }

  async marks(run: string): Promise<Mark[]> {
    return this.data.marks?.[run] ?? [];
  }

  curves(): Promise<Message> {
    return nothing();
  }

  whatIf(): Promise<WhatIf> {
    return nothing();
  }

  ask(): Promise<Asked> {
    return nothing();
  }

  page(): Promise<Blob> {
    return nothing();
  }
}

async function nothing(): Promise<never> {
  throw new Error("this page was exported: there is no server to ask");
}

function bytesOf(text: string): ArrayBuffer {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let at = 0; at < letters.length; at++) bytes[at] = letters.charCodeAt(at);
  return bytes.buffer;
}
