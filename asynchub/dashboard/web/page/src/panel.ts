/** A chart with its head, its truth and its values as a table. */

import { inView } from "./brush";
import { Chart, type ChartListener, type DrawnRun, type Palette, type Picture } from "./chart";
import type { Axis, ChartFacts } from "./contract";
import { cut, h, morph } from "./dom";
import { duration, moment, number, whole } from "./format";
import type { Flag } from "./signs";
import type { ChartData, Series } from "./wire";

const MOST_TABLED = 300;

export interface Shown {
  data: ChartData | undefined;
  runs: DrawnRun[];
  axis: Axis;
  range: [number, number] | null;
  flags: Flag[];
  palette: Palette;
  smoothing: string;
}

export class Panel {
  readonly root: HTMLElement;
  /** Whether it is near enough to the window to be drawn. */
  near = false;
  chart: Chart | null = null;
  private shown: Shown | null = null;
  private drawnAxis: Axis = "step";
  private readonly note = h("span", { class: "note mute" });
  private readonly plot: HTMLElement;
  private readonly flip = h("button", { type: "button", class: "quiet-button flip", "data-do": "flip" }, "log");
  private readonly say = h("p", { class: "say mute" });
  private readonly truth = h("p", { class: "truth mute" });
  private readonly values: HTMLElement;

  constructor(
    readonly key: string,
    private readonly listener: (panel: Panel) => ChartListener,
  ) {
    this.plot = h("div", { class: "plot", role: "img", "aria-label": cut(key, 200) });
    this.values = h("details", { class: "values" }, h("summary", {}, "Values"), h("div", { class: "scroll" }));
    this.values.addEventListener("toggle", () => this.tabulate());
    this.root = h(
      "section",
      { class: "chart card", tabindex: 0, "aria-label": `Chart of ${cut(key, 200)}` },
      h(
        "header",
        {},
        h("h3", { title: cut(key, 600) }, h("bdi", {}, cut(key, 200))),
        this.note,
        this.flip,
        h(
          "button",
          {
            type: "button",
            class: "quiet-button",
            "data-do": "large",
            "aria-label": `Large: ${cut(key, 80)}`,
            title: "Large (Enter)",
          },
          "⤢",
        ),
      ),
      h("div", { class: "field" }, this.plot, this.say),
      this.truth,
      this.values,
    );
  }

  /** Says what it is there for. */
  describe(facts: ChartFacts | null, extra: string): void {
    const text = [facts?.note || facts?.why || "", extra].filter(Boolean).join(" · ");
    if (this.note.textContent !== text) this.note.textContent = cut(text, 300);
  }

  /** Says whether its y axis is logarithmic; null: that cannot be chosen for it alone. */
  showLog(log: boolean | null): void {
    this.flip.hidden = log === null;
    this.flip.setAttribute("aria-pressed", String(log));
    this.flip.setAttribute("aria-label", `Logarithmic: ${cut(this.key, 80)}`);
    this.flip.title = "Y axis of this chart: logarithmic, or linear (o)";
  }

  /** How many pixels of the device its plot is wide. */
  get pixels(): number {
    const guess = Math.max(120, this.plot.clientWidth - 70) * devicePixelRatio;
    return Math.ceil(this.chart?.pixels ?? guess);
  }

  get picture(): Picture | null {
    const { shown } = this;
    if (!shown?.data || !shown.range) return null;
    return {
      drawing: shown.data.drawing,
      series: shown.data.series,
      runs: shown.runs,
      range: shown.range,
      flags: shown.flags,
      palette: shown.palette,
    };
  }

  draw(shown: Shown): void {
    this.shown = shown;
    const { data } = shown;
    const all = data ? [...data.series.values()].filter((series) => series.axis === shown.axis) : [];
    const some = all.some((series) => series.x.length > 0);
    const notes = [...new Set(all.map((series) => series.note).filter(Boolean))];
    const isSeen = some && all.some((series) => reaches(series, shown.range));
    this.say.textContent = !data ? "Loading…" : isSeen ? "" : (some ? "" : notes[0]) || "No value in this part";
    this.say.hidden = this.say.textContent === "";
    this.truth.textContent = data ? data.drawing.footer : "";
    this.plot.setAttribute("aria-label", cut(data?.drawing.summary || this.key, 2000));
    if (!this.near) return;
    const { picture } = this;
    if (picture && some) {
      this.build(shown);
      this.chart?.draw(picture);
    } else if (!some && data) {
      this.drop();
    }
    if ((this.values as HTMLDetailsElement).open) this.tabulate();
  }

  /** Fits it to its place; returns whether it did not, or found none before. */
  fit(): boolean {
    if (!this.chart) return this.picture !== null;
    return this.plot.clientWidth > 0 && this.chart.resize(this.plot.clientWidth, this.plot.clientHeight);
  }

  /** Lets go of the chart; it is made again when it is drawn. */
  drop(): void {
    this.chart?.destroy();
    this.chart = null;
  }

  /** Returns the series of a run, as far as it is of the axis that is shown. */
  series(run: string): Series | null {
    const series = this.shown?.data?.series.get(run);
    return series && series.axis === this.shown?.axis ? series : null;
  }

  private build(shown: Shown): void {
    if (this.chart && this.drawnAxis !== shown.axis) this.drop();
    if (this.chart || !this.plot.clientWidth) return;
    this.drawnAxis = shown.axis;
    this.chart = new Chart(
      this.plot,
      shown.axis,
      this.plot.clientWidth,
      this.plot.clientHeight,
      shown.palette,
      this.listener(this),
    );
  }

  private tabulate(): void {
    const { shown } = this;
    const place = this.values.querySelector(".scroll");
    if (!place || !shown) return;
    if (!(this.values as HTMLDetailsElement).open) {
      morph(place, []);
      return;
    }
    const run = shown.runs.at(-1);
    const series = run ? this.series(run.id) : null;
    const summary = h("p", {}, cut(shown.data?.drawing.summary ?? "", 2000));
    if (!run || !series || !this.chart) {
      morph(place, [summary]);
      return;
    }
    const [from, to] = inView(series, this.chart.scale());
    const last = Math.min(to, from + MOST_TABLED);
    const names = [
      heading(shown.axis),
      ...(series.single ? ["value"] : ["min", "mean", "max"]),
      ...(series.smooth ? ["smoothed"] : []),
      "not finite",
    ];
    const rows = [];
    for (let row = from; row < last; row++) {
      const values = series.single ? [series.mean[row]!] : [series.low[row]!, series.mean[row]!, series.high[row]!];
      if (series.smooth) values.push(series.smooth[row]!);
      const cells = [placeInWords(series, row), ...values.map(number), series.bad[row] ? whole(series.bad[row]!) : ""];
      rows.push(h("tr", {}, ...cells.map((cell) => h("td", {}, cell))));
    }
    const title = `${cut(run.name, 80)}: ${whole(last - from)}${to > last ? ` of ${whole(to - from)}; zoom in for the others` : ""}`;
    morph(place, [
      summary,
      h(
        "table",
        {},
        h("caption", {}, title),
        h("thead", {}, h("tr", {}, ...names.map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, ...rows),
      ),
    ]);
  }
}

/** Tells whether some of a series may be in a part of the axis. */
function reaches(series: Series, range: [number, number] | null): boolean {
  if (!range || !series.monotone || !series.x.length) return series.x.length > 0;
  const last = series.x[series.x.length - 1]!;
  return (
    Number.isNaN(last) || (series.x[0]! <= range[1] && last + (series.axis === "step" ? series.width : 0) >= range[0])
  );
}

function heading(axis: Axis): string {
  return { step: "step", time: "time", relative: "since the beginning", epoch: "epoch" }[axis];
}

/** Says where a value, or a bucket, stands. */
export function placeInWords(series: Series, row: number): string {
  const x = series.x[row]!;
  if (series.axis === "time") return moment(x);
  if (series.axis === "relative") return duration(x);
  if (series.axis === "epoch") return number(x);
  return series.single || series.width === 1 ? whole(x) : `${whole(x)} – ${whole(x + series.width - 1)}`;
}
