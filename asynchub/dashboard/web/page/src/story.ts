/** Below the charts: the data pipelines, what was asked of the run, and its decisions. */

import type { Asked, Mark, PipelineCard, Screen } from "./contract";
import { byId, type Child, cut, h, morph } from "./dom";
import { moment, whole } from "./format";
import { colourNow } from "./colours";
import { swatch } from "./shapes";

const KINDS: Record<Mark["kind"], [sign: string, words: string]> = {
  acted: ["▼", "done"],
  suggested: ["▽", "suggested"],
  refused: ["▽", "refused"],
  manual: ["☻", "by a person"],
  resumed: ["↻", "resumed"],
  failed: ["✕", "failed"],
};
const STATES: Asked["state"][] = ["requested", "seen", "applied"];

export function storyFrame(): HTMLElement[] {
  return [
    h("section", { id: "pipelines", class: "cards", "aria-label": "Data pipelines" }),
    h("section", { id: "asked", class: "card", "aria-label": "Requests", hidden: true }),
    h("section", { id: "marks", class: "card", "aria-label": "Decisions" }),
  ];
}

export function showStory(screen: Screen | null): void {
  morph(byId("pipelines"), (screen?.pipelines ?? []).map(pipeline));
  const asked = screen?.asked ?? [];
  byId("asked").hidden = asked.length === 0;
  morph(byId("asked"), [
    h("h2", {}, "Requests"),
    h("ul", { class: "asked" }, ...asked.map((one) => h("li", {}, askedLine(one)))),
  ]);
  morph(byId("marks"), decisions(screen));
}

function pipeline(card: PipelineCard): HTMLElement {
  return h(
    "section",
    { class: "card", "aria-label": `Pipeline ${cut(card.name, 60)}` },
    h("h2", {}, cut(card.name, 80), " ", h("span", { class: `note ${card.level}` }, cut(card.headline, 400))),
    h(
      "ol",
      { class: "stages" },
      ...card.stages.map((stage) =>
        h(
          "li",
          { class: stage.limits ? "stage hot" : "stage" },
          h("b", {}, cut(stage.name, 60), stage.limits ? h("span", { class: "warn" }, " ▲ limits") : null),
          h("span", {}, cut(stage.text, 120)),
          stage.busy === null
            ? null
            : h("meter", { value: Math.max(0, Math.min(1, stage.busy)), min: 0, max: 1, "aria-label": "busy" }),
        ),
      ),
    ),
  );
}

/** Says what was asked, and how far it has come. */
export function askedLine(one: Asked): HTMLElement {
  const bad = one.state === "refused" || one.state === "expired";
  const reached = STATES.indexOf(one.state);
  const steps = bad
    ? h(
        "span",
        { class: "bad" },
        `▲ ${one.state}${one.step === null ? "" : ` at step ${whole(one.step)}`}${one.error ? `: ${cut(one.error, 400)}` : ""}`,
      )
    : h(
        "span",
        { class: "way" },
        ...STATES.map((state, at) =>
          h(
            "span",
            { class: at <= reached ? "reached" : "ahead" },
            `${at <= reached ? "●" : "○"} ${state}${state === "applied" && one.step !== null ? ` at step ${whole(one.step)}` : ""}`,
          ),
        ),
      );
  return h(
    "div",
    { class: "request" },
    h("b", {}, cut(one.what, 200)),
    h(
      "span",
      { class: "mute" },
      ` ${cut(one.who, 80)}${one.why ? `: ${cut(one.why, 200)}` : ""} · ${moment(one.time)}`,
    ),
    steps,
  );
}

function decisions(screen: Screen | null): Child[] {
  const marks = screen?.marks ?? [];
  const total = screen?.marks_total ?? 0;
  const note = !total
    ? "none so far"
    : marks.length < total
      ? `the newest ${whole(marks.length)} of ${whole(total)}; each is a mark on the curves, in the colour of the run`
      : "each is a mark on the curves, in the colour of the run";
  const whose = screen
    ? [" of ", h("bdi", {}, cut(screen.row.name, 80)), " ", swatch(colourNow(screen.row.colour), screen.row.colour.dash)]
    : [];
  const title = h("h2", {}, "Decisions", ...whose, " ", h("span", { class: "note mute" }, note));
  if (!marks.length) return [title];
  return [title, markTable(marks)];
}

/** Returns a table of decisions; its first column shows more of each. */
export function markTable(marks: Mark[]): HTMLElement {
  return h(
    "div",
    { class: "scroll marks", tabindex: 0, role: "group", "aria-label": "Table of decisions" },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, ...["Step", "Who", "What", "Why"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, ...marks.map(decision)),
    ),
  );
}

function decision(mark: Mark): HTMLElement {
  const [sign, words] = KINDS[mark.kind] ?? KINDS.acted;
  const step = mark.step === null ? "–" : whole(mark.step);
  return h(
    "tr",
    { class: `mark ${mark.kind}`, "data-id": String(mark.seq) },
    h(
      "td",
      {},
      h(
        "button",
        {
          type: "button",
          class: "link",
          "data-do": "mark",
          "data-arg": String(mark.seq),
          title: "Zoom to it, and show what the rule saw",
        },
        h("span", { "aria-hidden": "true" }, `${sign} `),
        step,
        h("span", { class: "unseen" }, ` ${words}`),
      ),
    ),
    h("td", {}, h("bdi", {}, cut(mark.who, 80))),
    h("td", {}, h("bdi", {}, cut(mark.what, 300))),
    h("td", { class: "mute" }, h("bdi", {}, cut(mark.why, 400))),
  );
}

/** Says all of a decision. */
export function markInWords(mark: Mark): HTMLElement[] {
  const [, words] = KINDS[mark.kind] ?? KINDS.acted;
  const inputs = Object.entries(mark.inputs).slice(0, 40);
  return [
    h(
      "p",
      { class: "mute" },
      `${words} · step ${mark.step === null ? "not known" : whole(mark.step)} · ${moment(mark.time)} · ${cut(mark.who, 120)}`,
    ),
    mark.why ? h("p", {}, cut(mark.why, 1000)) : h("p", { class: "mute" }, "no reason was given"),
    ...(inputs.length
      ? [
          h("h3", {}, "What the rule saw"),
          h("dl", {}, ...inputs.flatMap(([name, value]) => [h("dt", {}, cut(name, 80)), h("dd", {}, cut(value, 200))])),
        ]
      : []),
  ];
}
