/** Colours of runs, as they are on the ground that the page has now; `theme.ts` says which one that is. */

import type { Colour } from "./contract";

export function colourNow(colour: Colour): string {
  const text = isDark() ? colour.dark : colour.light;
  return /^#[0-9a-f]{6}$/i.test(text) ? text : "#888888";
}

export function greyNow(): string {
  return isDark() ? "#7b818c" : "#8a8f98";
}

function isDark(): boolean {
  return document.documentElement.dataset.theme === "dark";
}
