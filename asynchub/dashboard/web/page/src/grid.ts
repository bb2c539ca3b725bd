/** The charts: the few that matter, then more by a filter. Only those near the window are asked for and drawn. */

import type { ChartListener } from "./chart";
import type { ChartFacts } from "./contract";
import { byId, cut, h, morph } from "./dom";
import { whole } from "./format";
import type { KeyList } from "./keylist";
import { Panel } from "./panel";

const MARGIN = "240px";
export const KEY_PAGE = 60;

export function gridFrame(): HTMLElement[] {
  return [
    h("div", { id: "charts", class: "charts", role: "group", "aria-label": "Charts" }),
    h("button", { id: "follow", type: "button", class: "pill", "data-do": "follow", hidden: true }),
  ];
}

export function moreFrame(): HTMLElement {
  return h(
    "section",
    { class: "more", "aria-label": "More charts" },
    h(
      "div",
      { class: "find" },
      h("h2", {}, "More charts"),
      h("input", {
        id: "keys",
        type: "search",
        placeholder: "Filter scalars: val/* or grad",
        "aria-label": "Filter scalars",
        autocomplete: "off",
        spellcheck: "false",
      }),
      h("button", { id: "all-keys", type: "button", "data-do": "all-keys" }, "Show all"),
      h("span", { id: "keys-count", class: "mute", role: "status" }),
    ),
    h("div", { id: "more-charts", class: "charts", role: "group", "aria-label": "More charts" }),
    h("button", { id: "more-keys", type: "button", "data-do": "more-keys", hidden: true }, "Show more"),
  );
}

export class Grid {
  private first: Panel[] = [];
  private more: Panel[] = [];
  private readonly watcher: IntersectionObserver;
  private readonly sizes: ResizeObserver;
  private readonly panels = new Map<Element, Panel>();

  constructor(
    private readonly listener: (panel: Panel) => ChartListener,
    private readonly changed: () => void,
    private readonly resized: (panel: Panel) => void,
  ) {
    this.watcher = new IntersectionObserver((entries) => this.seen(entries), { rootMargin: MARGIN });
    this.sizes = new ResizeObserver((entries) => {
      for (const { target } of entries) {
        const panel = this.panels.get(target);
        if (panel?.fit() && panel.near) this.resized(panel); // what is written below a chart has a size, too
      }
    });
  }

  get all(): Panel[] {
    return [...this.first, ...this.more];
  }

  /** Those near the window, the first ones first. */
  get near(): Panel[] {
    return this.all.filter((panel) => panel.near);
  }

  find(element: Element | null): Panel | null {
    const root = element?.closest(".chart");
    return root ? (this.panels.get(root) ?? null) : null;
  }

  /** Shows the charts that matter most, and further ones, each once: one that moves keeps what is drawn of it. */
  show(charts: ChartFacts[], further: string[], line: string): void {
    const before = new Map(this.all.map((panel) => [panel.key, panel]));
    const panel = (key: string) => before.get(key) ?? new Panel(key, this.listener);
    const facts = new Map(charts.map((chart) => [chart.key, chart]));
    const first = [...facts.keys()].map(panel);
    const more = [...new Set(further)].filter((key) => !facts.has(key)).map(panel);
    if (!isSameList(first, this.first) || !isSameList(more, this.more)) {
      const kept = new Set([...first, ...more]);
      for (const old of this.all) if (!kept.has(old)) this.forget(old);
      [this.first, this.more] = [first, more];
      this.arrange("charts", first);
      this.arrange("more-charts", more);
      this.changed();
    }
    for (const one of this.all) one.describe(facts.get(one.key) ?? null, line);
    byId("charts").dataset.count = String(facts.size);
  }

  /** Says how many scalars there are, and how many of them are shown. */
  count({ rows, total, problem }: KeyList, open: boolean, known: number): void {
    const count = open
      ? `${whole(total)} of ${whole(known)} scalars`
      : `${whole(known)} ${known === 1 ? "scalar" : "scalars"}`;
    byId("keys-count").textContent = problem ? `▲ ${cut(problem)}` : count;
    byId("more-keys").hidden = !open || rows.length >= total;
    byId("all-keys").textContent = open ? "Close" : "Show all";
  }

  /** Shows one large, or none. */
  enlarge(key: string): void {
    for (const panel of this.all) panel.root.classList.toggle("large", key !== "" && panel.key === key);
  }

  /** Moves the focus to the chart after, or before, that which has it. */
  step(by: 1 | -1): void {
    const all = this.all;
    const at = all.findIndex((panel) => panel.root.contains(document.activeElement));
    const next = all[at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.max(0, Math.min(all.length - 1, at + by))];
    next?.root.focus();
    next?.root.scrollIntoView({ block: "nearest" });
  }

  private arrange(place: string, panels: Panel[]): void {
    const target = byId(place);
    panels.forEach((panel, at) => {
      if (target.children[at] !== panel.root) target.insertBefore(panel.root, target.children[at] ?? null);
      if (this.panels.has(panel.root)) return;
      this.panels.set(panel.root, panel);
      this.watcher.observe(panel.root);
      this.sizes.observe(panel.root);
    });
  }

  private forget(panel: Panel): void {
    this.watcher.unobserve(panel.root);
    this.sizes.unobserve(panel.root);
    this.panels.delete(panel.root);
    panel.drop();
    panel.root.remove();
  }

  private seen(entries: IntersectionObserverEntry[]): void {
    for (const { target, isIntersecting } of entries) {
      const panel = this.panels.get(target);
      if (!panel || panel.near === isIntersecting) continue;
      panel.near = isIntersecting;
      if (!isIntersecting) panel.drop();
    }
    this.changed();
  }
}

/** Says that there is nothing to draw, and why. */
export function showNoCharts(text: string): void {
  const place = byId("charts");
  const said = place.querySelector(".empty");
  if (!text) {
    said?.remove();
    return;
  }
  if (!said) place.append(h("p", { class: "empty mute" }, cut(text, 400)));
  else morph(said, [cut(text, 400)]);
}

function isSameList(one: Panel[], other: Panel[]): boolean {
  return one.length === other.length && one.every((panel, at) => panel === other[at]);
}
