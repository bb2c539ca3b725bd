/** What the pointer does on charts: it reads values, picks runs and decisions, and chooses a part of the axis. */

import type { ChartListener, Pointed } from "./chart";
import type { Page } from "./page";
import type { Panel } from "./panel";
import { hits, Tooltip } from "./tooltip";

export class Pointing {
  private readonly tooltip = new Tooltip();

  constructor(private readonly page: Page) {}

  on(panel: Panel): ChartListener {
    return {
      zoomed: (range) => this.page.zoom(range),
      pointed: (at) => this.pointed(panel, at),
      picked: (at) => this.picked(panel, at),
    };
  }

  private pointed(panel: Panel, at: Pointed | null): void {
    const { chart } = panel;
    if (!at || !chart) {
      this.tooltip.hide();
      chart?.light("");
      return;
    }
    const found = hits(panel, chart, this.page.drawn(), at);
    this.tooltip.show(found, at);
    chart.light(found.length > 1 ? found[0]!.run.id : "");
  }

  private picked(panel: Panel, at: Pointed): void {
    panel.root.focus({ preventScroll: true });
    const marks = at.spot?.marks ?? [];
    if (marks.length) {
      this.tooltip.hide();
      this.page.dialog.marks(marks);
      return;
    }
    const [nearest] = panel.chart ? hits(panel, panel.chart, this.page.drawn(), at) : [];
    if (nearest && !this.page.state.now.group && nearest.run.id !== this.page.main) this.page.state.set({ run: nearest.run.id });
  }
}
