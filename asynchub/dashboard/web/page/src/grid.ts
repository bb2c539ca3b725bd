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

  /** Shows the charts that matter most. */
  show(charts: ChartFacts[], line: string): void {
    this.first = this.arranged(
      "charts",
      this.first,
      charts.map((chart) => chart.key),
    );
    this.first.forEach((panel, at) => panel.describe(charts[at] ?? null, line));
    for (const panel of this.more) panel.describe(null, line);
    byId("charts").dataset.count = String(charts.length);
  }

  /** Shows further charts, but for those that are there already. */
  showMore(list: KeyList, open: boolean, known: number): void {
    const { rows, total, problem } = list;
    const there = new Set(this.first.map((panel) => panel.key));
    const keys = rows.map((row) => row.key).filter((key) => !there.has(key));
    this.more = this.arranged("more-charts", this.more, open ? keys : []);
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

  private arranged(place: string, old: Panel[], keys: string[]): Panel[] {
    if (old.length === keys.length && old.every((panel, at) => panel.key === keys[at])) return old;
    const kept = new Map(old.map((panel) => [panel.key, panel]));
    const next = keys.map((key) => kept.get(key) ?? new Panel(key, this.listener));
    for (const panel of old) if (!next.includes(panel)) this.forget(panel);
    const target = byId(place);
    next.forEach((panel, at) => {
      if (target.children[at] !== panel.root) target.insertBefore(panel.root, target.children[at] ?? null);
      if (!this.panels.has(panel.root)) {
        this.panels.set(panel.root, panel);
        this.watcher.observe(panel.root);
        this.sizes.observe(panel.root);
      }
    });
    this.changed();
    return next;
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
