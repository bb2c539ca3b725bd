/**
 * What is known, from the page itself: see EXPORT.md. No request is made.
 *
 * Curves come deflated, and are unpacked when they are first wanted; of each chart there are several drawings, of the
 *     same columns.
 */

import type { Asked, Axis, CurvesWanted, Drawing, KeyRow, Mark, RunRow, Screen } from "./contract";
import { moment } from "./format";
import { showTrouble } from "./head";
import type { KeyPage, Source, WhatIf } from "./model";
import type { Offer } from "./toolbar";
import { decode, type Message, type Part } from "./wire";

/** One way to draw a chart. */
interface View {
  key: string;
  fit_all: boolean;
  drawing: Drawing;
}

interface Packed {
  axis: Axis;
  smoothing: "mean" | "ema";
  window: number;
  views: View[];
  data: string;
}

interface Data {
  format: number;
  made: number;
  /** The fragment of the address at first. */
  look?: string;
  folder: string;
  rows: RunRow[];
  screens: Screen[];
  keys?: Record<string, KeyRow[]>;
  marks?: Record<string, Mark[]>;
  curves: Packed[];
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
  if (data.format !== 2) throw new Error(`this page draws data of format 2, got ${data.format}`);
  if (data.look && !location.hash) location.replace(data.look);
  return data;
}

export class Exported implements Source {
  readonly live = false;
  private readonly unpacked = new Map<Packed, Promise<Part[]>>();
  private wanted: CurvesWanted | null = null;

  constructor(
    private readonly data: Data,
    private readonly listener: ExportListener,
  ) {}

  get made(): string {
    return moment(this.data.made);
  }

  get offer(): Offer {
    const { curves, keys } = this.data;
    const views = curves.flatMap((one) => one.views);
    return {
      live: false,
      axes: [...new Set(curves.map((one) => one.axis))],
      log: new Set(views.map((one) => one.drawing.log)).size > 1,
      fit: new Set(views.map((one) => one.fit_all)).size > 1,
      smoothing: false,
      whatIf: false,
      more: Boolean(keys),
    };
  }

  /** Tells whether a chart is there with a linear y axis and with a logarithmic one. */
  hasBoth(key: string): boolean {
    const views = this.data.curves.flatMap((one) => one.views.filter((view) => view.key === key));
    return new Set(views.map((one) => one.drawing.log)).size > 1;
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
    this.wanted = wanted.curves;
    const { axis } = wanted.curves;
    const packed = this.data.curves.find((one) => one.axis === axis) ?? this.data.curves[0];
    if (packed) void this.send(packed, wanted.curves);
    return 0;
  }

  private async send(packed: Packed, wanted: CurvesWanted): Promise<void> {
    try {
      if (!this.unpacked.has(packed)) this.unpacked.set(packed, partsOf(packed.data));
      const parts = await this.unpacked.get(packed)!;
      if (this.wanted === wanted) this.listener.curves({ n: null, parts: chosen(parts, packed.views, wanted) });
    } catch (error) {
      showTrouble(`The curves in this page cannot be unpacked: ${(error as Error).message}`);
    }
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

/** Returns charts as they are wanted, or as near to that as there is. */
function chosen(parts: Part[], views: View[], { log, fit_all }: CurvesWanted): Part[] {
  return parts.map((part) => {
    const isLog = Array.isArray(log) ? log.includes(part.key) : log;
    const rank = (view: View) => (view.drawing.log === isLog ? 0 : 2) + (view.fit_all === fit_all ? 0 : 1);
    const [best] = views.filter((view) => view.key === part.key).sort((a, b) => rank(a) - rank(b));
    return best ? { ...part, drawing: best.drawing } : part;
  });
}

async function partsOf(text: string): Promise<Part[]> {
  if (typeof DecompressionStream === "undefined")
    throw new Error("this browser has no DecompressionStream. Use a newer one; without JavaScript there is a drawing.");
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return decode(gathered(await new Response(stream).arrayBuffer())).parts;
}

/** Puts the bytes of each number together again: of all eights of bytes, first came the first ones, then the second. */
function gathered(buffer: ArrayBuffer): ArrayBuffer {
  const begin = 8 + new DataView(buffer).getUint32(4, true);
  const [from, to] = [new Uint8Array(buffer, begin), new Uint8Array(buffer.slice(0)).subarray(begin)];
  const eights = from.length / 8;
  for (let at = 0; at < from.length; at++) to[(at % eights) * 8 + Math.floor(at / eights)] = from[at]!;
  return to.buffer;
}
