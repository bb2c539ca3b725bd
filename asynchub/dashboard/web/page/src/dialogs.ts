/** What stands before the page until it is closed: help, decisions, what-if, export, and requests to a run. */

import type { Asked, Mark, Screen, Steerable } from "./contract";
import { type Child, cut, h, morph } from "./dom";
import { number, whole } from "./format";
import { nameOf } from "./head";
import type { WhatIf } from "./model";
import { askedLine, markInWords, markTable } from "./story";

const KEYS: [string, string][] = [
  ["/", "filter the runs"],
  ["1 … 9", "look at a run of the list"],
  ["p", "pin the run, or let it go"],
  ["j k", "next chart, chart before"],
  ["Enter", "one chart large, and back"],
  ["← →", "read values along the chart that has the focus"],
  ["h l", "move to earlier, to later steps"],
  ["+ -", "zoom in, zoom out"],
  ["g r", "the steps of all runs, of this run"],
  ["z", "undo the last move or zoom"],
  ["f", "follow the newest step, or stay"],
  ["x", "x axis: step, time, relative time, epoch"],
  ["L o", "y axis linear or logarithmic: of all charts, of the one that has the focus"],
  ["y", "fit the charts to all values, or to most of them"],
  ["s", "smoothing: off, mean, EMA"],
  ["a", "zoom to what is wrong, one after the other"],
  ["m", "zoom to the decisions, the newest first"],
  ["c", "filter the scalars: more charts"],
  ["w", "what if: try a stopping rule"],
  ["e", "export"],
  ["d", "dark or light"],
  ["Esc", "undo the last change of what is shown"],
  ["S R C P V", "stop, set the learning rate, checkpoint, pause, set another parameter: it asks back first"],
];
const MOUSE: [string, string][] = [
  ["Drag", "zoom to a part; two fingers do so, too"],
  ["Shift + drag", "move along the axis; so does a wheel that turns sideways"],
  ["Ctrl + wheel", "zoom"],
  ["Double click", "the steps of all runs"],
  ["Click", "look at the nearest run; on a mark: what was decided, and why"],
];
const SIGNS: [string, string][] = [
  ["▼", "a rule acted"],
  ["▽", "suggested or refused"],
  ["☻", "a person did it"],
  ["↻", "the run was resumed"],
  ["✕", "something failed"],
  ["◆", "values that are not finite, with their count"],
  ["▲ ▼ and a value", "what reaches beyond the edge of the chart"],
];

export class Dialog {
  private readonly root = h("dialog", { class: "dialog", "aria-labelledby": "dialog-title" }) as HTMLDialogElement;
  /** The request that is shown, to be told of what becomes of it. */
  following = "";

  constructor() {
    document.body.append(this.root);
    this.root.addEventListener("close", () => {
      this.following = "";
      const focused = document.activeElement;
      if (focused instanceof HTMLElement && this.root.contains(focused)) focused.blur();
    });
    this.root.addEventListener("click", (event) => event.target === this.root && this.close());
  }

  get open(): boolean {
    return this.root.open;
  }

  close(): void {
    this.root.close();
  }

  field<E extends HTMLElement>(selector: string): E | null {
    return this.root.querySelector<E>(selector);
  }

  show(title: string, ...children: Child[]): void {
    this.root.classList.remove("wide");
    morph(this.root, []);
    this.root.append(
      h(
        "div",
        { class: "inside" },
        h(
          "div",
          { class: "bar" },
          h("h2", { id: "dialog-title" }, title),
          h("button", { type: "button", class: "quiet-button", "data-do": "close", "aria-label": "Close" }, "✕"),
        ),
        ...children.filter((child): child is Node | string => Boolean(child)),
      ),
    );
    if (!this.root.open) this.root.showModal();
  }

  /** Puts something into a place of it. */
  fill(selector: string, ...children: Child[]): void {
    const place = this.field(selector);
    if (place) morph(place, children);
  }

  help(): void {
    const list = (rows: [string, string][], name: (key: string) => Child[]) =>
      h("dl", { class: "keys" }, ...rows.flatMap(([key, text]) => [h("dt", {}, ...name(key)), h("dd", {}, text)]));
    const pressed = (key: string) =>
      key.split(" ").map((one) => (one === "…" ? h("span", {}, one) : h("kbd", {}, one)));
    const plain = (key: string) => [key];
    this.show(
      "Keys",
      list(KEYS, pressed),
      h("h3", {}, "Mouse and fingers"),
      list(MOUSE, plain),
      h("h3", {}, "Signs"),
      list(SIGNS, plain),
    );
  }

  /** Says all of a decision, or lists some. */
  marks(marks: Mark[]): void {
    if (marks.length === 1) {
      this.mark(marks[0]!);
      return;
    }
    this.show(`${whole(marks.length)} decisions`, markTable(marks));
    this.root.classList.add("wide");
  }

  mark(mark: Mark): void {
    this.show(cut(mark.what, 200), ...markInWords(mark));
  }

  words(title: string, text: string): void {
    this.show(title, h("p", {}, cut(text, 2000)));
  }

  steer(one: Steerable, others: Steerable[], runName: string): void {
    const isSet = one.word === "set";
    const bounds = one.low === null && one.high === null ? "" : `from ${one.low ?? "any"} to ${one.high ?? "any"}`;
    const now = one.value === null ? "" : `now ${number(one.value)}`;
    this.show(
      nameOf(one).replace("…", ""),
      h("p", { class: "mute" }, "Run ", h("b", {}, cut(runName, 120)), one.note ? ` · ${cut(one.note, 300)}` : ""),
      isSet && others.length > 1
        ? h(
            "label",
            { class: "field-row" },
            "Parameter",
            h(
              "select",
              { id: "ask-name" },
              ...others.map((other) =>
                h("option", { value: other.name, selected: other.name === one.name }, cut(other.name, 80)),
              ),
            ),
          )
        : null,
      isSet
        ? h(
            "label",
            { class: "field-row" },
            "New value",
            h("input", {
              id: "ask-value",
              type: "text",
              inputmode: "decimal",
              autocomplete: "off",
              "aria-describedby": "ask-bounds",
            }),
          )
        : null,
      isSet ? h("p", { id: "ask-bounds", class: "mute" }, [now, bounds].filter(Boolean).join(" · ")) : null,
      h(
        "label",
        { class: "field-row" },
        "Reason",
        h("input", {
          id: "ask-reason",
          type: "text",
          maxlength: 500,
          autocomplete: "off",
          placeholder: "for the run's record",
        }),
      ),
      h(
        "p",
        { class: "mute" },
        "It is written down with your name and the reason. The run decides, at its next safe point.",
      ),
      h("p", { id: "ask-problem", class: "bad", role: "alert" }),
      h("div", { id: "ask-state", role: "status" }),
      h(
        "div",
        { id: "ask-buttons", class: "buttons" },
        h("button", { type: "button", "data-do": "close" }, "Cancel"),
        h(
          "button",
          {
            type: "button",
            class: one.word === "stop" ? "danger solid" : "solid",
            "data-do": "ask",
            "data-arg": `${one.word}/${one.name}`,
          },
          isSet ? "Ask for it" : nameOf(one).replace("…", ""),
        ),
      ),
    );
    this.field(isSet ? "#ask-value" : "#ask-reason")?.focus();
  }

  /** Shows how far a request has come. */
  asked(one: Asked): void {
    this.following = one.id;
    this.fill("#ask-problem");
    this.fill("#ask-state", askedLine(one));
    this.fill("#ask-buttons", h("button", { type: "button", class: "solid", "data-do": "close" }, "Close"));
  }

  follow(screen: Screen): void {
    const one = this.following && screen.asked.find((request) => request.id === this.following);
    if (one) this.fill("#ask-state", askedLine(one));
  }

  whatIf(rule: string): void {
    this.show(
      "What if",
      h("p", { class: "mute" }, "A stopping rule is run over what was recorded: the same code that runs in training."),
      h(
        "label",
        { class: "field-row" },
        "Rule",
        h("input", {
          id: "rule",
          type: "text",
          value: rule,
          spellcheck: "false",
          autocomplete: "off",
          placeholder: "EarlyStopping:val/accuracy:mode=max:patience=3",
        }),
      ),
      h("p", { id: "rule-problem", class: "bad", role: "alert" }),
      h("div", { id: "rule-found", class: "scroll", role: "status" }),
      h(
        "div",
        { class: "buttons" },
        h("button", { type: "button", "data-do": "forget-rule" }, "Take it off the charts"),
        h("button", { type: "button", class: "solid", "data-do": "try-rule" }, "Try it"),
      ),
    );
    this.root.classList.add("wide");
    this.field("#rule")?.focus();
  }

  tried(found: WhatIf, names: Map<string, string>): void {
    this.fill("#rule-problem", found.error ? cut(found.error, 600) : "");
    const rules = new Set(found.rows.map((row) => row.rule)).size > 1;
    const heads = ["run", ...(rules ? ["rule"] : []), ...found.heads];
    const row = (one: WhatIf["rows"][number]) =>
      h(
        "tr",
        {},
        h("td", {}, h("bdi", {}, cut(names.get(one.run) ?? one.run, 60))),
        rules ? h("td", {}, cut(one.rule, 120)) : null,
        ...(one.error
          ? [h("td", { class: "bad", colspan: found.heads.length }, cut(one.error, 300))]
          : one.cells.map((cell) => h("td", {}, cut(cell, 60)))),
      );
    this.fill(
      "#rule-found",
      h("p", { class: "warn" }, cut(found.label, 200)),
      found.rows.length
        ? h(
            "table",
            {},
            h("thead", {}, h("tr", {}, ...heads.map((head) => h("th", { scope: "col" }, head)))),
            h("tbody", {}, ...found.rows.map(row)),
          )
        : null,
      found.waiting ? h("p", { class: "mute" }, `${found.waiting} to go…`) : null,
    );
  }

  exports(live: boolean): void {
    this.show(
      "Export",
      h(
        "p",
        {},
        h("button", { type: "button", class: "solid", "data-do": "picture" }, "Picture of these charts (PNG)"),
        h("span", { class: "mute" }, " as they are on the screen, twice as fine, with the truth below each"),
      ),
      live
        ? h(
            "p",
            {},
            h("button", { type: "button", class: "solid", "data-do": "page" }, "Page of this run (HTML)"),
            h("span", { class: "mute" }, " one file with the data in it; it opens without a server and cannot steer"),
          )
        : null,
      h("p", { class: "mute" }, "The address of this page, without its token, brings back what is shown now."),
      h("p", { id: "export-state", role: "status" }),
    );
  }
}
