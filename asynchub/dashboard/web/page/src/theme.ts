/** Light or dark: as the system has it, or as the reader chose. */

import type { Palette } from "./chart";

const KEPT = "asynchub-theme";
const CHOICES = ["auto", "light", "dark"] as const;
export type Choice = (typeof CHOICES)[number];

const system = matchMedia("(prefers-color-scheme: dark)");
const told: (() => void)[] = [];
let choice: Choice = "auto";

/** Takes up the choice of last time. */
export function startTheme(): void {
  try {
    const kept = localStorage.getItem(KEPT);
    choice = CHOICES.find((one) => one === kept) ?? "auto";
  } catch {
    choice = "auto"; // storage is switched off: the choice lasts until the next reload
  }
  show();
  system.addEventListener("change", show);
}

export function chosen(): Choice {
  return choice;
}

/** Goes on to the next choice. */
export function turnTheme(): void {
  choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length]!;
  try {
    localStorage.setItem(KEPT, choice);
  } finally {
    show();
  }
}

function isDark(): boolean {
  return choice === "dark" || (choice === "auto" && system.matches);
}

export function onTheme(tell: () => void): void {
  told.push(tell);
}

/** Returns the colours of the page for what is drawn on a canvas. */
export function palette(): Palette {
  const style = getComputedStyle(document.documentElement);
  const read = (name: string) => style.getPropertyValue(`--${name}`).trim();
  return {
    ink: read("ink"),
    mute: read("mute"),
    grid: read("grid"),
    card: read("card"),
    bad: read("bad"),
    accent: read("accent"),
    warn: read("warn"),
  };
}

function show(): void {
  document.documentElement.dataset.theme = isDark() ? "dark" : "light";
  for (const tell of told) tell();
}
