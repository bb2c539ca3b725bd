/**
 * One chart. The only file that knows uPlot, which does the axes, the pointer and the selection; curves and marks are
 * drawn by `brush.ts` and `marks.ts` on its canvas.
 */

import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

import { drawLine, type Look, type Scale } from "./brush";
import type { Axis, Drawing } from "./contract";
import { ticks } from "./format";
import { followFingers } from "./gestures";
import { drawMarks } from "./marks";
import { drawReach } from "./reaching";
import { DASHES } from "./shapes";
import { isSame } from "./sameness";
import type { Flag, Spot } from "./signs";
import { powers, powerText, xTicks } from "./ticks";
import type { Series } from "./wire";

export interface DrawnRun {
  id: string;
  name: string;
  colour: string;
  dash: number;
  /** 0: in the background; 1: with a colour; 2: the one that is looked at. */
  rank: 0 | 1 | 2;
}

export interface Palette {
  ink: string;
  mute: string;
  grid: string;
  card: string;
  bad: string;
  accent: string;
  warn: string;
}

export interface Picture {
  drawing: Drawing;
  series: Map<string, Series>;
  /** From back to front. */
  runs: DrawnRun[];
  range: [number, number];
  flags: Flag[];
  palette: Palette;
}

export interface ChartListener {
  /** The reader has chosen a part of the axis; null is all of it. */
  zoomed(range: [number, number] | null): void;
  /** The pointer is at a place of the plot, in values of both axes; null: it has left. */
  pointed(at: Pointed | null): void;
  picked(at: Pointed): void;
}

export interface Pointed {
  x: number;
  /** In CSS pixels of the window. */
  left: number;
  top: number;
  /** In pixels of the device, on the canvas. */
  px: number;
  py: number;
  spot: Spot | null;
}

const LANES = 32;
/** Strokes of all runs of the background together, above which their lines have to do. */
export const MOST_GREY_STROKES = 60_000;

/** Width and height in CSS pixels; `size` makes letters and lines larger, for a picture of a chart. */
export class Chart {
  private readonly plot: uPlot;
  private picture: Picture | null = null;
  private spots: Spot[] = [];
  private lit = "";
  private over = false;
  /** What is shown as long as a hand is on the plot. */
  private held: [number, number] | null = null;
  /** Has uPlot begin; null once it has. */
  private begin: (() => void) | null = null;
  private readonly letGo: () => void;

  constructor(
    target: HTMLElement,
    private readonly axis: Axis,
    width: number,
    height: number,
    palette: Palette,
    private readonly listener: ChartListener,
    private readonly size = 1,
  ) {
    this.plot = new uPlot(
      this.options(width, height, palette),
      [
        [0, 1],
        [null, null],
      ] as uPlot.AlignedData,
      (plot, begin) => {
        target.append(plot.root);
        this.begin = () => begin(); // with the first picture: else axes without curves would be drawn before
      },
    );
    const { over } = this.plot;
    over.addEventListener("mouseenter", () => (this.over = true));
    over.addEventListener("mouseleave", () => {
      this.over = false;
      listener.pointed(null);
    });
    over.addEventListener("click", (event) => listener.picked(this.place(event.clientX, event.clientY, true)));
    this.watchLanes(over, over.parentElement ?? over);
    this.letGo = followFingers(over, {
      range: () => this.range(),
      previewed: (range) => this.hold(range),
      zoomed: (range) => this.choose(range),
      pointed: (left, top) => listener.pointed(left === null ? null : this.place(left, top)),
    });
  }

  get canvas(): HTMLCanvasElement {
    return this.plot.ctx.canvas;
  }

  /** How many pixels of the device the plot is wide. */
  get pixels(): number {
    return Math.round(this.plot.bbox.width);
  }

  /** Draws a picture, unless it is there already. */
  draw(picture: Picture): void {
    if (this.picture && isSame(picture, this.picture)) return;
    this.picture = picture;
    this.show(picture);
  }

  private show(picture: Picture): void {
    const { plot } = this;
    const [low, high] = edges(picture.drawing);
    const [from, to] = this.held ?? picture.range; // what comes meanwhile does not move it
    plot.batch(() => {
      this.begin?.();
      this.begin = null;
      plot.setScale("x", { min: from, max: to });
      plot.setScale("y", { min: low, max: high });
      plot.redraw(false, true);
    });
  }

  /** Shows another part of the axis at once, of what is here; null: the one that is to be shown. */
  private hold(range: [number, number] | null): void {
    this.held = range;
    if (this.picture) this.show(this.picture);
  }

  /** Tells what part the reader has chosen; it stays until the page draws that. */
  private choose(range: [number, number]): void {
    this.held = null;
    if (this.picture) this.picture = { ...this.picture, range };
    this.listener.zoomed(range);
  }

  /** Lights one run; "" for none. */
  light(run: string): void {
    if (run === this.lit) return;
    this.lit = run;
    this.plot.redraw(false, false);
  }

  /** Makes it as large as given; returns whether it was not. */
  resize(width: number, height: number): boolean {
    const isOther = width !== this.plot.width || height !== this.plot.height;
    if (isOther) this.plot.setSize({ width, height });
    return isOther;
  }

  /** Puts the crosshair at a place of the axis; null takes it away. */
  point(x: number | null): void {
    const left = x === null ? -10 : this.plot.valToPos(x, "x");
    this.plot.setCursor({ left, top: x === null ? -10 : this.plot.over.clientHeight / 2 }, false);
    const box = this.plot.over.getBoundingClientRect();
    this.listener.pointed(x === null ? null : this.place(box.left + left, box.top + box.height / 2));
  }

  scale(): Scale {
    const { bbox, scales } = this.plot;
    const drawing = this.picture?.drawing;
    return {
      left: bbox.left,
      top: bbox.top,
      width: bbox.width,
      height: bbox.height,
      xLow: scales.x!.min ?? 0,
      xHigh: scales.x!.max ?? 1,
      yLow: drawing?.low ?? 0,
      yHigh: drawing?.high ?? 1,
      log: drawing?.log ?? false,
    };
  }

  destroy(): void {
    this.letGo();
    this.plot.destroy();
  }

  private range(): [number, number] {
    const { min, max } = this.plot.scales.x!;
    return [min ?? 0, max ?? 1];
  }

  private place(left: number, top: number, coarse = false): Pointed {
    const { over, bbox } = this.plot;
    const box = over.getBoundingClientRect();
    const ratio = box.width ? bbox.width / box.width : 1;
    const [px, py] = [bbox.left + (left - box.left) * ratio, bbox.top + (top - box.top) * ratio];
    const reach = (coarse ? 14 : 8) * ratio;
    const near = this.spots
      .map((spot) => ({ spot, far: Math.hypot(Math.max(0, spot.left - px, px - spot.right), spot.y - py) }))
      .filter(({ spot, far }) => far <= reach || (spot.line && Math.abs(spot.x - px) <= 3 * ratio))
      .sort((a, b) => a.far - b.far)[0];
    return { x: this.plot.posToVal(left - box.left, "x"), left, top, px, py, spot: near?.spot ?? null };
  }

  /** Tells of signs above the plot, where uPlot does not follow the pointer. */
  private watchLanes(over: HTMLElement, around: HTMLElement): void {
    const at = (event: MouseEvent) =>
      over.contains(event.target as Node) ? null : this.place(event.clientX, event.clientY);
    around.addEventListener("mousemove", (event) => {
      const place = at(event);
      if (place) this.listener.pointed(place.spot ? place : null);
      around.style.cursor = place?.spot?.marks.length ? "pointer" : "";
    });
    around.addEventListener("mouseleave", () => this.listener.pointed(null));
    around.addEventListener("click", (event) => {
      const place = at(event);
      if (place?.spot) this.listener.picked(place);
    });
  }

  private options(width: number, height: number, palette: Palette): uPlot.Options {
    const { axis, size } = this;
    const font = `${11 * size}px system-ui, "DejaVu Sans", sans-serif`;
    const common = {
      font,
      stroke: () => this.picture?.palette.mute ?? palette.mute,
      grid: { stroke: () => this.picture?.palette.grid ?? palette.grid, width: size },
      ticks: { show: false },
      gap: 5 * size,
    };
    return {
      width,
      height,
      padding: [LANES * size, 18 * size, 0, 4 * size],
      legend: { show: false },
      scales: { x: { time: axis === "time", auto: false }, y: { auto: false } },
      series: [{}, { show: false }],
      axes: [
        { ...common, size: (axis === "time" ? 40 : 24) * size, space: (axis === "time" ? 90 : 60) * size, ...xTicks(axis) },
        {
          ...common,
          size: 56 * size,
          space: 30 * size,
          splits: (plot, _, low, high, increment) => this.ySplits(plot, low, high, increment),
          values: (_, values) => (this.picture?.drawing.log ? values.map((v) => powerText(v)) : ticks(values)),
        },
      ],
      cursor: {
        y: false,
        points: { show: false },
        sync: { key: "asynchub", scales: ["x", null], setSeries: false },
        drag: { x: true, y: false, setScale: false, dist: 5 },
        bind: {
          dblclick: () => () => {
            this.listener.zoomed(null);
            return null;
          },
          mousedown: (_self, _target, handler) => (event) => {
            if (event.shiftKey) this.pan(event);
            else handler(event);
            return null;
          },
        },
      },
      hooks: {
        draw: [() => this.paint()],
        setCursor: [(plot) => this.moved(plot)],
        setSelect: [(plot) => this.selected(plot)],
      },
    };
  }

  private ySplits(plot: uPlot, low: number, high: number, increment: number): number[] {
    const room = plot.height - (LANES + 24) * this.size; // the plot itself is not laid out yet when it is first drawn
    if (this.picture?.drawing.log) return powers(low, high, Math.max(2, room / (34 * this.size)));
    const found = [];
    for (let tick = Math.ceil(low / increment - 1e-9); tick * increment <= high + increment * 1e-9; tick++) {
      found.push(Number((tick * increment).toPrecision(12)));
      if (found.length > 40) break;
    }
    return found;
  }

  private moved(plot: uPlot): void {
    const { left, top } = plot.cursor;
    if (!this.over || left === undefined || top === undefined || left < 0) return;
    const box = plot.over.getBoundingClientRect();
    this.listener.pointed(this.place(box.left + left, box.top + top));
  }

  private selected(plot: uPlot): void {
    const { left, width } = plot.select;
    if (width < 5) return;
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.listener.zoomed([plot.posToVal(left, "x"), plot.posToVal(left + width, "x")]);
  }

  private pan(event: MouseEvent): void {
    const [low, high] = this.range();
    const perPixel = (high - low) / this.plot.over.clientWidth;
    const from = event.clientX;
    const at = (now: MouseEvent): [number, number] => {
      const by = (from - now.clientX) * perPixel;
      return [low + by, high + by];
    };
    const move = (now: MouseEvent) => this.hold(at(now));
    const up = (now: MouseEvent) => {
      removeEventListener("mousemove", move);
      removeEventListener("mouseup", up);
      if (now.clientX === from) this.hold(null);
      else this.choose(at(now));
    };
    addEventListener("mousemove", move);
    addEventListener("mouseup", up);
    event.preventDefault();
  }

  private paint(): void {
    const { picture, plot } = this;
    if (!picture) return;
    const { ctx } = plot;
    const scale = this.scale();
    if (!(scale.xHigh > scale.xLow)) return;
    const ratio = plot.ctx.canvas.width / plot.width;
    const unit = ratio * this.size;
    ctx.save();
    ctx.beginPath();
    ctx.rect(scale.left, scale.top - 1, scale.width, scale.height + 2);
    ctx.clip();
    const { runs, series } = picture;
    let grey = 0;
    for (const run of runs) if (run.rank === 0) grey += series.get(run.id)?.x.length ?? 0;
    const ordered = this.lit
      ? [...runs.filter((r) => r.id !== this.lit), ...runs.filter((r) => r.id === this.lit)]
      : runs;
    const looks = ordered.map((run) => this.look(run, unit, grey > MOST_GREY_STROKES));
    ordered.forEach((run, at) => {
      const one = series.get(run.id);
      if (one) drawReach(ctx, one, scale, looks[at]!);
    });
    ordered.forEach((run, at) => {
      const one = series.get(run.id);
      if (one) drawLine(ctx, one, scale, looks[at]!, unit);
    });
    ctx.restore();
    this.spots = drawMarks(ctx, scale, picture, unit);
  }

  private look(run: DrawnRun, unit: number, spare: boolean): Look {
    const lit = run.id === this.lit;
    const dimmed = this.lit !== "" && !lit;
    const strokes = [spare ? 0 : 0.14, 0.22, 0.42][run.rank]!;
    const dash = DASHES[run.dash % DASHES.length]!; // a line with gaps is as bold as a whole one if it is wider
    return {
      colour: run.colour,
      dash: dash.map((length) => length * unit),
      line: ([1, 1.6, 2.2][run.rank]! + (dash.length && run.rank ? 0.4 : 0)) * (lit ? 1.4 : 1) * unit,
      strokes: dimmed ? strokes / 2 : strokes,
      opaque: lit ? 1 : run.rank === 0 || dimmed ? 0.55 : 1,
    };
  }
}

/** Returns the ends of the y axis as uPlot has them: of a logarithmic one, the powers of ten. */
function edges(drawing: Drawing): [number, number] {
  const [low, high] = [drawing.low ?? 0, drawing.high ?? 1];
  return drawing.log ? [Math.log10(low), Math.log10(high)] : [low, high];
}
