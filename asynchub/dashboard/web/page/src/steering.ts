/** Requests to a run: what is to be asked, with a confirmation and a reason, and what becomes of it. */

import type { Asked, Steerable } from "./contract";
import type { Dialog } from "./dialogs";
import { cut, h } from "./dom";
import { number } from "./format";
import { nameOf } from "./naming";
import type { Page } from "./page";
import { askedLine } from "./story";

/** Asks the reader what is to be asked of the run. */
export function steer(page: Page, arg: string): void {
  const { screen, dialog, source } = page;
  if (!screen || !source.live) return;
  const [word, name] = split(arg);
  const alike = screen.steerable.filter((one) => one.word === word);
  const one = alike.find((other) => other.name === name) ?? (word === "set" && !name ? alike[0] : undefined);
  if (one) show(dialog, one, alike, screen.row.name);
  else if (screen.steering) dialog.words("Steering", screen.steering);
  else dialog.words("Steering", `This run does not offer that: ${name || word}.`);
}

function show(dialog: Dialog, one: Steerable, others: Steerable[], runName: string): void {
  const isSet = one.word === "set";
  const bounds = one.low === null && one.high === null ? "" : `from ${one.low ?? "any"} to ${one.high ?? "any"}`;
  const now = one.value === null ? "" : `now ${number(one.value)}`;
  dialog.show(
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
  dialog.field(isSet ? "#ask-value" : "#ask-reason")?.focus();
}

/** Asks the run what the reader has said. */
export async function ask(page: Page, arg: string): Promise<void> {
  const { dialog } = page;
  const [word, name] = split(arg);
  const chosen = dialog.field<HTMLSelectElement>("#ask-name")?.value ?? name;
  const one = page.screen?.steerable.find((other) => other.word === word && other.name === chosen);
  const value = valueOf(dialog, one);
  if (!one || !page.screen || value === undefined) return;
  const button = dialog.field<HTMLButtonElement>("[data-do=ask]");
  if (button) button.disabled = true;
  const reason = dialog.field<HTMLInputElement>("#ask-reason")?.value.trim() ?? "";
  try {
    const asked: Asked = await page.source.ask({
      run: page.screen.row.id,
      word,
      name: chosen,
      value,
      reason,
      id: identity(),
    });
    showAsked(dialog, asked);
  } catch (error) {
    dialog.fill("#ask-problem", (error as Error).message);
    if (button) button.disabled = false;
  }
}

/** Shows how far a request has come, and how it goes on. */
function showAsked(dialog: Dialog, one: Asked): void {
  dialog.fill("#ask-problem");
  dialog.fill("#ask-state", askedLine(one));
  dialog.fill("#ask-buttons", h("button", { type: "button", class: "solid", "data-do": "close" }, "Close"));
  dialog.follow = (screen) => {
    const now = screen.asked.find((request) => request.id === one.id);
    if (now) dialog.fill("#ask-state", askedLine(now));
  };
}

/** Returns the value that was typed, null where none is wanted; undefined, having said why, if it is none. */
function valueOf(dialog: Dialog, one: Steerable | undefined): number | null | undefined {
  if (one?.word !== "set") return null;
  const text = dialog.field<HTMLInputElement>("#ask-value")?.value.trim() ?? "";
  const value = Number(text);
  let problem = "";
  if (text === "" || !Number.isFinite(value)) problem = `A number is wanted, got "${text.slice(0, 60)}".`;
  else if (one.low !== null && value < one.low) problem = `The run takes nothing below ${one.low}.`;
  else if (one.high !== null && value > one.high) problem = `The run takes nothing above ${one.high}.`;
  dialog.fill("#ask-problem", problem);
  return problem ? undefined : value;
}

function split(arg: string): [string, string] {
  const at = arg.indexOf("/");
  return at < 0 ? [arg, ""] : [arg.slice(0, at), arg.slice(at + 1)];
}

function identity(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
